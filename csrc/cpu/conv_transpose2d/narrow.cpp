// conv_transpose2d with few output channels: products of source pixels with (tap, output channel) pairs, which fill the
// vectors that the output channels alone would leave nearly empty. Each product is then added to the one target pixel
// that its tap brings it to: a target pixel is a sum in the order of the source rows and the taps, whoever computes it.
#include "cpu/conv_transpose2d/narrow.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd/tiles.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kSumBytes = 128 << 10;  // of the target, for one block
constexpr int64_t kItemsPerThread = 4;

template <class S, class T>
class NarrowForward {
 public:
  using A = Accumulate<T>;

  // Whether the products are at most half of what one vector for each tap would take.
  static bool serves(const ConvTranspose2dShape& s, int lanes) {
    const int64_t taps = s.kernel[0] * s.kernel[1];
    return s.groups == 1 && 2 * s.c_out <= lanes && 2 * ceil_div(taps * s.c_out, lanes) <= taps;
  }

  NarrowForward(const ConvTranspose2dShape& s, const TileKernels<S, T>& kernels, const T* x, const T* weight,
                const T* bias, T* y)
      : s_(s),
        kernels_(kernels),
        x_(x),
        y_(y),
        lanes_(kernels.gemm.lanes),
        depth_(ceil_div(s.c_in, G) * G),
        columns_(s.kernel[0] * s.kernel[1] * s.c_out),
        width_(ceil_div(columns_, lanes_) * lanes_),
        weight_(depth_ * width_),
        in_place_(std::is_same_v<S, T> && s.layout == Layout::nhwc && s.c_in == depth_),
        rows_(s.out[0]) {
    pack(weight);
    for (int64_t o = 0; o < s.c_out; ++o) bias_.push_back(bias != nullptr ? element<A>(bias[o]) : A{});
    const int64_t row_bytes = s.out[1] * s.c_out * static_cast<int64_t>(sizeof(A));
    const int64_t wanted = kItemsPerThread * thread_count();
    while (rows_ > 1 && (rows_ * row_bytes > kSumBytes || s.n * ceil_div(s.out[0], rows_) < wanted)) {
      rows_ = (rows_ + 1) / 2;
    }
  }

