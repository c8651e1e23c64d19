// The choice of the arithmetic, and the limits of the kernels.
#include "cuda/conv_transpose2d/launchers.h"

#include "cuda/conv_transpose2d/passes.h"

namespace fastgan::cuda {
namespace {

const Passes& passes(Dtype dtype, bool tf32) {
  switch (dtype) {
    case Dtype::bfloat16:
      return bfloat16_passes();
    case Dtype::float16:
      return float16_passes();
    case Dtype::float64:
      return float64_passes();
    case Dtype::float32:
      break;
  }
  return tf32 ? tf32_passes() : float32_passes();
}

// Coordinates are 32-bit integers, also those that a tap brings outside the image; offsets are 64-bit.
bool fits(const ConvTranspose2dShape& s) {
  constexpr int64_t limit = int64_t{1} << 29;
  if (s.c_in >= limit || s.c_out >= limit) return false;
  for (int i = 0; i < 2; ++i) {
    const int64_t reach = s.dilation[i] * s.kernel[i];
    if (s.in[i] >= limit || s.out[i] >= limit || s.stride[i] >= limit || s.padding[i] >= limit || reach >= limit) {
      return false;
    }
  }
  return s.kernel[0] * s.kernel[1] < limit;
}

cudaError_t count_multiprocessors(int* count) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

// body(passes, multiprocessors), unless the shape is beyond the kernels or the device does not answer.
template <class Body>
cudaError_t with_passes(const ConvTranspose2dShape& shape, bool tf32, Body body) {
  if (!fits(shape)) return cudaErrorNotSupported;
  int multiprocessors = 0;
  const cudaError_t error = count_multiprocessors(&multiprocessors);
  return error == cudaSuccess ? body(passes(shape.dtype, tf32), multiprocessors) : error;
}

}  // namespace

cudaError_t conv_transpose2d_forward(const ConvTranspose2dShape& shape, bool tf32, const void* x, const void* weight,
                                     const void* bias, void* y, cudaStream_t stream) {
  return with_passes(shape, tf32, [&](const Passes& passes, int multiprocessors) {
    return passes.forward(shape, multiprocessors, x, weight, bias, y, stream);
  });
}

cudaError_t conv_transpose2d_input_gradient(const ConvTranspose2dShape& shape, bool tf32, const void* dy,
                                            const void* weight, void* dx, cudaStream_t stream) {
  return with_passes(shape, tf32, [&](const Passes& passes, int multiprocessors) {
    return passes.input_gradient(shape, multiprocessors, dy, weight, dx, stream);
  });
}

cudaError_t conv_transpose2d_workspace(const ConvTranspose2dShape& shape, bool tf32, int64_t* bytes) {
  return with_passes(shape, tf32, [&](const Passes& passes, int multiprocessors) {
    *bytes = passes.workspace(shape, multiprocessors);
    return cudaSuccess;
  });
}

cudaError_t conv_transpose2d_weight_gradient(const ConvTranspose2dShape& shape, bool tf32, const void* dy,
                                             const void* x, void* dweight, void* workspace, cudaStream_t stream) {
  return with_passes(shape, tf32, [&](const Passes& passes, int multiprocessors) {
    return passes.weight_gradient(shape, multiprocessors, dy, x, dweight, workspace, stream);
  });
}

}  // namespace fastgan::cuda
