// The namespace torch.ops.fastgan_csrc: what holds for all of its ops. Each op has a file of its own beside this one.
#include <string>
#include <string_view>

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "cpu/simd/kernels.h"

namespace fastgan {
namespace {

std::string cpu_capability() { return capability().name; }

void limit_cpu_capability(std::string_view name) {
  const std::string level(name);
  TORCH_CHECK_VALUE(limit_capability(level.c_str()),
                    "the CPU capability must be avx512_bf16, avx512, avx2 or default, got '", level, "'");
}

}  // namespace

TORCH_LIBRARY(fastgan_csrc, m) {
  // The instruction set in use, and an upper limit for it from now on (avx512_bf16, avx512, avx2, default), for tests.
  m.def("cpu_capability() -> str", cpu_capability);
  m.def("limit_cpu_capability(str name) -> ()", limit_cpu_capability);
}

// No op here has a derivative: where one would be lost, the backward pass is an error. The ops in Python have them.
TORCH_LIBRARY_IMPL(fastgan_csrc, Autograd, m) {
  for (const char* name :
       {"instance_norm", "instance_norm_backward", "pointwise_loss", "reflection_pad2d", "reflection_pad2d_backward",
        "batch_norm", "batch_norm_apply", "batch_norm_backward", "conv_transpose2d", "conv_transpose2d_input_gradient",
        "conv_transpose2d_weight_gradient", "reflection_pad_conv2d", "reflection_pad_conv2d_input_gradient",
        "reflection_pad_conv2d_weight_gradient"}) {
    m.impl(name, torch::autograd::autogradNotImplementedFallback());
  }
}

}  // namespace fastgan
