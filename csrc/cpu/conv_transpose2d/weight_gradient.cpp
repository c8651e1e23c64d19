// The weight gradient of conv_transpose2d: dw[c, o, k] = sum over samples and pixels i of x[c, i] dy[o, i s - p + k d].
//
// A product of matrices with pixels along k, one for each tap row: (tap column, output channel) pairs of dy times input
// channels of x. Chunks of the pixels are packed first: x into panels of channels; dy into tiles, for each of its rows
// once, whatever the tap row that will meet it. Rows of dy whose numbers are equal modulo the stride follow each other,
// so that a tap row walks through both packings without a break. Then every (group, panel, tap row) adds its products,
// part by part of the chunk, so that a thread reads each part from a distant cache once for all that it adds.
// Chunks, parts and sums are the same whatever the threads.
#include "cpu/conv_transpose2d/conv_transpose2d.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd/tiles.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kChunkBytes = 2 << 20;   // packed at once
constexpr int64_t kPartBytes = 384 << 10;  // of them in L2 together, beside the sums
constexpr int64_t kBlockBytes = 16 << 10;  // of one panel of x, which then stays in L1 for all tiles

template <class S, class T>
class WeightGradient {
 public:
  using A = Accumulate<T>;
  static constexpr int64_t G = kTileGroup<S>;

  WeightGradient(const ConvTranspose2dShape& s, const TileKernels<S, T>& kernels, const T* dy, const T* x, T* dweight)
      : s_(s),
        kernels_(kernels),
        dy_(dy),
        x_(x),
        dweight_(dweight),
        in_(s.c_in / s.groups),
        out_(s.c_out / s.groups),
        lanes_(kernels.gemm.lanes),
        panels_(ceil_div(in_, widest())),
        tiles_(tiles()),
        pixels_(ceil_div(s.in[1], G) * G),
        block_(kBlockBytes / (widest() * static_cast<int64_t>(sizeof(S)))),
        sums_(items() * s.kernel[1] * out_ * widest()) {
    const int64_t bytes =
        (row_elements() * s.stride[0] + pixels_ * panels_ * widest()) * s.groups * static_cast<int64_t>(sizeof(S));
    const auto fit = [&](int64_t size, int64_t& rows, int64_t& images) {
      const int64_t count = std::max<int64_t>(1, size / bytes);
      rows = ceil_div(s.in[0], ceil_div(s.in[0], count));
      images = rows < s.in[0] ? 1 : std::clamp<int64_t>(count / rows, 1, s.n);
    };
    fit(kChunkBytes, rows_, images_);
    fit(kPartBytes, part_rows_, part_images_);
    slots_ = rows_ + ((s.kernel[0] - 1) * s.dilation[0] + s.stride[0] - 1) / s.stride[0] + 1;
  }

  void run() {
    const Scratch<S> x(images_ * rows_ * pixels_ * s_.groups * panels_ * widest());
    const Scratch<S> dy(s_.groups * images_ * image_elements());
    Chunk chunk{x.get(), dy.get(), 0, 0, 0, 0};
    for (; chunk.n < s_.n; chunk.n += images_) {
      chunk.images = std::min(images_, s_.n - chunk.n);
      for (chunk.first = 0; chunk.first < s_.in[0]; chunk.first += rows_) {
        chunk.rows = std::min(rows_, s_.in[0] - chunk.first);
        pack(chunk);
        const bool add = chunk.n > 0 || chunk.first > 0;
        parallel_for(items(), 1, [&](int64_t begin, int64_t end) {
          std::vector<Stretch> stretches;
          std::vector<GemmRun<S>> runs;
          for (Part part{0, 0, 0, 0}; part.image < chunk.images; part.image += part_images_) {
            part.images = std::min(part_images_, chunk.images - part.image);
            for (part.row = 0; part.row < chunk.rows; part.row += part_rows_) {
              part.rows = std::min(part_rows_, chunk.rows - part.row);
              const bool later = add || part.image > 0 || part.row > 0;
              for (int64_t i = begin; i < end; ++i) products(i, chunk, part, later, stretches, runs);
            }
          }
        });
      }
    }
    parallel_for(items(), copy_grain(s_.kernel[1] * out_ * widest()), [&](int64_t begin, int64_t end) {
      const Scratch<T> turned(s_.kernel[1] * out_ * widest());
      for (int64_t i = begin; i < end; ++i) write(i, turned.get());
    });
  }

 private:
  // Rows of (tap column, output channel) pairs, side by side in a row of dy.
  struct TileRows {
    int64_t first, offset;  // the first pair, and where it lies in dy beside an input pixel
    int64_t rows;
  };

  // Some rows of one image, or whole images.
  struct Chunk {
    S* x;   // [group][panel][image][row][pixel][channel]
    S* dy;  // [group][image][tile][row modulo stride][row / stride][pixel][row of the tile]
    int64_t n, images, first, rows;
  };

