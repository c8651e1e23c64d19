// Transposed convolution on CUDA devices: raw pointers, sizes and a stream; checked and allocated by the binding.
//
// Weights are dense in the order (c_in, kH, kW, c_out / groups), torch's channels_last, whatever the layout of the
// images (shape.weight_stride is that of the weight gradient only). `tf32`: float32 products may be rounded to TF32.
// Launches go to `stream` of the current device; nothing is allocated and nothing waits, so that they can be captured
// in a graph. The same call on the same kind of device gives the same bits. cudaErrorNotSupported: a size is beyond
// the kernels.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "conv_transpose2d_shape.h"

namespace fastgan::cuda {

// y = activation(transposed convolution of x + bias); bias may be null.
cudaError_t conv_transpose2d_forward(const ConvTranspose2dShape& shape, bool tf32, const void* x, const void* weight,
                                     const void* bias, void* y, cudaStream_t stream);

// dx: the convolution of dy with the same weights.
cudaError_t conv_transpose2d_input_gradient(const ConvTranspose2dShape& shape, bool tf32, const void* dy,
                                            const void* weight, void* dx, cudaStream_t stream);

// The bytes of workspace, aligned to 16, that the weight gradient needs on the current device.
cudaError_t conv_transpose2d_workspace(const ConvTranspose2dShape& shape, bool tf32, int64_t* bytes);

// dweight, in the strides of shape.weight_stride.
cudaError_t conv_transpose2d_weight_gradient(const ConvTranspose2dShape& shape, bool tf32, const void* dy,
                                             const void* x, void* dweight, void* workspace, cudaStream_t stream);

}  // namespace fastgan::cuda
