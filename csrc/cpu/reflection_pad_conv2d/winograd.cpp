// The drivers of winograd.h: transforms of tiles, 36 products of matrices in between.
//
// The input gradient is the convolution of dy, with two zeros around it, with the weights turned by 180 degrees. The
// weight gradient is the adjoint of the forward pass with respect to the transformed weights: its products sum over
// tiles. How work is cut follows from the shape alone or changes no sum, so results do not depend on the threads.
#include "cpu/reflection_pad_conv2d/winograd.h"

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/reflection_pad/reflection_pad.h"
#include "cpu/simd/kernels.h"
#include "scratch.h"

namespace fastgan {
namespace {

// Tiles in work at once: many, so that transformed weights are read seldom, yet few enough for the caches.
constexpr int64_t kImageChunk = 128, kGradientChunk = 256;
constexpr int64_t kLine = 16;  // elements

// A distance of whole lines, an odd number of them: elements that far apart spread over all sets of a cache.
int64_t spread(int64_t elements) { return (ceil_div(elements, kLine) | 1) * kLine; }

struct Tiles;  // the use of a workspace

constexpr int64_t kZero = -1;  // in a map: a pixel of zeros

// Source pixel of each pixel that `tiles` tiles along an axis see, from `first` on: reflected as far as the padding
// goes, zeros beyond.
std::vector<int64_t> map(int64_t tiles, int64_t first, int64_t size, int64_t pad) {
  std::vector<int64_t> pixels(static_cast<size_t>(tiles * kWinogradStep + kWinogradTile - kWinogradStep), kZero);
  for (size_t i = 0; i < pixels.size(); ++i) {
    const int64_t p = static_cast<int64_t>(i) + first;
    if (p >= -pad && p < size + pad) pixels[i] = p < 0 ? -p : p >= size ? 2 * (size - 1) - p : p;
  }
  return pixels;
}

// The tiles of a batch of images, `rows` x `columns` of them in each.
struct Grid {
  int64_t n, rows, columns;

  Grid(int64_t images, int64_t h, int64_t w)
      : n(images), rows(ceil_div(h, kWinogradStep)), columns(ceil_div(w, kWinogradStep)) {}
  int64_t count() const { return n * rows * columns; }
};

// A batch of images as tiles see it.
template <class T>
class Source {
 public:
  Source(const Grid& grid, const T* data, int64_t h, int64_t w, int64_t channels, int64_t first_row,
         int64_t first_column, int64_t pad_h, int64_t pad_w)
      : grid_(grid),
        data_(data),
        h_(h),
        w_(w),
        channels_(channels),
        rows_(map(grid.rows, first_row, h, pad_h)),
        columns_(map(grid.columns, first_column, w, pad_w)),
        zeros_(static_cast<size_t>(channels)) {}

  // The size x size pixels of a tile.
  void pixels(int64_t tile, int64_t size, const T** out) const {
    const int64_t per_image = grid_.rows * grid_.columns, n = tile / per_image;
    const int64_t row = tile % per_image / grid_.columns * kWinogradStep, column = tile % grid_.columns * kWinogradStep;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t r = rows_[static_cast<size_t>(row + i)];
      for (int64_t j = 0; j < size; ++j) {
        const int64_t c = columns_[static_cast<size_t>(column + j)];
        *out++ = r == kZero || c == kZero ? zeros_.data() : data_ + ((n * h_ + r) * w_ + c) * channels_;
      }
    }
  }

  int64_t channels() const { return channels_; }

 private:
  const Grid& grid_;
  const T* data_;
  int64_t h_, w_, channels_;
  std::vector<int64_t> rows_, columns_;
  std::vector<T> zeros_;
};

// Where element (o, c, tap) of the weights lies.
struct WeightStrides {
  int64_t o, c, tap;

  explicit WeightStrides(const WinogradShape& s)
      : o(9 * s.c), c(s.weight == Layout::nchw ? 9 : 1), tap(s.weight == Layout::nchw ? 1 : s.c) {}
};

// Transformed weights as the right operands of the products: depth x columns, cut into panels of columns.
class Weights {
 public:
  // Element (k, j) of tap t is weight[k * k_stride + j * j_stride + (turned ? 8 - t : t) * tap].
  Weights(const float* weight, int64_t depth, int64_t k_stride, int64_t columns, int64_t j_stride, int64_t tap,
          bool turned)
      : width_(kernels<float>().winograd.width),
        panel_(depth * width_),
        panels_(ceil_div(columns, width_)),
        point_(spread(panels_ * panel_)),
        data_(kWinogradPoints * point_) {
    constexpr int64_t kRun = 64;
    const int64_t runs = ceil_div(depth, kRun);
    parallel_for(panels_ * runs, 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> taps(kRun * 9 * width_);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item % runs * kRun, count = std::min(kRun, depth - first);
        const int64_t column = item / runs * width_, width = std::min(width_, columns - column);
        if (width < width_) std::fill_n(taps.get(), kRun * 9 * width_, 0.0f);
        const auto source = [&](int64_t t) {
          return weight + first * k_stride + column * j_stride + (turned ? 8 - t : t) * tap;
        };
        if (j_stride == 1) {
          for (int64_t t = 0; t < 9; ++t) {
            for (int64_t k = 0; k < count; ++k) {
              std::copy_n(source(t) + k * k_stride, width, taps.get() + (k * 9 + t) * width_);
            }
          }
        } else {
          for (int64_t j = 0; j < width; ++j) {
            for (int64_t t = 0; t < 9; ++t) {
              for (int64_t k = 0; k < count; ++k) {
                taps.get()[(k * 9 + t) * width_ + j] = source(t)[k * k_stride + j * j_stride];
              }
            }
          }
        }
        float* const out = data_.get() + item / runs * panel_ + first * width_;
        for (int64_t k = 0; k < count; ++k) {
          kernels<float>().winograd.weights(taps.get() + k * 9 * width_, out + k * width_, point_);
        }
      }
    });
  }

  int64_t panels() const { return panels_; }
  const float* at(int64_t point, int64_t panel) const { return data_.get() + point * point_ + panel * panel_; }

 private:
  int64_t width_, panel_, panels_, point_;
  Workspace<float, Weights> data_;
};

