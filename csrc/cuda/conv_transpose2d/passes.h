// What each arithmetic offers to launchers.cu: its three passes, instantiated in a file of its own.
#pragma once

#include "cuda/conv_transpose2d/launchers.h"

namespace fastgan::cuda {

// `multiprocessors` of the current device decides how the work is cut.
struct Passes {
  cudaError_t (*forward)(const ConvTranspose2dShape& shape, int multiprocessors, const void* x, const void* weight,
                         const void* bias, void* y, cudaStream_t stream);
  cudaError_t (*input_gradient)(const ConvTranspose2dShape& shape, int multiprocessors, const void* dy,
                                const void* weight, void* dx, cudaStream_t stream);
  int64_t (*workspace)(const ConvTranspose2dShape& shape, int multiprocessors);
  cudaError_t (*weight_gradient)(const ConvTranspose2dShape& shape, int multiprocessors, const void* dy, const void* x,
                                 void* dweight, void* workspace, cudaStream_t stream);
};

const Passes& bfloat16_passes();
const Passes& float16_passes();
const Passes& tf32_passes();
const Passes& float32_passes();
const Passes& float64_passes();

}  // namespace fastgan::cuda
