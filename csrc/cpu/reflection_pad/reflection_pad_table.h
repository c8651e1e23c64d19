// The kernels of one instruction set for the adjoint of reflection padding, as function pointers.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

// A reflect-padded image of rows of `pixel` values each: (height + top + bottom, width + left + right) pixels.
struct PaddedImage {
  int64_t height, width, pixel;
  int64_t left, right, top, bottom;
};

template <class T>
struct FoldKernels {
  using A = Accumulate<T>;
  // Rows [begin, end) of the adjoint of the padding, plus those of the unpadded `inner` where it is not null: width *
  // pixel sums per row, in A.
  void (*fold_rows)(const T* padded, const T* inner, const PaddedImage& image, int64_t begin, int64_t end, A* out);
  // Rounds n sums to T.
  void (*store)(const A* in, T* out, int64_t n);
};

}  // namespace fastgan
