// What surrounds the register tiles of gemm.h: images of T (NCHW planes or NHWC pixels) become operands of S.
#pragma once

#include <cstdint>

#include "cpu/simd/gemm.h"
#include "types.h"

namespace fastgan {

template <class S, class T>
struct PixelKernels {
  using A = Accumulate<T>;

  // n elements of T as S.
  void (*copy)(const T* from, S* to, int64_t n);
  // to[p * pitch + c] = from[p * from_pitch + c]
  void (*from_pixels)(const T* from, int64_t from_pitch, S* to, int64_t pitch, int64_t pixels, int64_t channels);
  // to[p * pitch + c] = from[c * plane + p]
  void (*from_planes)(const T* from, int64_t plane, S* to, int64_t pitch, int64_t pixels, int64_t channels);
  // to[c * plane + p] = act(sums[p * pitch + c] + bias[c]); sums and bias (or null) are whole vectors of channels.
  void (*to_planes)(const A* sums, int64_t pitch, T* to, int64_t plane, int64_t pixels, int64_t channels, const A* bias,
                    Activation activation, A slope);
  // to[p * pitch + c] = from[p * from_pitch + c] in groups of kTileGroup pixels, whose elements lie side by side; an
  // incomplete group is filled up with zeros.
  void (*group)(const S* from, int64_t from_pitch, S* to, int64_t pitch, int64_t pixels, int64_t channels);
};

template <class S, class T>
struct TileKernels {
  GemmKernels<S, T> gemm;
  PixelKernels<S, T> pixels;
};

}  // namespace fastgan
