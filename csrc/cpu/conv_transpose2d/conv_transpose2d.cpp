// conv_transpose2d and its input gradient: implicit products of matrices over pixels with channels innermost.
//
// Output pixel f + i s of a transposed convolution (a phase f < s) sees the taps k with (f + p - k d) divisible by s,
// at input pixel i + (f + p - k d) / s: an ordinary convolution of the input, with stride 1 and a subset of the taps.
// The input gradient is one convolution of dy with stride s and all taps. Both become `Job`s: a source image, a target
// image, and for each phase of each axis the source offsets of its taps. Rows outside the source are skipped, columns
// outside are zeros; every target pixel is one sum in a fixed order, whoever computes it.
#include "cpu/conv_transpose2d/conv_transpose2d.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/conv_transpose2d/job.h"
#include "cpu/conv_transpose2d/narrow.h"
#include "cpu/parallel.h"
#include "cpu/simd/tiles.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kStagedBytes = 256 << 10;  // of the source, for one block: half of a usual L2
constexpr int64_t kItemsPerThread = 4;
constexpr int64_t kPackedChannels = 32;  // of the weight, at once; whole pairs

// The weights, packed for the tiles: for each group and panel of target channels, for each pair of phases, for each tap
// row, tap column and source channel, the values of the panel's channels.
template <class S, class T>
class Panels {
 public:
  using A = Accumulate<T>;

  // A panel of target channels: 1 or 2 vectors wide.
  struct Panel {
    int64_t first, columns, width;
    int vectors;
    int64_t offset;  // elements before it, within a group
  };

  Panels(const Job& job, int64_t depth, const TileKernels<S, T>& kernels, const T* weight, const T* bias)
      : job_(job),
        kernels_(kernels),
        depth_(depth),
        panels_(panels(job, depth, kernels.gemm.lanes)),
        group_(panels_.empty() ? 0 : panels_.back().offset + job.taps() * depth * panels_.back().width),
        padded_(panels_.empty() ? 0 : panels_.back().first + panels_.back().width),
        data_(group_ * job.groups),
        bias_(bias != nullptr ? padded_ * job.groups : 0),
        has_bias_(bias != nullptr) {
    const int64_t count = job.groups * static_cast<int64_t>(panels_.size());
    parallel_for(count, copy_grain(group_ * job.groups / std::max<int64_t>(1, count)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / static_cast<int64_t>(panels_.size());
        pack(weight, group, panels_[static_cast<size_t>(i % static_cast<int64_t>(panels_.size()))]);
      }
    });
    if (!has_bias_) return;
    for (int64_t g = 0; g < job.groups; ++g) {
      for (int64_t j = 0; j < padded_; ++j) {
        const bool inside = j < job.target.channels;
        bias_.get()[g * padded_ + j] = inside ? element<A>(bias[g * job.target.channels + j]) : A{};
      }
    }
  }

  const std::vector<Panel>& list() const { return panels_; }

  // Taps come in the order of Job::before().
  const S* taps(int64_t group, const Panel& panel) const { return data_.get() + group * group_ + panel.offset; }
  const A* bias(int64_t group, const Panel& panel) const {
    return has_bias_ ? bias_.get() + group * padded_ + panel.first : nullptr;
  }

 private:
  static std::vector<Panel> panels(const Job& job, int64_t depth, int lanes) {
    std::vector<Panel> list;
    int64_t offset = 0;
    for (int64_t first = 0; first < job.target.channels;) {
      const int64_t left = job.target.channels - first;
      const int vectors = left > lanes ? 2 : 1;
      list.push_back({first, std::min<int64_t>(left, vectors * lanes), vectors * lanes, vectors, offset});
      offset += job.taps() * depth * vectors * lanes;
      first += vectors * lanes;
    }
    return list;
  }

  void pack(const T* weight, int64_t group, const Panel& panel) {
    S* const out = data_.get() + group * group_ + panel.offset;
    const T* const in = weight + group * job_.weight.group + panel.first * job_.weight.target;
    // Each tap's number in the weight, and its first element along k.
    struct Place {
      int64_t tap, to;
    };
    std::vector<Place> places;
    for (const Phase& row : job_.rows) {
      for (const Phase& column : job_.columns) {
        for (const Tap& r : row.taps) {
          for (const Tap& c : column.taps) {
            places.push_back({r.index * job_.weight.columns + c.index, static_cast<int64_t>(places.size()) * depth_});
          }
        }
      }
    }
    constexpr int64_t G = kTileGroup<S>;
    const WeightStrides& w = job_.weight;
    const int64_t channels = job_.source.channels, width = panel.width;
    // Some source channels at a time, first as rows of target channels; those beyond the panel's stay zero.
    const Scratch<S> rows(kPackedChannels * w.taps * width);
    std::fill_n(rows.get(), kPackedChannels * w.taps * width, S{});
    for (int64_t first = 0; first < channels; first += kPackedChannels) {
      const int64_t count = std::min(kPackedChannels, channels - first);
      const T* const from = in + first * w.source;
      int64_t row_of_tap = width, row_of_channel = w.taps * width;
      if (w.tap == 1 && w.source == w.taps) {
        kernels_.pixels.from_planes(from, w.target, rows.get(), width, count * w.taps, panel.columns);
      } else if (w.source == 1 && w.tap > 1) {
        row_of_tap = count * width, row_of_channel = width;
        for (int64_t tap = 0; tap < w.taps; ++tap) {
          kernels_.pixels.from_planes(from + tap * w.tap, w.target, rows.get() + tap * row_of_tap, width, count,
                                      panel.columns);
        }
      } else {
        for (int64_t k = 0; k < count; ++k) {
          S* const to = rows.get() + k * row_of_channel;
          if (w.tap == 1) {
            kernels_.pixels.from_planes(from + k * w.source, w.target, to, width, w.taps, panel.columns);
          } else {
            kernels_.pixels.from_pixels(from + k * w.source, w.tap, to, width, w.taps, panel.columns);
          }
        }
      }
      for (const Place& place : places) {
        const S* const row = rows.get() + place.tap * row_of_tap;
        if (depth_ % G == 0) {
          kernels_.pixels.group(row, row_of_channel, out + (place.to + first) * width, width, count, width);
          continue;
        }
        for (int64_t k = 0; k < count; ++k) {  // pairs reach from tap to tap
          const int64_t at = place.to + first + k;
          for (int64_t j = 0; j < width; ++j) out[at / G * G * width + at % G + j * G] = row[k * row_of_channel + j];
        }
      }
    }
  }

  const Job& job_;
  const TileKernels<S, T>& kernels_;
  int64_t depth_;
  std::vector<Panel> panels_;
  int64_t group_;   // elements of a group
  int64_t padded_;  // channels of a group, in whole panels
  Scratch<S> data_;
  Scratch<A> bias_;
  bool has_bias_;
};

