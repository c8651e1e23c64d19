// The drivers of winograd.h: transforms of tiles, 36 products of matrices in between.
//
// The input gradient is the convolution of dy, with two zeros around it, with the weights turned by 180 degrees. The
// weight gradient is the adjoint of the forward pass with respect to the transformed weights: its products sum over
// tiles. How work is cut follows from the shape alone or changes no sum, so results do not depend on the threads.
#include "winograd.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "reflection_pad.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kBlockBytes = 320 << 10;  // of transformed pixels in work, in the L2 of one thread
constexpr int64_t kChunkTiles = 256;        // of the weight gradient, in work at once
constexpr int64_t kDepth = 64;  // tiles in one product of the weight gradient: its operands stay in L1
constexpr int64_t kLine = 16;               // elements

// Memory that the next call finds again: fresh pages cost more than the transforms that fill them. It grows to what the
// largest call needs; a call on a second thread meanwhile has its own.
class Workspace {
 public:
  explicit Workspace(int64_t count) : block_(kept.exchange(nullptr)) {
    if (block_ == nullptr || block_->count < count) {
      delete block_;
      block_ = nullptr;
      block_ = new Block{count, Scratch<float>(count)};
    }
  }
  ~Workspace() { delete kept.exchange(block_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  float* get() const { return block_->memory.get(); }

 private:
  struct Block {
    int64_t count;
    Scratch<float> memory;
  };
  static inline std::atomic<Block*> kept{nullptr};
  Block* block_;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A distance of whole lines, an odd number of them: elements that far apart spread over all sets of a cache.
int64_t spread(int64_t elements) { return (ceil_div(elements, kLine) | 1) * kLine; }

constexpr int64_t kZero = -1;  // in a map: a pixel of zeros

// Source pixel of each pixel that `tiles` tiles along an axis see, from `first` on: reflected as far as the padding goes,
// zeros beyond.
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
class Source {
 public:
  Source(const Grid& grid, const float* data, int64_t h, int64_t w, int64_t channels, int64_t first_row,
         int64_t first_column, int64_t pad_h, int64_t pad_w)
      : grid_(grid), data_(data), h_(h), w_(w), channels_(channels), rows_(map(grid.rows, first_row, h, pad_h)),
        columns_(map(grid.columns, first_column, w, pad_w)), zeros_(static_cast<size_t>(channels), 0.0f) {}

  // The size x size pixels of a tile.
  void pixels(int64_t tile, int64_t size, const float** out) const {
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
  const float* data_;
  int64_t h_, w_, channels_;
  std::vector<int64_t> rows_, columns_;
  std::vector<float> zeros_;
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
      : width_(kernels().winograd.width), point_(spread(depth * width_)), panels_(ceil_div(columns, width_)),
        data_(panels_ * kWinogradPoints * point_) {
    constexpr int64_t kRun = 16;
    const int64_t runs = ceil_div(depth, kRun);
    parallel_for(panels_ * runs, 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> taps(kRun * 9 * width_);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item % runs * kRun, count = std::min(kRun, depth - first);
        const int64_t column = item / runs * width_, width = std::min(width_, columns - column);
        if (width < width_) std::fill_n(taps.get(), kRun * 9 * width_, 0.0f);
        for (int64_t t = 0; t < 9; ++t) {
          const float* const from = weight + first * k_stride + column * j_stride + (turned ? 8 - t : t) * tap;
          float* const to = taps.get() + t * width_;
          if (j_stride == 1) {
            for (int64_t k = 0; k < count; ++k) std::copy_n(from + k * k_stride, width, to + k * 9 * width_);
            continue;
          }
          for (int64_t j = 0; j < width; ++j) {
            for (int64_t k = 0; k < count; ++k) to[k * 9 * width_ + j] = from[k * k_stride + j * j_stride];
          }
        }
        float* const out = data_.get() + item / runs * kWinogradPoints * point_ + first * width_;
        for (int64_t k = 0; k < count; ++k) {
          kernels().winograd.weights(taps.get() + k * 9 * width_, out + k * width_, point_);
        }
      }
    });
  }

  int64_t panels() const { return panels_; }
  const float* at(int64_t panel, int64_t point) const {
    return data_.get() + (panel * kWinogradPoints + point) * point_;
  }

 private:
  int64_t width_, point_, panels_;
  Workspace data_;
};

// c = a b, or c + a b, of rows x depth x width: a and c `row` and `width` elements from row to row, `step` of a along
// the depth.
void multiply(const float* a, int64_t row, int64_t step, const float* b, int64_t rows, int64_t depth, bool add,
              float* c) {
  const auto& gemm = kernels().tile_float.gemm;
  const int64_t width = kernels().winograd.width, tiles = ceil_div(rows, gemm.rows);
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

// Stores n values, or adds them, `stride` elements apart.
void put(const float* values, int64_t n, bool add, float* to, int64_t stride) {
  if (!add && stride == 1) {
    std::copy_n(values, n, to);
  } else if (!add) {
    for (int64_t i = 0; i < n; ++i) to[i * stride] = values[i];
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * stride] += values[i];
  }
}

// The convolution of what the tiles of `source` see, to y (n, h, w, o).
void convolve(const Grid& grid, const Source& source, const Weights& weights, const float* bias, float* y, int64_t h,
              int64_t w, int64_t o) {
  const auto& kernels = fastgan::kernels().winograd;
  const int64_t width = kernels.width, c = source.channels(), pitch = spread(c);
  const int64_t wanted = std::max<int64_t>(1, kBlockBytes / (kWinogradPoints * pitch * int64_t{sizeof(float)}));
  const int64_t blocks = ceil_div(grid.count(), wanted), size = ceil_div(grid.count(), blocks);
  const int64_t point = spread(size * pitch), sum_point = spread(size * width);
  Scratch<float> padded_bias(bias != nullptr ? weights.panels() * width : 0);
  if (bias != nullptr) {
    std::fill(std::copy_n(bias, o, padded_bias.get()), padded_bias.get() + weights.panels() * width, 0.0f);
  }
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<float> image(kWinogradPoints * point), sums(kWinogradPoints * sum_point);
    const float* pixels[kWinogradPoints];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * size, count = std::min(size, grid.count() - first);
      for (int64_t t = 0; t < count; ++t) {
        source.pixels(first + t, kWinogradTile, pixels);
        kernels.image(pixels, c, image.get() + t * pitch, point, width);
      }
      for (int64_t panel = 0; panel < weights.panels(); ++panel) {
        for (int64_t p = 0; p < kWinogradPoints; ++p) {
          multiply(image.get() + p * point, pitch, 1, weights.at(panel, p), count, c, false,
                   sums.get() + p * sum_point);
        }
        for (int64_t t = 0; t < count; ++t) {
          const int64_t tile = first + t, column = tile % grid.columns * kWinogradStep;
          const int64_t row = tile / grid.columns % grid.rows * kWinogradStep, n = tile / (grid.rows * grid.columns);
          kernels.result(sums.get() + t * width, sum_point, bias != nullptr ? padded_bias.get() + panel * width : nullptr,
                         y + ((n * h + row) * w + column) * o + panel * width, w * o, o,
                         static_cast<int>(std::min<int64_t>(kWinogradStep, h - row)),
                         static_cast<int>(std::min<int64_t>(kWinogradStep, w - column)),
                         std::min(width, o - panel * width));
        }
      }
    }
  });
}

}  // namespace

