// Products of matrices in register tiles, the heart of the convolutions.
//
// A tile of up to `rows` x (1 or 2 vectors) sums stays in registers while the kernel walks through `runs`:
//
//     sum[i][j] = sum over runs, k < depth of  a[i * row + k * step] * b[k * width + j]
//
// a is read in place, one broadcast element at a time, so an image with channels innermost needs no packing; b is a
// packed panel, `width` columns (1 or 2 vectors) for each k. A convolution is one tile with a run for each tap.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

constexpr int kMaxTileRows = 14;
constexpr int kMaxTileVectors = 2;

// S is the element type of the operands: float, double, or BFloat16 for the dot-product kernels, which take elements of
// a and b in pairs along k: b[k][j] is then a pair, `depth` counts pairs, `row` and `step` count elements, and a pair
// of a lies side by side.
template <class S>
constexpr int64_t kTileGroup = 1;
template <>
inline constexpr int64_t kTileGroup<BFloat16> = 2;

template <class S>
struct GemmRun {
  const S* a;
  const S* b;
  int64_t depth;
};

// Either c or y is set.
template <class S, class T>
struct GemmTile {
  using A = Accumulate<T>;

  const GemmRun<S>* runs;
  int64_t count;
  int64_t row, step;  // of a

  A* c;  // sums go here, or are added where `add` is set: whole vectors, rows `out_row` apart
  bool add;
  T* y;  // act(sum + bias) goes here: `columns` elements a row, rows `out_row` apart
  int64_t out_row;
  int64_t columns;
  const A* bias;  // whole vectors, or null
  Activation activation;
  A slope;
};

template <class S, class T>
struct GemmKernels {
  int rows;   // the highest tile
  int lanes;  // sums in a vector
  // [vectors - 1][rows - 1]
  void (*tile[kMaxTileVectors][kMaxTileRows])(const GemmTile<S, T>& tile);
};

}  // namespace fastgan