// How the work is cut: items of some rows of one image, or of some whole images.
struct Blocks {
  int64_t rows, images;  // of the target's phase rows, of an item
  int64_t row_blocks, image_blocks;
  int64_t staged_rows;  // source rows that one block of one image reads, at most
};

Blocks blocks(const Job& job, int64_t row_bytes) {
  const Range offsets = job.row_offsets();
  const int64_t total = job.most_rows(), step = job.source_step[0];
  const auto staged = [&](int64_t rows) {
    return std::min(job.source.size[0], (rows - 1) * step + offsets.last - offsets.first + 1);
  };
  const int64_t wanted = kItemsPerThread * thread_count();
  Blocks b{total, 1, 1, job.n, 0};
  while (b.rows > 1 &&
         (staged(b.rows) * row_bytes > kStagedBytes || job.n * job.groups * ceil_div(total, b.rows) < wanted)) {
    b.rows = (b.rows + 1) / 2;
  }
  b.row_blocks = ceil_div(total, b.rows);
  b.rows = ceil_div(total, b.row_blocks);
  b.staged_rows = staged(b.rows);
  if (b.row_blocks == 1) {
    const int64_t fit = kStagedBytes / std::max<int64_t>(1, b.staged_rows * row_bytes);
    b.images = std::clamp<int64_t>(std::min(fit, job.n * job.groups / wanted), 1, job.n);
    b.image_blocks = ceil_div(job.n, b.images);
  }
  return b;
}

template <class S, class T>
class TapConvolution {
 public:
  using A = Accumulate<T>;

  TapConvolution(const Job& job, const TileKernels<S, T>& kernels, const T* source, const T* weight, const T* bias,
                 T* target)
      : job_(job),
        kernels_(kernels),
        source_(source),
        target_(target),
        columns_(job.column_offsets()),
        merged_(job.columns_adjacent()),
        depth_(depth(job, merged_)),
        pitch_(pitch(depth_, merged_)),
        width_(job.staged_width()),
        panels_(job, depth_, kernels, weight, bias),
        blocks_(blocks(job, width_ * pitch_ * static_cast<int64_t>(sizeof(S)))) {}

