// The weight gradient of conv_transpose2d: dw[c, o, k] = sum over samples and pixels i of x[c, i] dy[o, i s - p + k d].
//
// A product of matrices with pixels along k: panels of x channels times (tap column, output channel) pairs of dy, for
// each tap row. Chunks of the pixels are staged, x as panels and dy as pixels with zeros around each row; then every
// (group, panel, tap row) adds its products. Chunks are the same whatever the threads, so the sums are, too.
#include "conv_transpose2d.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kChunkBytes = 2 << 20;  // staged at once: the last-level cache keeps it
constexpr int64_t kBlockPixels = 128;     // of one panel of x, which then stays in L1 for all tiles

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class S, class T>
class WeightGradient {
 public:
  using A = Accumulate<T>;
  static constexpr int64_t G = kTileGroup<S>;

  WeightGradient(const ConvTranspose2dShape& s, const TileKernels<S, T>& kernels, const T* dy, const T* x, T* dweight)
      : s_(s), kernels_(kernels), dy_(dy), x_(x), dweight_(dweight), in_(s.c_in / s.groups), out_(s.c_out / s.groups),
        lanes_(kernels.gemm.lanes), panels_(ceil_div(in_, kMaxTileVectors * lanes_)),
        merged_(s.dilation[1] == 1), reach_((s.kernel[1] - 1) * s.dilation[1] + 1),
        width_((s.in[1] - 1) * s.stride[1] + reach_), row_((width_ + (odd() ? reach_ : 0)) * out_ * G),
        x_row_(ceil_div(s.in[1], G) * G), sums_(items() * s.kernel[1] * out_ * widest()) {
    const int64_t dy_row_bytes = row_ * s.groups * static_cast<int64_t>(sizeof(S));
    const int64_t bytes = s.stride[0] * dy_row_bytes + x_row_ * padded_in() * static_cast<int64_t>(sizeof(S));
    rows_ = std::clamp<int64_t>(kChunkBytes / std::max<int64_t>(1, bytes), 1, s.in[0]);
    rows_ = ceil_div(s.in[0], ceil_div(s.in[0], rows_));
    images_ = rows_ < s.in[0] ? 1 : std::clamp<int64_t>(kChunkBytes / std::max<int64_t>(1, bytes * rows_), 1, s.n);
    dy_rows_ = std::min(s.out[0], (rows_ - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1);
  }

  void run() {
    const Scratch<S> x(images_ * rows_ * x_row_ * padded_in());
    const Scratch<S> dy(images_ * dy_rows_ * row_ * s_.groups);
    bool add = false;
    for (int64_t n = 0; n < s_.n; n += images_) {
      const int64_t images = std::min(images_, s_.n - n);
      for (int64_t first = 0; first < s_.in[0]; first += rows_) {
        const int64_t rows = std::min(rows_, s_.in[0] - first);
        const int64_t dy_first = std::clamp<int64_t>(dy_row(first, 0), 0, s_.out[0]);
        const int64_t dy_last = std::clamp<int64_t>(dy_row(first + rows - 1, s_.kernel[0] - 1) + 1, 0, s_.out[0]);
        stage(n, images, first, rows, dy_first, dy_last - dy_first, x.get(), dy.get());
        parallel_for(items(), 1, [&](int64_t begin, int64_t end) {
          std::vector<GemmRun<S>> runs;
          for (int64_t i = begin; i < end; ++i) products(i, images, first, rows, dy_first, x.get(), dy.get(), add, runs);
        });
        add = true;
      }
    }
    parallel_for(items(), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> turned(s_.kernel[1] * out_ * widest());
      for (int64_t i = begin; i < end; ++i) write(i, turned.get());
    });
  }

 private:
  bool odd() const { return G == 2 && s_.in[1] % 2 != 0; }
  int64_t widest() const { return kMaxTileVectors * lanes_; }
  int64_t padded_in() const { return s_.groups * panels_ * widest(); }
  int64_t items() const { return s_.groups * panels_ * s_.kernel[0]; }
  int64_t dy_row(int64_t x_row, int64_t tap) const {
    return x_row * s_.stride[0] + tap * s_.dilation[0] - s_.padding[0];
  }
  int64_t panel_width(int64_t panel) const { return in_ - panel * widest() > lanes_ ? widest() : lanes_; }