  // Some rows of x of some images of a chunk.
  struct Part {
    int64_t image, images, row, rows;
  };

  // Pixels of one image without a break in either packing.
  struct Stretch {
    int64_t dy, x, pixels;
  };

  int64_t widest() const { return kMaxTileVectors * lanes_; }
  int64_t items() const { return s_.groups * panels_ * s_.kernel[0]; }
  int64_t panel_width(int64_t panel) const { return in_ - panel * widest() > lanes_ ? widest() : lanes_; }
  int64_t pitch() const { return tiles_[0].rows; }
  int64_t row_elements() const { return static_cast<int64_t>(tiles_.size()) * pixels_ * pitch(); }
  int64_t tile_elements() const { return s_.stride[0] * slots_ * pixels_ * pitch(); }
  int64_t image_elements() const { return static_cast<int64_t>(tiles_.size()) * tile_elements(); }

  S* panel_of(const Chunk& chunk, int64_t g, int64_t panel) const {
    return chunk.x + (g * panels_ + panel) * chunk.images * chunk.rows * pixels_ * widest();
  }

  // The row of dy that tap row `tap` puts beside row `row` of x; it may lie outside.
  int64_t dy_row(int64_t row, int64_t tap) const { return row * s_.stride[0] + tap * s_.dilation[0] - s_.padding[0]; }
  // Rows of dy that the chunk meets.
  int64_t first_dy(const Chunk& chunk) const { return std::clamp<int64_t>(dy_row(chunk.first, 0), 0, s_.out[0]); }
  int64_t last_dy(const Chunk& chunk) const {
    return std::clamp<int64_t>(dy_row(chunk.first + chunk.rows - 1, s_.kernel[0] - 1) + 1, 0, s_.out[0]);
  }
  // Where a row of dy lies among the rows of a tile.
  int64_t slot(const Chunk& chunk, int64_t row) const {
    return row % s_.stride[0] * slots_ + row / s_.stride[0] - first_dy(chunk) / s_.stride[0];
  }

  // Of equal height, but for the last ones.
  std::vector<TileRows> tiles() const {
    const bool together = s_.dilation[1] == 1;  // the tap columns follow each other in dy
    const int64_t columns = together ? 1 : s_.kernel[1], length = s_.kernel[1] * out_ / columns;
    const int64_t height = ceil_div(length, ceil_div(length, kernels_.gemm.rows));
    std::vector<TileRows> list;
    for (int64_t u = 0; u < columns; ++u) {
      for (int64_t m = 0; m < length; m += height) {
        list.push_back({u * length + m, u * s_.dilation[1] * out_ + m, std::min(height, length - m)});
      }
    }
    return list;
  }

