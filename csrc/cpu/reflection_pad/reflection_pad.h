// reflection_pad2d on the CPU: raw pointers and sizes, checked and allocated by csrc/reflection_pad.cpp.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

struct ReflectionPad {
  Dtype dtype;
  Layout layout;
  int64_t n, c, h, w;  // of the tensor without padding
  int64_t left, right, top, bottom;
};

void reflection_pad_forward(const ReflectionPad& shape, const void* x, void* y);
void reflection_pad_backward(const ReflectionPad& shape, const void* dy, void* dx);

}  // namespace fastgan