  void run() const {
    const int64_t blocks = ceil_div(s_.out[0], rows_);
    parallel_for(s_.n * blocks, 1, [&](int64_t begin, int64_t end) {
      const Scratch<S> line(in_place_ ? 0 : s_.in[1] * depth_);
      if (!in_place_) std::fill_n(line.get(), s_.in[1] * depth_, S{});
      const Scratch<A> products(s_.in[1] * width_);
      const Scratch<A> sums(rows_ * s_.out[1] * s_.c_out + lanes_);  // whole vectors are read
      std::fill_n(sums.get(), rows_ * s_.out[1] * s_.c_out + lanes_, A{});
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % blocks * rows_, last = std::min(first + rows_, s_.out[0]);
        block(i / blocks, first, last, line.get(), products.get(), sums.get());
      }
    });
  }

 private:
  static constexpr int64_t G = kTileGroup<S>;

  int64_t panel_width(int64_t first) const { return std::min(width_ - first, kMaxTileVectors * lanes_); }

  // Panels of (tap, output channel) pairs in the weight's own order, source channels along k.
  void pack(const T* weight) {
    std::fill_n(weight_.get(), depth_ * width_, S{});
    for (int64_t first = 0; first < width_; first += panel_width(first)) {
      const int64_t width = panel_width(first), columns = std::min(width, columns_ - first);
      S* const to = weight_.get() + depth_ * first;
      if constexpr (std::is_same_v<S, T>) {
        kernels_.pixels.group(weight + first, columns_, to, width, s_.c_in, columns);
      } else {
        kernels_.pixels.from_pixels(weight + first, columns_, to, width, s_.c_in, columns);
      }
    }
  }

  // Target rows [first, last) of image n.
  void block(int64_t n, int64_t first, int64_t last, S* line, A* products, A* sums) const {
    for (int64_t o = 0; o < s_.c_out; ++o) {
      for (int64_t i = 0; i < (last - first) * s_.out[1]; ++i) sums[i * s_.c_out + o] = bias_[static_cast<size_t>(o)];
    }
    const int64_t reach = (s_.kernel[0] - 1) * s_.dilation[0];
    const int64_t begin = std::max<int64_t>(0, ceil_div(first + s_.padding[0] - reach, s_.stride[0]));
    const int64_t end = std::min(s_.in[0], (last - 1 + s_.padding[0]) / s_.stride[0] + 1);
    for (int64_t row = begin; row < end; ++row) {
      multiply(n, row, line, products);
      for (int64_t tap = 0; tap < s_.kernel[0]; ++tap) {
        const int64_t target = row * s_.stride[0] - s_.padding[0] + tap * s_.dilation[0];
        if (target >= first && target < last) add(tap, products, sums + (target - first) * s_.out[1] * s_.c_out);
      }
    }
    write(n, first, last, sums);
  }

  // The products of every pixel of one source row, width_ apart.
  void multiply(int64_t n, int64_t row, S* line, A* products) const {
    const int64_t width = s_.in[1], plane = s_.in[0] * width;
    const T* const pixels = x_ + (n * s_.in[0] + row) * width * s_.c_in;
    const S* a = line;
    if (s_.layout == Layout::nchw) {
      kernels_.pixels.from_planes(x_ + n * s_.c_in * plane + row * width, plane, line, depth_, width, s_.c_in);
    } else if (!in_place_) {
      kernels_.pixels.from_pixels(pixels, s_.c_in, line, depth_, width, s_.c_in);
    }
    if constexpr (std::is_same_v<S, T>) a = in_place_ ? pixels : line;
    GemmTile<S, T> tile{};
    tile.count = 1;
    tile.row = depth_;
    tile.step = G;
    tile.out_row = width_;
    for (int64_t first = 0; first < width_; first += panel_width(first)) {
      const int64_t vectors = panel_width(first) / lanes_, tiles = ceil_div(width, kernels_.gemm.rows);
      for (int64_t t = 0, j = 0; t < tiles; ++t) {
        const int64_t size = (width - j) / (tiles - t);
        const GemmRun<S> run{a + j * depth_, weight_.get() + depth_ * first, depth_ / G};
        tile.runs = &run;
        tile.c = products + j * width_ + first;
        kernels_.gemm.tile[vectors - 1][size - 1](tile);
        j += size;
      }
    }
  }

  // Adds the products of one tap row to the target row that it brings them to.
  void add(int64_t tap_row, const A* products, A* target) const {
    const int64_t stride = s_.stride[1], channels = s_.c_out;
    for (int64_t tap = 0; tap < s_.kernel[1]; ++tap) {
      const int64_t offset = tap * s_.dilation[1] - s_.padding[1];
      const int64_t begin = offset < 0 ? ceil_div(-offset, stride) : 0;
      const int64_t end = offset < s_.out[1] ? std::min(s_.in[1], (s_.out[1] - 1 - offset) / stride + 1) : 0;
      const int64_t apart = s_.weight_stride[1], pitch = width_;
      const A* from = products + begin * pitch + tap_row * s_.weight_stride[2] + tap * s_.weight_stride[3];
      A* to = target + (begin * stride + offset) * channels;
      if (channels == 1) {
        for (int64_t j = begin; j < end; ++j, from += pitch, to += stride) *to += *from;
        continue;
      }
      for (int64_t j = begin; j < end; ++j, from += pitch, to += stride * channels) {
        for (int64_t o = 0; o < channels; ++o) to[o] += from[o * apart];
      }
    }
  }

  void write(int64_t n, int64_t first, int64_t last, const A* sums) const {
    const int64_t width = s_.out[1], channels = s_.c_out, plane = s_.out[0] * width;
    const auto slope = static_cast<A>(s_.slope);
    T* const image = y_ + n * channels * plane;
    if (s_.layout == Layout::nhwc || channels == 1) {
      kernels_.pixels.to_planes(sums, 1, image + first * width * channels, 0, (last - first) * width * channels, 1,
                                nullptr, s_.activation, slope);
      return;
    }
    for (int64_t row = first; row < last; ++row) {
      kernels_.pixels.to_planes(sums + (row - first) * width * channels, channels, image + row * width, plane, width,
                                channels, nullptr, s_.activation, slope);
    }
  }

  const ConvTranspose2dShape& s_;
  const TileKernels<S, T>& kernels_;
  const T* x_;
  T* y_;
  int64_t lanes_;
  int64_t depth_;            // source channels, whole pairs
  int64_t columns_, width_;  // (tap, output channel) pairs; whole vectors of them
  Scratch<S> weight_;        // a panel behind the other
  std::vector<A> bias_;
  bool in_place_;  // the tiles read x itself
  int64_t rows_;   // target rows of a block
};

template <class S, class T>
bool forward(const TileKernels<S, T>& kernels, const ConvTranspose2dShape& s, const void* x, const void* weight,
             const void* bias, void* y) {
  if (!NarrowForward<S, T>::serves(s, kernels.gemm.lanes)) return false;
  NarrowForward<S, T>(s, kernels, static_cast<const T*>(x), static_cast<const T*>(weight), static_cast<const T*>(bias),
                      static_cast<T*>(y))
      .run();
  return true;
}

}  // namespace

bool conv_transpose2d_narrow_forward(const ConvTranspose2dShape& shape, const void* x, const void* weight,
                                     const void* bias, void* y) {
  bool served = false;
  with_tiles(shape.dtype, [&](const auto& kernels) { served = forward(kernels, shape, x, weight, bias, y); });
  return served;
}

}  // namespace fastgan