  void pack(const Chunk& chunk) const {
    const int64_t dy_rows = last_dy(chunk) - first_dy(chunk), rows = chunk.rows + dy_rows;
    parallel_for(chunk.images * rows, 1, [&](int64_t begin, int64_t end) {
      const int64_t width = (s_.in[1] - 1) * s_.stride[1] + (s_.kernel[1] - 1) * s_.dilation[1] + 1;
      const Scratch<S> line(std::max(width * out_, G == 1 ? 0 : pixels_ * widest()));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / rows, row = i % rows;
        for (int64_t g = 0; g < s_.groups; ++g) {
          if (row < chunk.rows) {
            for (int64_t panel = 0; panel < panels_; ++panel) pack_x(chunk, image, g, panel, row, line.get());
          } else {
            pack_dy(chunk, image, g, first_dy(chunk) + row - chunk.rows, width, line.get());
          }
        }
      }
    });
  }

  void pack_x(const Chunk& chunk, int64_t image, int64_t g, int64_t panel, int64_t row, S* line) const {
    const int64_t width = s_.in[1], first = panel * widest(), pitch = panel_width(panel);
    const int64_t channels = std::min(in_ - first, pitch), channel = g * in_ + first;
    S* const packed = panel_of(chunk, g, panel) + (image * chunk.rows + row) * pixels_ * pitch;
    S* const to = G == 1 ? packed : line;
    if (channels < pitch) std::fill_n(to, width * pitch, S{});
    const int64_t n = chunk.n + image, at = chunk.first + row;
    if (s_.layout == Layout::nchw) {
      const int64_t plane = s_.in[0] * width;
      kernels_.pixels.from_planes(x_ + (n * s_.c_in + channel) * plane + at * width, plane, to, pitch, width, channels);
    } else {
      const T* const from = x_ + (n * s_.in[0] + at) * width * s_.c_in + channel;
      kernels_.pixels.from_pixels(from, s_.c_in, to, pitch, width, channels);
    }
    if (G > 1) kernels_.pixels.group(line, pitch, packed, pitch, width, pitch);
  }

  // Pixel i of the line is pixel i - padding of the row; zeros are outside.
  void pack_dy(const Chunk& chunk, int64_t image, int64_t g, int64_t row, int64_t length, S* line) const {
    const int64_t width = s_.out[1], n = chunk.n + image;
    const int64_t left = std::min(s_.padding[1], length), inside = std::min(width, length - left);
    std::fill_n(line, left * out_, S{});
    std::fill_n(line + (left + inside) * out_, (length - left - inside) * out_, S{});
    if (s_.layout == Layout::nchw) {
      const int64_t plane = s_.out[0] * width;
      const T* const from = dy_ + (n * s_.c_out + g * out_) * plane + row * width;
      kernels_.pixels.from_planes(from, plane, line + left * out_, out_, inside, out_);
    } else {
      const T* const from = dy_ + (n * s_.out[0] + row) * width * s_.c_out + g * out_;
      if (s_.groups == 1) {
        kernels_.pixels.copy(from, line + left * out_, inside * out_);
      } else {
        kernels_.pixels.from_pixels(from, s_.c_out, line + left * out_, out_, inside, out_);
      }
    }
    S* to = chunk.dy + (g * chunk.images + image) * image_elements() + slot(chunk, row) * pixels_ * pitch();
    for (const TileRows& tile : tiles_) {
      kernels_.pixels.group(line + tile.offset, s_.stride[1] * out_, to, pitch(), s_.in[1], tile.rows);
      to += tile_elements();
    }
  }

  void products(int64_t item, const Chunk& chunk, const Part& part, bool add, std::vector<Stretch>& stretches,
                std::vector<GemmRun<S>>& runs) const {
    const int64_t tap = item % s_.kernel[0], panel = item / s_.kernel[0] % panels_;
    const int64_t group = item / s_.kernel[0] / panels_, width = panel_width(panel);
    A* const sums = sums_.get() + item * s_.kernel[1] * out_ * widest();
    const S* const x = panel_of(chunk, group, panel);
    const S* const dy = chunk.dy + group * chunk.images * image_elements();
    GemmTile<S, T> call{};
    call.row = G;
    call.step = pitch() * G;
    call.out_row = width;
    call.add = add;
    const auto flush = [&] {
      runs.resize(stretches.size());
      for (size_t t = 0; t < tiles_.size(); ++t) {
        for (size_t i = 0; i < runs.size(); ++i) {
          const Stretch& stretch = stretches[i];
          runs[i] = {dy + stretch.dy + static_cast<int64_t>(t) * tile_elements(), x + stretch.x, stretch.pixels / G};
        }
        call.runs = runs.data();
        call.count = static_cast<int64_t>(runs.size());
        call.c = sums + tiles_[t].first * width;
        kernels_.gemm.tile[width > lanes_ ? 1 : 0][tiles_[t].rows - 1](call);
      }
      call.add = true;
      stretches.clear();
    };
    // Rows of x whose row of dy is inside.
    const int64_t offset = dy_row(0, tap), stride = s_.stride[0];
    const int64_t first = chunk.first + part.row;
    const int64_t begin = std::max(first, offset < 0 ? ceil_div(-offset, stride) : 0);
    const int64_t end = std::min(first + part.rows, offset < s_.out[0] ? (s_.out[0] - 1 - offset) / stride + 1 : 0);
    const int64_t block = std::max<int64_t>(1, block_ / pixels_);
    int64_t pixels = 0;
    for (int64_t image = part.image; image < part.image + part.images; ++image) {
      for (int64_t row = begin; row < end; row += block) {
        const int64_t count = std::min(block, end - row) * pixels_;
        stretches.push_back({image * image_elements() + slot(chunk, dy_row(row, tap)) * pixels_ * pitch(),
                             (image * chunk.rows + row - chunk.first) * pixels_ * width, count});
        pixels += count;
        if (pixels >= block_) {
          flush();
          pixels = 0;
        }
      }
    }
    if (!stretches.empty() || !call.add) flush();
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
  std::vector<TileRows> tiles_;
  int64_t pixels_;         // of a packed row of x, whole groups
  int64_t block_;          // pixels of a panel of x that are multiplied at once
  int64_t rows_, images_;  // of a chunk, at most
  int64_t part_rows_, part_images_;
  int64_t slots_;    // for rows of dy that are equal modulo the stride
  Scratch<A> sums_;  // [group][panel][tap row][tap column][output channel][input channel of the panel]
};

template <class S, class T>
void gradient(const TileKernels<S, T>& kernels, const ConvTranspose2dShape& s, const void* dy, const void* x,
              void* dweight) {
  WeightGradient<S, T>(s, kernels, static_cast<const T*>(dy), static_cast<const T*>(x), static_cast<T*>(dweight)).run();
}

}  // namespace

void conv_transpose2d_weight_gradient(const ConvTranspose2dShape& shape, const void* dy, const void* x, void* dweight) {
  with_tiles(shape.dtype, [&](const auto& kernels) { gradient(kernels, shape, dy, x, dweight); });
}

}  // namespace fastgan
