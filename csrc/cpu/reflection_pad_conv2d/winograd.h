// 3x3 convolutions of float32 and bfloat16 images by Winograd's F(4x4, 3x3), see winograd_table.h. All arithmetic
// is in float32.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

// The convolution of x, padded by reflection, with stride 1: images are channels innermost, dense.
struct WinogradShape {
  int64_t n, c, o;       // images, channels of x, channels of the result
  int64_t h, w;          // of x
  int64_t pad_h, pad_w;  // reflected pixels on either side
  Layout weight;         // of the (o, c, 3, 3) weights: nchw, or nhwc for (o, 3, 3, c) in memory

  int64_t out_h() const { return h + 2 * pad_h - 2; }
  int64_t out_w() const { return w + 2 * pad_w - 2; }
};

// bias (o) or null; y is (n, out_h, out_w, o). T is float or BFloat16.
template <class T>
void winograd_forward(const WinogradShape& shape, const T* x, const float* weight, const float* bias, T* y);

// dx is (n, h, w, c).
template <class T>
void winograd_input_gradient(const WinogradShape& shape, const T* dy, const float* weight, T* dx);

// dweight has the layout of the weights.
template <class T>
void winograd_weight_gradient(const WinogradShape& shape, const T* x, const T* dy, float* dweight);

}  // namespace fastgan
