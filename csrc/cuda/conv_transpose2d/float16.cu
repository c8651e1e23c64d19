#include "cuda/conv_transpose2d/make_passes.cuh"

namespace fastgan::cuda {

const Passes& float16_passes() {
  using Math = TensorHalf<Half>;
  static const Passes passes = make_passes<Medium<Math>, Large<Math>, Medium<Math>, Small<Math>>();
  return passes;
}

}  // namespace fastgan::cuda
