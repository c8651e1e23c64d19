#include "cuda/conv_transpose2d/make_passes.cuh"

namespace fastgan::cuda {

const Passes& float64_passes() {
  using Block = BlockShape<TensorDouble, 64, 64, 32, 32, 3, 2>;
  static const Passes passes = make_passes<Block, Block>();
  return passes;
}

}  // namespace fastgan::cuda
