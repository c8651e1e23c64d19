// Which instruction set the kernels use.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace fastgan {
namespace {

std::atomic<const Kernels*> chosen{nullptr};

// Widest first.
int rank(const char* name) {
  const char* const names[] = {"avx512", "avx2", "default"};
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, names[i]) == 0) return i;
  }
  return -1;
}

const Kernels* widest(int limit) {
#if defined(FASTGAN_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (limit <= 0 && avx512) return &kernels_avx512;
  if (limit <= 1 && avx2) return &kernels_avx2;
#else
  (void)limit;
#endif
  return &kernels_default;
}

}  // namespace

bool limit_capability(const char* name) {
  const int limit = rank(name);
  if (limit < 0) return false;
  chosen.store(widest(limit), std::memory_order_release);
  return true;
}

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_acquire);
  if (table == nullptr) {
    const char* limit = std::getenv("FASTGAN_CPU_CAPABILITY");
    if (limit == nullptr || *limit == '\0') limit = "avx512";
    if (!limit_capability(limit)) {
      throw std::runtime_error(std::string("FASTGAN_CPU_CAPABILITY must be avx512, avx2 or default, got '") + limit +
                               "'");
    }
    table = chosen.load(std::memory_order_acquire);
  }
  return *table;
}

}  // namespace fastgan
