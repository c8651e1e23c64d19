// Which instruction set the kernels use.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/simd/kernels.h"

namespace fastgan {
namespace {

std::atomic<const Capability*> chosen{nullptr};

#if defined(FASTGAN_X86)
// Those of avx512, but for the norms of bfloat16, which gain from its rounding.
const AllKernels kernels_avx512_bf16 = [] {
  AllKernels all = kernels_avx512;
  Kernels<BFloat16>& k = all;
  k.norm = norm_avx512_bf16;
  k.batch_norm = batch_norm_avx512_bf16;
  return all;
}();
#endif

// Widest first.
const Capability kLevels[] = {
#if defined(FASTGAN_X86)
    {"avx512_bf16", &kernels_avx512_bf16, &tile_avx512_bf16},
    {"avx512", &kernels_avx512, nullptr},
    {"avx2", &kernels_avx2, nullptr},
#endif
    {"default", &kernels_default, nullptr},
};

// How many levels this processor cannot run.
int beyond() {
#if defined(FASTGAN_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? (__builtin_cpu_supports("avx512bf16") ? 0 : 1) : avx2 ? 2 : 3;
#else
  return 0;
#endif
}

// -1 for an unknown name. Names of another architecture are known: they leave its one level.
int level(const char* name) {
  const char* const names[] = {"avx512_bf16", "avx512", "avx2", "default"};
  constexpr int levels = sizeof(kLevels) / sizeof(kLevels[0]);
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(name, names[i]) == 0) return i < levels ? i : levels - 1;
  }
  return -1;
}

}  // namespace

bool limit_capability(const char* name) {
  const int limit = level(name);
  if (limit < 0) return false;
  chosen.store(&kLevels[std::max(limit, beyond())], std::memory_order_release);
  return true;
}

const Capability& capability() {
  const Capability* found = chosen.load(std::memory_order_acquire);
  if (found == nullptr) {
    const char* limit = std::getenv("FASTGAN_CPU_CAPABILITY");
    if (limit == nullptr || *limit == '\0') limit = "avx512_bf16";
    if (!limit_capability(limit)) {
      throw std::runtime_error(
          std::string("FASTGAN_CPU_CAPABILITY must be avx512_bf16, avx512, avx2 or default, got '") + limit + "'");
    }
    found = chosen.load(std::memory_order_acquire);
  }
  return *found;
}

}  // namespace fastgan
