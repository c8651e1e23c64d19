// reflection_pad2d: rows are copied whole, and only border pixels are looked up one by one.
#include "cpu/reflection_pad/reflection_pad.h"

#include <algorithm>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/simd/kernels.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

// Either layout is a stack of images of rows of pixels: one channel each (NCHW), or all channels (innermost).
struct Images {
  int64_t count;
  PaddedImage image;

  explicit Images(const ReflectionPad& s) {
    const bool planes = s.layout == Layout::nchw;
    count = planes ? s.n * s.c : s.n;
    image = {s.h, s.w, planes ? 1 : s.c, s.left, s.right, s.top, s.bottom};
  }
};

int64_t mirrored(int64_t i, int64_t size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

template <class T>
void copy_pixel(const T* from, T* to, int64_t pixel) {
  if (pixel == 1) {
    *to = *from;
  } else {
    std::memcpy(to, from, static_cast<size_t>(pixel) * sizeof(T));
  }
}

// T is any type of the right size: padding only copies.
template <class T>
void forward_as(const Images& s, const void* input, void* output) {
  const PaddedImage& m = s.image;
  const int64_t pixel = m.pixel, height = m.height + m.top + m.bottom;
  const int64_t in_row = m.width * pixel, out_row = (m.width + m.left + m.right) * pixel;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, out_row));
  parallel_for(s.count * height, grain, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t i = mirrored(index % height - m.top, m.height);
      const T* const x = static_cast<const T*>(input) + (index / height * m.height + i) * in_row;
      T* const y = static_cast<T*>(output) + index * out_row + m.left * pixel;
      std::memcpy(y, x, static_cast<size_t>(in_row) * sizeof(T));
      for (int64_t j = 1; j <= m.left; ++j) copy_pixel(x + j * pixel, y - j * pixel, pixel);
      for (int64_t j = 1; j <= m.right; ++j) {
        copy_pixel(x + (m.width - 1 - j) * pixel, y + (m.width - 1 + j) * pixel, pixel);
      }
    }
  });
}

template <class T>
void backward_as(const Images& s, const void* gradient, void* result) {
  using A = Accumulate<T>;
  const FoldKernels<T>& k = kernels<T>().fold;
  const PaddedImage& m = s.image;
  const int64_t row = m.width * m.pixel;
  const int64_t padded = (m.height + m.top + m.bottom) * (m.width + m.left + m.right) * m.pixel;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row));
  parallel_for(s.count * m.height, grain, [&](int64_t begin, int64_t end) {
    const Scratch<A> sums(row);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t i = index % m.height;
      k.fold_rows(static_cast<const T*>(gradient) + index / m.height * padded, nullptr, m, i, i + 1, sums.get());
      k.store(sums.get(), static_cast<T*>(result) + index * row, row);
    }
  });
}

}  // namespace

void reflection_pad_forward(const ReflectionPad& shape, const void* x, void* y) {
  with_type<float, BFloat16, Half, double>(shape.dtype,
                                           [&](auto element) { forward_as<decltype(element)>(Images(shape), x, y); });
}

void reflection_pad_backward(const ReflectionPad& shape, const void* dy, void* dx) {
  with_type<float, BFloat16, Half, double>(
      shape.dtype, [&](auto element) { backward_as<decltype(element)>(Images(shape), dy, dx); });
}

}  // namespace fastgan
