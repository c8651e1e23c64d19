// The adjoint of reflection padding, row by row: every padded pixel is added back onto the pixel that it mirrors.
#pragma once

#include "cpu/reflection_pad/reflection_pad_table.h"
#include "cpu/simd/simd.h"

namespace fastgan {
namespace FASTGAN_ISA {

// The padded rows (or columns) that show pixel i of an axis of `size`, the pixel's own place first.
struct Sources {
  int64_t at[3];
  int count;
};

FASTGAN_INLINE Sources sources_of(int64_t i, int64_t size, int64_t before, int64_t after) {
  Sources s = {{i + before, 0, 0}, 1};
  if (i >= 1 && i <= before) s.at[s.count++] = before - i;
  if (i <= size - 2 && i >= size - 1 - after) s.at[s.count++] = before + 2 * (size - 1) - i;
  return s;
}

// out[0:n] (+)= the sum over the source rows of n values from column `column` on, and of `more` where it is not null.
template <bool ADD, class T>
FASTGAN_INLINE void add_rows(const T* padded, int64_t row_size, const Sources& rows, int64_t column, const T* more,
                             Accumulate<T>* out, int64_t n) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = kLanes<A>;
  const T* const first = padded + rows.at[0] * row_size + column;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    Vec<A> sum = load(first + i);
    for (int k = 1; k < rows.count; ++k) sum += load(padded + rows.at[k] * row_size + column + i);
    if (more != nullptr) sum += load(more + i);
    if (ADD) sum += load(out + i);
    store(out + i, sum);
  }
  for (; i < n; ++i) {
    A sum = load_one(first + i);
    for (int k = 1; k < rows.count; ++k) sum += load_one(padded + rows.at[k] * row_size + column + i);
    if (more != nullptr) sum += load_one(more + i);
    if (ADD) sum += out[i];
    out[i] = sum;
  }
}

template <class T>
void fold_rows(const T* padded, const T* inner, const PaddedImage& image, int64_t begin, int64_t end,
               Accumulate<T>* out) {
  const int64_t w = image.width, pixel = image.pixel;
  const int64_t row_size = (w + image.left + image.right) * pixel;
  for (int64_t i = begin; i < end; ++i, out += w * pixel) {
    const Sources rows = sources_of(i, image.height, image.top, image.bottom);
    const T* const own = inner != nullptr ? inner + i * w * pixel : nullptr;
    add_rows<false>(padded, row_size, rows, image.left * pixel, own, out, w * pixel);
    for (int64_t j = 1; j <= image.left; ++j) {
      add_rows<true>(padded, row_size, rows, (image.left - j) * pixel, static_cast<const T*>(nullptr), out + j * pixel,
                     pixel);
    }
    for (int64_t j = w - 1 - image.right; j <= w - 2; ++j) {
      add_rows<true>(padded, row_size, rows, (image.left + 2 * (w - 1) - j) * pixel, static_cast<const T*>(nullptr),
                     out + j * pixel, pixel);
    }
  }
}

template <class T>
void store_sums(const Accumulate<T>* in, T* out, int64_t n) {
  constexpr int64_t lanes = kLanes<Accumulate<T>>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(out + i, load(in + i));
  for (; i < n; ++i) store_one(out + i, in[i]);
}

template <class T>
constexpr FoldKernels<T> fold_table() {
  return {fold_rows<T>, store_sums<T>};
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