  void run() const {
    const int64_t items = job_.groups * blocks_.image_blocks * blocks_.row_blocks;
    parallel_for(items, 1, [&](int64_t begin, int64_t end) {
      const int64_t staged = blocks_.images * blocks_.staged_rows * width_ * pitch_;
      // Rounded up: a pair at the very end may reach one element further.
      const Scratch<S> image(staged + kTileGroup<S>);
      std::memset(static_cast<void*>(image.get()), 0, static_cast<size_t>(staged + kTileGroup<S>) * sizeof(S));
      const int64_t widest = kMaxTileVectors * kernels_.gemm.lanes;
      const Scratch<A> row(job_.layout == Layout::nchw ? job_.target.size[1] * widest : 0);
      std::vector<GemmRun<S>> runs;
      for (int64_t i = begin; i < end; ++i) item(i, image.get(), row.get(), runs);
    });
  }

 private:
  // Source channels as the tiles walk through them: whole pairs, except where the taps of a row make whole pairs.
  static int64_t depth(const Job& job, bool merged) {
    const int64_t channels = job.source.channels;
    if (channels % kTileGroup<S> == 0) return channels;
    bool even = merged;
    for (const Phase& column : job.columns) even &= column.taps.size() % kTileGroup<S> == 0;
    return even ? channels : channels + 1;
  }

  // A pitch of whole pages would put the pixels of a tile into the same few cache lines' places.
  static int64_t pitch(int64_t depth, bool& merged) {
    if (depth * sizeof(S) % 2048 != 0) return depth;
    merged = false;
    return depth + 64 / static_cast<int64_t>(sizeof(S));
  }

  // Source rows [first, last) of a block, in the source.
  Range staged_rows(int64_t block) const {
    const Range offsets = job_.row_offsets();
    const int64_t first = block * blocks_.rows, last = std::min(first + blocks_.rows, job_.most_rows());
    const int64_t step = job_.source_step[0], height = job_.source.size[0];
    return {std::clamp<int64_t>(first * step + offsets.first, 0, height),
            std::clamp<int64_t>((last - 1) * step + offsets.last + 1, 0, height)};
  }

  void stage(int64_t n, int64_t group, const Range& rows, S* image) const {
    const int64_t width = job_.source.size[1], channels = job_.source.channels, all = channels * job_.groups;
    // Columns that no tap sees may lie beyond the buffer.
    const int64_t first = std::max<int64_t>(0, columns_.first), last = std::min(width, columns_.first + width_);
    if (last <= first) return;
    for (int64_t r = rows.first; r < rows.last; ++r) {
      S* const to = image + ((r - rows.first) * width_ + first - columns_.first) * pitch_;
      if (job_.layout == Layout::nchw) {
        const int64_t plane = job_.source.size[0] * width;
        const T* const from = source_ + ((n * all + group * channels) * plane) + r * width + first;
        kernels_.pixels.from_planes(from, plane, to, pitch_, last - first, channels);
      } else {
        const T* const from = source_ + ((n * job_.source.size[0] + r) * width + first) * all + group * channels;
        if (all == channels && all == pitch_) {
          kernels_.pixels.copy(from, to, (last - first) * pitch_);
        } else {
          kernels_.pixels.from_pixels(from, all, to, pitch_, last - first, channels);
        }
      }
    }
  }

  void item(int64_t index, S* image, A* row, std::vector<GemmRun<S>>& runs) const {
    const int64_t block = index % blocks_.row_blocks, rest = index / blocks_.row_blocks;
    const int64_t group = rest % job_.groups, first = rest / job_.groups * blocks_.images;
    const int64_t images = std::min(blocks_.images, job_.n - first);
    const int64_t image_size = blocks_.staged_rows * width_ * pitch_;
    const Range rows = staged_rows(block);
    for (int64_t n = 0; n < images; ++n) stage(first + n, group, rows, image + n * image_size);
    for (const auto& panel : panels_.list()) {
      for (int64_t n = 0; n < images; ++n) {
        const S* b = panels_.taps(group, panel);
        for (const Phase& phase : job_.rows) {
          const int64_t last = std::min(phase.count, (block + 1) * blocks_.rows);
          for (int64_t i = block * blocks_.rows; i < last; ++i) {
            target_row(first + n, group, panel, phase, i, image + n * image_size, rows, b, row, runs);
          }
          for (const Phase& column : job_.columns) {
            b += static_cast<int64_t>(phase.taps.size() * column.taps.size()) * depth_ * panel.width;
          }
        }
      }
    }
  }