// c = a b, or c + a b, of rows x depth x width: a and c `row` and `width` elements from row to row, `step` of a along
// the depth.
void multiply(const float* a, int64_t row, int64_t step, const float* b, int64_t rows, int64_t depth, bool add,
              float* c) {
  const auto& gemm = kernels<float>().tile.gemm;
  const int64_t width = kernels<float>().winograd.width, tiles = ceil_div(rows, gemm.rows);
  GemmRun<float> run{a, b, depth};
  GemmTile<float, float> tile{};
  tile.runs = &run;
  tile.count = 1;
  tile.row = row;
  tile.step = step;
  tile.c = c;
  tile.add = add;
  tile.out_row = width;
  for (int64_t t = 0, done = 0; t < tiles; ++t) {
    const int64_t size = (rows - done) / (tiles - t);
    run.a = a + done * row;
    tile.c = c + done * width;
    gemm.tile[kMaxTileVectors - 1][size - 1](tile);
    done += size;
  }
}

// The convolution of what the tiles of `source` see, to y (n, h, w, o).
template <class T>
void convolve(const Grid& grid, const Source<T>& source, const Weights& weights, const float* bias, T* y, int64_t h,
              int64_t w, int64_t o) {
  const auto& transforms = kernels<T>().winograd;
  const int64_t width = kernels<float>().winograd.width, c = source.channels(), pitch = spread(c);
  const int64_t panels = weights.panels();
  const int64_t chunks = ceil_div(grid.count(), kImageChunk), chunk = ceil_div(grid.count(), chunks);
  const int64_t point = spread(chunk * pitch), sum_panel = chunk * width, sum_point = spread(panels * sum_panel);
  const Workspace<float, Tiles> work(kWinogradPoints * (point + sum_point));
  float* const images = work.get();
  float* const sums = images + kWinogradPoints * point;
  const Scratch<float> padded_bias(bias != nullptr ? panels * width : 0);
  if (bias != nullptr) {
    std::fill(std::copy_n(bias, o, padded_bias.get()), padded_bias.get() + panels * width, 0.0f);
  }
  for (int64_t first = 0; first < grid.count(); first += chunk) {
    const int64_t count = std::min(chunk, grid.count() - first);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      const T* pixels[kWinogradPoints];
      for (int64_t t = begin; t < end; ++t) {
        source.pixels(first + t, kWinogradTile, pixels);
        transforms.image(pixels, c, images + t * pitch, point, width);
      }
    });
    parallel_for(kWinogradPoints * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t p = item / panels, panel = item % panels;
        multiply(images + p * point, pitch, 1, weights.at(p, panel), count, c, false,
                 sums + p * sum_point + panel * sum_panel);
      }
    });
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t tile = first + t, column = tile % grid.columns * kWinogradStep;
        const int64_t row = tile / grid.columns % grid.rows * kWinogradStep, n = tile / (grid.rows * grid.columns);
        const int rows = static_cast<int>(std::min<int64_t>(kWinogradStep, h - row));
        const int columns = static_cast<int>(std::min<int64_t>(kWinogradStep, w - column));
        for (int64_t panel = 0; panel < panels; ++panel) {
          transforms.result(sums + panel * sum_panel + t * width, sum_point,
                            bias != nullptr ? padded_bias.get() + panel * width : nullptr,
                            y + ((n * h + row) * w + column) * o + panel * width, w * o, o, rows, columns,
                            std::min(width, o - panel * width));
        }
      }
    });
  }
}

}  // namespace

template <class T>
void winograd_forward(const WinogradShape& s, const T* x, const float* weight, const float* bias, T* y) {
  const Grid grid(s.n, s.out_h(), s.out_w());
  const Source<T> source(grid, x, s.h, s.w, s.c, -s.pad_h, -s.pad_w, s.pad_h, s.pad_w);
  const WeightStrides strides(s);
  const Weights weights(weight, s.c, strides.c, s.o, strides.o, strides.tap, false);
  convolve(grid, source, weights, bias, y, s.out_h(), s.out_w(), s.o);
}

