// Pointwise losses on the CPU: raw pointers and sizes, checked and allocated by csrc/losses.cpp.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

struct PointwiseLoss {
  Dtype dtype;  // not float16
  LossKind kind;
  int64_t count;
  const void* input;
  const void* target;  // or null: then `label`
  double label;
  void* value;  // elementwise losses, or null
  void* grad;   // elementwise derivatives, or null
};

// Returns the sum of the losses.
double pointwise_loss(const PointwiseLoss& args);

}  // namespace fastgan
