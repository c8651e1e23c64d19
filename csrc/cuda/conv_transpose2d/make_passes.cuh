// The passes of one arithmetic, from the kernels.
#pragma once

#include "cuda/conv_transpose2d/kernels.cuh"

namespace fastgan::cuda {

// WeightBlock cuts the weight gradient; the images are cut by the first of Blocks, largest first, that fills the
// device.
template <class WeightBlock, class... Blocks>
Passes make_passes() {
  return {
      [](const ConvTranspose2dShape& shape, int multiprocessors, const void* x, const void* weight, const void* bias,
         void* y,
         cudaStream_t stream) { return run_data<true, Blocks...>(shape, multiprocessors, x, weight, bias, y, stream); },
      [](const ConvTranspose2dShape& shape, int multiprocessors, const void* dy, const void* weight, void* dx,
         cudaStream_t stream) {
        return run_data<false, Blocks...>(shape, multiprocessors, dy, weight, nullptr, dx, stream);
      },
      [](const ConvTranspose2dShape& shape, int multiprocessors) {
        return WeightGradientLaunch<WeightBlock>(shape, multiprocessors).workspace();
      },
      [](const ConvTranspose2dShape& shape, int multiprocessors, const void* dy, const void* x, void* dweight,
         void* workspace, cudaStream_t stream) {
        return WeightGradientLaunch<WeightBlock>(shape, multiprocessors).run(shape, dy, x, dweight, workspace, stream);
      },
  };
}

// Blocks of the arithmetics on tensor cores. Warps of 64 x 64 sums read shared memory least for what they multiply.
template <class Math>
using Large = BlockShape<Math, 128, 128, 64, 64, 3, 2>;
template <class Math>
using Medium = BlockShape<Math, 128, 64, 64, 64, 3, 3>;
template <class Math>
using Small = BlockShape<Math, 64, 64, 32, 32, 3, 4>;

}  // namespace fastgan::cuda