  // Row i of a phase, for the channels of one panel.
  void target_row(int64_t n, int64_t group, const typename Panels<S, T>::Panel& panel, const Phase& phase, int64_t i,
                  const S* image, const Range& rows, const S* b, A* row, std::vector<GemmRun<S>>& runs) const {
    const int64_t channels = job_.target.channels, all = channels * job_.groups, width = job_.target.size[1];
    const int64_t target_row = phase.first + i * job_.target_step[0], step = job_.target_step[1];
    const int64_t first_channel = group * channels + panel.first;
    const bool planes = job_.layout == Layout::nchw;
    GemmTile<S, T> tile{};
    tile.row = job_.source_step[1] * pitch_;
    tile.step = kTileGroup<S>;
    tile.columns = panel.columns;
    tile.bias = panels_.bias(group, panel);
    tile.activation = job_.activation;
    tile.slope = static_cast<A>(job_.slope);
    for (const Phase& column : job_.columns) {
      const int64_t columns = static_cast<int64_t>(column.taps.size()), tap_size = depth_ * panel.width;
      runs.clear();
      for (size_t r = 0; r < phase.taps.size() && columns > 0; ++r) {
        const int64_t source_row = i * job_.source_step[0] + phase.taps[r].offset;
        if (source_row < 0 || source_row >= job_.source.size[0]) continue;
        const S* const a = image + (source_row - rows.first) * width_ * pitch_;
        const S* const b_row = b + static_cast<int64_t>(r) * columns * tap_size;
        if (merged_) {
          const int64_t at = column.taps[0].offset - columns_.first;
          runs.push_back({a + at * pitch_, b_row, columns * depth_ / kTileGroup<S>});
        } else {
          for (int64_t c = 0; c < columns; ++c) {
            const int64_t at = column.taps[static_cast<size_t>(c)].offset - columns_.first;
            runs.push_back({a + at * pitch_, b_row + c * tap_size, depth_ / kTileGroup<S>});
          }
        }
      }
      b += static_cast<int64_t>(phase.taps.size()) * columns * tap_size;
      const std::vector<GemmRun<S>> start = runs;
      tile.runs = runs.data();
      tile.count = static_cast<int64_t>(runs.size());
      const int64_t tiles = ceil_div(column.count, kernels_.gemm.rows);
      for (int64_t t = 0, j = 0; t < tiles; ++t) {
        const int64_t size = (column.count - j) / (tiles - t);
        for (size_t r = 0; r < runs.size(); ++r) runs[r].a = start[r].a + j * tile.row;
        const int64_t at = column.first + j * step;
        if (planes) {
          tile.c = row + at * panel.width;
          tile.out_row = step * panel.width;
        } else {
          tile.y = target_ + ((n * job_.target.size[0] + target_row) * width + at) * all + first_channel;
          tile.out_row = step * all;
        }
        kernels_.gemm.tile[panel.vectors - 1][size - 1](tile);
        j += size;
      }
    }
    if (!planes) return;
    const int64_t plane = job_.target.size[0] * width;
    T* const y = target_ + (n * all + first_channel) * plane + target_row * width;
    kernels_.pixels.to_planes(row, panel.width, y, plane, width, panel.columns, tile.bias, tile.activation, tile.slope);
  }

  const Job& job_;
  const TileKernels<S, T>& kernels_;
  const T* source_;
  T* target_;
  Range columns_;  // source offsets of the taps
  bool merged_;    // the tap columns of a row are one run
  int64_t depth_;  // source channels, whole pairs
  int64_t pitch_;  // elements of a staged pixel
  int64_t width_;  // pixels of a staged row
  Panels<S, T> panels_;
  Blocks blocks_;
};

template <class S, class T>
void convolve(const TileKernels<S, T>& kernels, const Job& job, const void* source, const void* weight,
              const void* bias, void* target) {
  TapConvolution<S, T>(job, kernels, static_cast<const T*>(source), static_cast<const T*>(weight),
                       static_cast<const T*>(bias), static_cast<T*>(target))
      .run();
}

}  // namespace

void conv_transpose2d_forward(const ConvTranspose2dShape& shape, const void* x, const void* weight, const void* bias,
                              void* y) {
  if (conv_transpose2d_narrow_forward(shape, x, weight, bias, y)) return;
  const Job job = forward_job(shape);
  with_tiles(shape.dtype, [&](const auto& kernels) { convolve(kernels, job, x, weight, bias, y); });
}

void conv_transpose2d_input_gradient(const ConvTranspose2dShape& shape, const void* dy, const void* weight, void* dx) {
  const Job job = input_gradient_job(shape);
  with_tiles(shape.dtype, [&](const auto& kernels) { convolve(kernels, job, dy, weight, nullptr, dx); });
}

}  // namespace fastgan
