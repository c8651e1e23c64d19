// The kernels of one instruction set for pointwise losses, as function pointers.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

template <class T>
struct LossKernels {
  using A = Accumulate<T>;
  // Returns the sum of the losses of n elements. target, value and grad may be null: then the target is `label`, and
  // no elementwise loss and no derivative are written.
  double (*block)(LossKind kind, const T* x, const T* target, A label, T* value, T* grad, int64_t n);
};

}  // namespace fastgan
