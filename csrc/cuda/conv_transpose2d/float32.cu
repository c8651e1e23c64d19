#include "cuda/conv_transpose2d/make_passes.cuh"

namespace fastgan::cuda {

const Passes& tf32_passes() {
  static const Passes passes = make_passes<Medium<TensorTf32>, Medium<TensorTf32>, Small<TensorTf32>>();
  return passes;
}

const Passes& float32_passes() {
  using Block = BlockShape<SimtFloat, 64, 64, 32, 32, 3, 4>;
  static const Passes passes = make_passes<Block, Block>();
  return passes;
}

}  // namespace fastgan::cuda