template <class T>
void winograd_input_gradient(const WinogradShape& s, const T* dy, const float* weight, T* dx) {
  const int64_t h = s.h + 2 * s.pad_h, w = s.w + 2 * s.pad_w;
  const bool pads = s.pad_h != 0 || s.pad_w != 0;
  const Grid grid(s.n, h, w);
  const Source<T> source(grid, dy, s.out_h(), s.out_w(), s.o, -2, -2, 0, 0);
  const WeightStrides strides(s);
  const Weights weights(weight, s.o, strides.o, s.c, strides.c, strides.tap, true);
  const Scratch<T> padded(pads ? s.n * h * w * s.c : 0);
  convolve<T>(grid, source, weights, nullptr, pads ? padded.get() : dx, h, w, s.c);
  if (!pads) return;
  ReflectionPad fold{};
  fold.layout = Layout::nhwc;
  fold.dtype = kDtype<T>;
  fold.n = s.n, fold.c = s.c, fold.h = s.h, fold.w = s.w;
  fold.left = fold.right = s.pad_w;
  fold.top = fold.bottom = s.pad_h;
  reflection_pad_backward(fold, padded.get(), dx);
}

template <class T>
void winograd_weight_gradient(const WinogradShape& s, const T* x, const T* dy, float* dweight) {
  const auto& transforms = kernels<T>().winograd;
  const auto& weights = kernels<float>().winograd;
  const Grid grid(s.n, s.out_h(), s.out_w());
  const Source<T> image(grid, x, s.h, s.w, s.c, -s.pad_h, -s.pad_w, s.pad_h, s.pad_w);
  const Source<T> gradient(grid, dy, s.out_h(), s.out_w(), s.o, 0, 0, 0, 0);
  const WeightStrides strides(s);
  const int64_t width = weights.width, chunks = ceil_div(grid.count(), kGradientChunk);
  const int64_t chunk = ceil_div(grid.count(), chunks), panel = chunk * width;
  const int64_t c_panels = ceil_div(s.c, width), o_panels = ceil_div(s.o, width), pairs = o_panels * c_panels;
  const int64_t c_point = spread(c_panels * panel), o_point = spread(o_panels * panel);
  const int64_t square = width * width, sum_point = spread(pairs * square);
  const Workspace<float, Tiles> work(kWinogradPoints * (c_point + o_point + sum_point));
  float* const images = work.get();
  float* const gradients = images + kWinogradPoints * c_point;
  float* const sums = gradients + kWinogradPoints * o_point;
  for (int64_t first = 0; first < grid.count(); first += chunk) {
    const int64_t count = std::min(chunk, grid.count() - first);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      const T* pixels[kWinogradPoints];
      for (int64_t t = begin; t < end; ++t) {
        image.pixels(first + t, kWinogradTile, pixels);
        transforms.image(pixels, s.c, images + t * width, c_point, panel);
        gradient.pixels(first + t, kWinogradStep, pixels);
        transforms.gradient(pixels, s.o, gradients + t * width, o_point, panel);
      }
    });
    parallel_for(kWinogradPoints * pairs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t p = item / pairs, pair = item % pairs, o = pair / c_panels, c = pair % c_panels;
        multiply(gradients + p * o_point + o * panel, 1, width, images + p * c_point + c * panel,
                 std::min(width, s.o - o * width), count, first != 0, sums + p * sum_point + pair * square);
      }
    });
  }
  parallel_for(pairs, 1, [&](int64_t begin, int64_t end) {
    const Scratch<float> taps(9 * width);
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t first_o = pair / c_panels * width, first_c = pair % c_panels * width;
      const int64_t os = std::min(width, s.o - first_o), cs = std::min(width, s.c - first_c);
      for (int64_t o = 0; o < os; ++o) {
        weights.weight_gradient(sums + pair * square + o * width, sum_point, taps.get());
        float* const to = dweight + (first_o + o) * strides.o + first_c * strides.c;
        for (int64_t tap = 0; tap < 9; ++tap) {
          const float* const from = taps.get() + tap * width;
          if (strides.c == 1) {
            std::copy_n(from, cs, to + tap * strides.tap);
          } else {
            for (int64_t c = 0; c < cs; ++c) to[tap * strides.tap + c * strides.c] = from[c];
          }
        }
      }
    }
  });
}

template void winograd_forward(const WinogradShape&, const float*, const float*, const float*, float*);
template void winograd_forward(const WinogradShape&, const BFloat16*, const float*, const float*, BFloat16*);
template void winograd_input_gradient(const WinogradShape&, const float*, const float*, float*);
template void winograd_input_gradient(const WinogradShape&, const BFloat16*, const float*, BFloat16*);
template void winograd_weight_gradient(const WinogradShape&, const float*, const float*, float*);
template void winograd_weight_gradient(const WinogradShape&, const BFloat16*, const BFloat16*, float*);

}  // namespace fastgan