void winograd_forward(const WinogradShape& s, const float* x, const float* weight, const float* bias, float* y) {
  const Grid grid(s.n, s.out_h(), s.out_w());
  const Source source(grid, x, s.h, s.w, s.c, -s.pad_h, -s.pad_w, s.pad_h, s.pad_w);
  const WeightStrides strides(s);
  const Weights weights(weight, s.c, strides.c, s.o, strides.o, strides.tap, false);
  convolve(grid, source, weights, bias, y, s.out_h(), s.out_w(), s.o);
}

void winograd_input_gradient(const WinogradShape& s, const float* dy, const float* weight, float* dx) {
  const int64_t h = s.h + 2 * s.pad_h, w = s.w + 2 * s.pad_w;
  const bool pads = s.pad_h != 0 || s.pad_w != 0;
  const Grid grid(s.n, h, w);
  const Source source(grid, dy, s.out_h(), s.out_w(), s.o, -2, -2, 0, 0);
  const WeightStrides strides(s);
  const Weights weights(weight, s.o, strides.o, s.c, strides.c, strides.tap, true);
  const Scratch<float> padded(pads ? s.n * h * w * s.c : 0);
  convolve(grid, source, weights, nullptr, pads ? padded.get() : dx, h, w, s.c);
  if (!pads) return;
  ReflectionPad fold{};
  fold.layout = Layout::nhwc;
  fold.dtype = Dtype::float32;
  fold.n = s.n, fold.c = s.c, fold.h = s.h, fold.w = s.w;
  fold.left = fold.right = s.pad_w;
  fold.top = fold.bottom = s.pad_h;
  reflection_pad_backward(fold, padded.get(), dx);
}