  // x becomes [group][panel][image][row][pixel][channel]; dy becomes [group][image][row][pixel][channel]. In pairs along
  // k, x has pixels 2 i and 2 i + 1 side by side, and dy each pixel beside the one that the next input pixel meets.
  void stage(int64_t n, int64_t images, int64_t first, int64_t rows, int64_t dy_first, int64_t dy_rows, S* x,
             S* dy) const {
    parallel_for(images * (rows + dy_rows), 1, [&](int64_t begin, int64_t end) {
      const Scratch<S> line((width_ + s_.stride[1]) * out_ * G);
      const Scratch<S> pair(x_row_ * widest());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / (rows + dy_rows), row = i % (rows + dy_rows);
        for (int64_t g = 0; g < s_.groups; ++g) {
          if (row >= rows) {
            const int64_t r = row - rows;
            S* const to = dy + ((g * images + image) * dy_rows + r) * row_;
            stage_dy(n + image, g, dy_first + r, G == 1 ? to : line.get());
            if (G == 2) pair_dy(line.get(), to);
            continue;
          }
          for (int64_t panel = 0; panel < panels_; ++panel) {
            S* const to = x + (((g * panels_ + panel) * images + image) * rows + row) * x_row_ * widest();
            const int64_t width = panel_width(panel);
            stage_x(n + image, g, panel, first + row, G == 1 ? to : pair.get());
            if (G == 1) continue;
            for (int64_t p = 0; p < x_row_; p += 2) {
              const S* const even = pair.get() + p * width;
              for (int64_t c = 0; c < width; ++c) {
                to[p * width + 2 * c] = even[c];
                to[p * width + 2 * c + 1] = even[width + c];
              }
            }
          }
        }
      }
    });
  }

  void stage_x(int64_t n, int64_t g, int64_t panel, int64_t row, S* to) const {
    const int64_t width = s_.in[1], first = panel * widest(), pitch = panel_width(panel);
    const int64_t channels = std::min(in_ - first, pitch), channel = g * in_ + first;
    if (channels < pitch || x_row_ > width) std::memset(static_cast<void*>(to), 0, sizeof(S) * x_row_ * pitch);
    if (s_.layout == Layout::nchw) {
      const int64_t plane = s_.in[0] * width;
      kernels_.pixels.from_planes(x_ + (n * s_.c_in + channel) * plane + row * width, plane, to, pitch, width, channels);
    } else {
      const T* const from = x_ + (n * s_.in[0] + row) * width * s_.c_in + channel;
      for (int64_t p = 0; p < width; ++p) kernels_.pixels.copy(from + p * s_.c_in, to + p * pitch, channels);
    }
  }

  // Pixel i of the line is pixel i - padding of dy; a pair more than the taps see is zero.
  void stage_dy(int64_t n, int64_t g, int64_t row, S* to) const {
    const int64_t width = s_.out[1], length = G == 1 ? width_ : width_ + s_.stride[1];
    const int64_t left = std::min(s_.padding[1], length), last = std::min(width, length - left);
    std::memset(static_cast<void*>(to), 0, sizeof(S) * left * out_);
    std::memset(static_cast<void*>(to + (left + last) * out_), 0, sizeof(S) * (length - left - last) * out_);
    to += left * out_;
    if (s_.layout == Layout::nchw) {
      const int64_t plane = s_.out[0] * width;
      const T* const from = dy_ + (n * s_.c_out + g * out_) * plane + row * width;
      kernels_.pixels.from_planes(from, plane, to, out_, last, out_);
    } else {
      const T* const from = dy_ + (n * s_.out[0] + row) * width * s_.c_out + g * out_;
      if (s_.groups == 1) {
        kernels_.pixels.copy(from, to, last * out_);
      } else {
        for (int64_t p = 0; p < last; ++p) kernels_.pixels.copy(from + p * s_.c_out, to + p * out_, out_);
      }
    }
  }

  // With an odd number of input pixels, the last one is paired with zeros in words of its own.
  void pair_dy(const S* line, S* to) const {
    const int64_t step = s_.stride[1] * out_;
    for (int64_t i = 0; i < width_ * out_; ++i) {
      to[2 * i] = line[i];
      to[2 * i + 1] = line[i + step];
    }
    if (!odd()) return;
    to += 2 * width_ * out_;
    line += (s_.in[1] - 1) * step;
    for (int64_t i = 0; i < reach_ * out_; ++i) {
      to[2 * i] = line[i];
      to[2 * i + 1] = S{};
    }
  }

  void products(int64_t item, int64_t images, int64_t first, int64_t rows, int64_t dy_first, const S* x, const S* dy,
                bool add, std::vector<GemmRun<S>>& runs) const {
    const int64_t tap = item % s_.kernel[0], panel = item / s_.kernel[0] % panels_;
    const int64_t group = item / s_.kernel[0] / panels_, width = panel_width(panel);
    const int64_t dy_last = std::clamp<int64_t>(dy_row(first + rows - 1, s_.kernel[0] - 1) + 1, 0, s_.out[0]);
    const int64_t columns = merged_ ? s_.kernel[1] * out_ : out_;  // of dy, side by side
    A* const sums = sums_.get() + item * s_.kernel[1] * out_ * widest();
    x += (group * panels_ + panel) * images * rows * x_row_ * widest();
    dy += group * images * (dy_last - dy_first) * row_;
    GemmTile<S, T> tile{};
    tile.row = G;
    tile.step = G * G * s_.stride[1] * out_;
    tile.out_row = width;
    const int64_t block = std::max<int64_t>(1, kBlockPixels / s_.in[1]);
    for (int64_t begin = 0; begin < images * rows; begin += block) {
      runs.clear();
      for (int64_t i = begin; i < std::min(begin + block, images * rows); ++i) {
        const int64_t at = dy_row(first + i % rows, tap);
        if (at < 0 || at >= s_.out[0]) continue;
        const S* const a = dy + (i / rows * (dy_last - dy_first) + at - dy_first) * row_;
        const S* const b = x + i * x_row_ * widest();
        if (s_.in[1] >= G) runs.push_back({a, b, s_.in[1] / G});
        if (odd()) runs.push_back({a + width_ * out_ * G, b + (x_row_ - G) * width, 1});
      }
      tile.add = add || begin > 0;
      if (runs.empty() && tile.add) continue;
      const std::vector<GemmRun<S>> start = runs;
      tile.runs = runs.data();
      tile.count = static_cast<int64_t>(runs.size());
      for (int64_t u = 0; u < (merged_ ? 1 : s_.kernel[1]); ++u) {
        const int64_t tiles = ceil_div(columns, kernels_.gemm.rows);
        for (int64_t t = 0, m = 0; t < tiles; ++t) {
          const int64_t size = (columns - m) / (tiles - t);
          const int64_t at = (u * s_.dilation[1] * out_ + m) * G;
          for (size_t r = 0; r < runs.size(); ++r) runs[r].a = start[r].a + at;
          tile.c = sums + (u * out_ + m) * width;
          kernels_.gemm.tile[width > lanes_ ? 1 : 0][size - 1](tile);
          m += size;
        }
      }
    }
  }

  void write(int64_t item, T* turned) const {
    const int64_t tap = item % s_.kernel[0], panel = item / s_.kernel[0] % panels_;
    const int64_t group = item / s_.kernel[0] / panels_, width = panel_width(panel);
    const int64_t first = panel * widest(), channels = std::min(in_ - first, width), columns = s_.kernel[1] * out_;
    const A* const sums = sums_.get() + item * columns * widest();
    kernels_.pixels.to_planes(sums, width, turned, columns, columns, channels, nullptr, Activation::none, A{});
    for (int64_t c = 0; c < channels; ++c) {
      T* const to = dweight_ + (group * in_ + first + c) * s_.weight_stride[0] + tap * s_.weight_stride[2];
      for (int64_t u = 0; u < s_.kernel[1]; ++u) {
        for (int64_t o = 0; o < out_; ++o) {
          to[o * s_.weight_stride[1] + u * s_.weight_stride[3]] = turned[c * columns + u * out_ + o];
        }
      }
    }
  }

  const ConvTranspose2dShape& s_;
  const TileKernels<S, T>& kernels_;
  const T* dy_;
  const T* x_;
  T* dweight_;
  int64_t in_, out_;  // channels of a group
  int64_t lanes_, panels_;
  bool merged_;    // the tap columns are side by side in dy
  int64_t reach_;  // pixels from the first to the last tap column
  int64_t width_;  // pixels of a staged row of dy
  int64_t row_;    // elements of a staged row of dy
  int64_t x_row_;  // pixels of a staged row of x
  int64_t rows_, images_, dy_rows_;  // of a chunk
  Scratch<A> sums_;                  // [group][panel][tap row][tap column][output channel][input channel of the panel]
};

template <class T>
void gradient(const ConvTranspose2dShape& s, const void* dy, const void* x, void* dweight) {
  const T* const from = static_cast<const T*>(dy);
  const T* const with = static_cast<const T*>(x);
  T* const to = static_cast<T*>(dweight);
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (const auto* const dot = capability().bfloat16_dot; dot != nullptr) {
      WeightGradient<BFloat16, BFloat16>(s, *dot, from, with, to).run();
      return;
    }
  }
  WeightGradient<Accumulate<T>, T>(s, tile_kernels<T>(), from, with, to).run();
}

}  // namespace

void conv_transpose2d_weight_gradient(const ConvTranspose2dShape& shape, const void* dy, const void* x, void* dweight) {
  switch (shape.dtype) {
    case Dtype::float32: return gradient<float>(shape, dy, x, dweight);
    case Dtype::bfloat16: return gradient<BFloat16>(shape, dy, x, dweight);
    case Dtype::float64: return gradient<double>(shape, dy, x, dweight);
    case Dtype::float16: return;  // refused by csrc/conv_transpose2d.cpp
  }
}

}  // namespace fastgan
