// The conv_transpose2d ops on CUDA tensors: device, stream, workspace; checks and allocation are those of every device.
#include <optional>
#include <string>

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "conv_transpose2d_call.h"
#include "cuda/conv_transpose2d/launchers.h"

namespace fastgan::cuda {
namespace {

// Whether torch's flags let float32 convolutions round to TF32. Releases differ in how the question names convolutions.
template <class Op>
bool convolutions_allowed(bool (at::Context::*allowed)(std::optional<Op>) const) {
  return (at::globalContext().*allowed)(Op::CONV);
}
[[maybe_unused]] bool convolutions_allowed(bool (at::Context::*allowed)(const std::string&) const) {
  return (at::globalContext().*allowed)("conv");
}
bool tf32() { return convolutions_allowed(&at::Context::allowTF32CuDNN); }

// Raises what a launcher reports.
void check(cudaError_t error, const ConvTranspose2dShape& s, const char* op) {
  TORCH_CHECK_VALUE(error != cudaErrorNotSupported, op, ": the CUDA kernels take fewer than 2^29 channels and pixels ",
                    "along a side, also in stride, padding and dilated kernel, got ", s.c_in, " and ", s.c_out,
                    " channels of ", s.in[0], " x ", s.in[1], " and ", s.out[0], " x ", s.out[1], " pixels");
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    (void)cudaGetLastError();  // no later call shall report it again
    TORCH_CHECK(false, op, ": the CUDA kernels were not compiled for this GPU; they need compute capability 8.0: name ",
                "it in TORCH_CUDA_ARCH_LIST and reinstall fastgan, or choose another backend");
  }
  C10_CUDA_CHECK(error);
}

// The weight in the order that the kernels read; a copy where it is not (it is small beside the images).
Tensor by_taps(const Tensor& weight) { return weight.permute({0, 2, 3, 1}).contiguous(); }

Tensor forward_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                  at::IntArrayRef padding, at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation,
                  std::string_view activation, double negative_slope) {
  const c10::cuda::CUDAGuard guard(x.device());
  const ConvTranspose2dCall call = conv_transpose2d_call(x, weight, bias, stride, padding, output_padding, groups,
                                                         dilation, activation, negative_slope, true);
  if (!call.empty) {
    const Tensor taps = by_taps(weight);
    check(conv_transpose2d_forward(call.shape, tf32(), x.const_data_ptr(), taps.const_data_ptr(), data(bias),
                                   call.result.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()),
          call.shape, "conv_transpose2d");
  }
  return call.result;
}

Tensor input_gradient_op(const Tensor& dy, const Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding,
                         at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(dy.device());
  const ConvTranspose2dCall call =
      conv_transpose2d_input_gradient_call(dy, weight, stride, padding, output_padding, groups, dilation, true);
  if (!call.empty) {
    const Tensor taps = by_taps(weight);
    check(conv_transpose2d_input_gradient(call.shape, tf32(), dy.const_data_ptr(), taps.const_data_ptr(),
                                          call.result.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()),
          call.shape, "conv_transpose2d_input_gradient");
  }
  return call.result;
}

Tensor weight_gradient_op(const Tensor& dy, const Tensor& x, at::IntArrayRef kernel, bool channels_last,
                          at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef output_padding,
                          int64_t groups, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(x.device());
  const ConvTranspose2dCall call = conv_transpose2d_weight_gradient_call(dy, x, kernel, channels_last, stride, padding,
                                                                         output_padding, groups, dilation, true);
  if (!call.empty) {
    const char* const op = "conv_transpose2d_weight_gradient";
    int64_t bytes = 0;
    check(conv_transpose2d_workspace(call.shape, tf32(), &bytes), call.shape, op);
    const auto options = x.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous);
    const Tensor workspace = at::empty({bytes}, options);
    check(conv_transpose2d_weight_gradient(call.shape, tf32(), dy.const_data_ptr(), x.const_data_ptr(),
                                           call.result.mutable_data_ptr(), workspace.mutable_data_ptr(),
                                           c10::cuda::getCurrentCUDAStream()),
          call.shape, op);
  }
  return call.result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan_csrc, CUDA, m) {
  m.impl("conv_transpose2d", forward_op);
  m.impl("conv_transpose2d_input_gradient", input_gradient_op);
  m.impl("conv_transpose2d_weight_gradient", weight_gradient_op);
}

}  // namespace fastgan::cuda