void winograd_weight_gradient(const WinogradShape& s, const float* x, const float* dy, float* dweight) {
  const auto& kernels = fastgan::kernels().winograd;
  const Grid grid(s.n, s.out_h(), s.out_w());
  const Source image(grid, x, s.h, s.w, s.c, -s.pad_h, -s.pad_w, s.pad_h, s.pad_w);
  const Source gradient(grid, dy, s.out_h(), s.out_w(), s.o, 0, 0, 0, 0);
  const WeightStrides strides(s);
  const int64_t width = kernels.width, chunks = ceil_div(grid.count(), kChunkTiles);
  const int64_t chunk = ceil_div(grid.count(), chunks), point = spread(chunk * width), panel = kWinogradPoints * point;
  const int64_t c_panels = ceil_div(s.c, width), o_panels = ceil_div(s.o, width), sum_point = spread(width * width);
  const Workspace work((c_panels + o_panels) * panel);
  float* const images = work.get();
  float* const gradients = images + c_panels * panel;
  for (int64_t first = 0; first < grid.count(); first += chunk) {
    const int64_t count = std::min(chunk, grid.count() - first);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      const float* pixels[kWinogradPoints];
      for (int64_t t = begin; t < end; ++t) {
        image.pixels(first + t, kWinogradTile, pixels);
        kernels.image(pixels, s.c, images + t * width, point, panel);
        gradient.pixels(first + t, kWinogradStep, pixels);
        kernels.gradient(pixels, s.o, gradients + t * width, point, panel);
      }
    });
    // The products of `square` x `square` panels share their operands in L2.
    const int64_t square = o_panels * c_panels >= 16 * thread_count() ? 2 : 1;
    const int64_t o_groups = ceil_div(o_panels, square), c_groups = ceil_div(c_panels, square);
    parallel_for(o_groups * c_groups, 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> sums(square * square * kWinogradPoints * sum_point), taps(9 * width);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first_o = item / c_groups * square, first_c = item % c_groups * square;
        const int64_t last_o = std::min(first_o + square, o_panels), last_c = std::min(first_c + square, c_panels);
        const auto each_pair = [&](const auto& body) {
          float* at = sums.get();
          for (int64_t o = first_o; o < last_o; ++o) {
            for (int64_t c = first_c; c < last_c; ++c, at += kWinogradPoints * sum_point) body(o, c, at);
          }
        };
        for (int64_t p = 0; p < kWinogradPoints; ++p) {
          for (int64_t k = 0; k < count; k += kDepth) {
            each_pair([&](int64_t o, int64_t c, float* at) {
              multiply(gradients + o * panel + p * point + k * width, 1, width,
                       images + c * panel + p * point + k * width, std::min(width, s.o - o * width),
                       std::min(kDepth, count - k), k != 0, at + p * sum_point);
            });
          }
        }
        each_pair([&](int64_t o_panel, int64_t c_panel, const float* at) {
          const int64_t os = std::min(width, s.o - o_panel * width), cs = std::min(width, s.c - c_panel * width);
          for (int64_t o = 0; o < os; ++o) {
            kernels.weight_gradient(at + o * width, sum_point, taps.get());
            float* const to = dweight + (o_panel * width + o) * strides.o + c_panel * width * strides.c;
            for (int64_t tap = 0; tap < 9; ++tap) {
              put(taps.get() + tap * width, cs, first != 0, to + tap * strides.tap, strides.c);
            }
          }
        });
      }
    });
  }
}

}  // namespace fastgan
