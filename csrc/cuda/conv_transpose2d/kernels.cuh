// The kernels of transposed convolution, as matrix products whose operands are gathered from the images.
//
// Along one axis (stride s, padding p, dilation d, taps k), with g = gcd(s, d) and P = s / g, the outputs o of one
// residue modulo s see either no tap or the taps k = i, i + P, i + 2 P, ... of one i < P, and o + p - k d is then a
// multiple of s. So the s phases are numbered by j = 0..s-1: j < P has the taps from i = j on, which makes the phases
// with most taps come first, and j >= P has none.
//
//   forward         one product a phase: (n, q) x (tap, c) by (tap, c) x o, the image shifted by the tap
//   input gradient  one product: (n, i) x (tap, o) by (tap, o) x c, outputs strided by s and shifted by the tap
//   weight gradient one product a tap: c x (n, i) by (n, i) x o, cut along (n, i); partial sums are added in order
#pragma once

#include <numeric>

#include "cuda/conv_transpose2d/passes.h"
#include "cuda/gemm.cuh"

namespace fastgan::cuda {

struct Axis {
  int in, out, stride, padding, dilation, kernel;
  int period;  // P
  int step;    // d / g: distance in the input of two neighbouring taps of a phase
  int full;    // how many phases have the most taps; the others have one less, or none
};

struct Strides {
  int64_t n, c, h, w;
};

struct DataParams {
  const void* source;  // x, or dy for the input gradient
  const void* weight;  // (c_in, kernel, o of a group)
  const void* bias;
  void* target;
  Strides source_strides, target_strides;
  Axis axes[2];
  int64_t n, m_tiles;
  int n_tiles, groups, c, o;  // c and o of one group
  double slope;               // of negative results; 1 without an activation
  Access source_access, weight_access, target_access;
  bool rows_first;  // the phases with most taps along rows come before those with most taps along columns
};

struct WeightGradientParams {
  const void *x, *dy;
  void* partial;  // (splits, c_in, kernel, o of a group)
  Strides x_strides, dy_strides;
  Axis axes[2];
  int64_t pixels, split_steps;
  int m_tiles, n_tiles, groups, c, o;
  Access x_access, dy_access;
};

struct SumParams {
  const void* partial;
  void* dweight;
  int64_t count, splits;
  int taps, columns, o;  // taps of the kernel, and of one row of it
  int64_t strides[4];
};

// Which source pixels the outputs of one phase see: first + q * pitch - t * step for q = 0, 1, ... and taps t; tap t is
// number tap + t * period of the kernel. The outputs are residue + q * stride.
struct PhaseAxis {
  int outputs, residue, stride, taps, tap, period, first, pitch, step;
};

FASTGAN_DEVICE PhaseAxis forward_phase(const Axis& a, int j) {
  const int i = j % a.period, shift = j / a.period;
  const int64_t from = int64_t{i} * a.dilation + shift - a.padding;
  PhaseAxis phase;
  phase.residue = static_cast<int>((from % a.stride + a.stride) % a.stride);
  phase.outputs = phase.residue < a.out ? (a.out - 1 - phase.residue) / a.stride + 1 : 0;
  phase.stride = a.stride;
  phase.taps = shift == 0 && i < a.kernel ? (a.kernel - 1 - i) / a.period + 1 : 0;
  phase.tap = i;
  phase.period = a.period;
  phase.first = static_cast<int>((phase.residue - from) / a.stride);
  phase.pitch = 1;
  phase.step = a.step;
  return phase;
}

FASTGAN_DEVICE PhaseAxis gradient_phase(const Axis& a) {
  return {a.in, 0, 1, a.kernel, 0, 1, -a.padding, a.stride, -a.dilation};
}

// The phases (row, column) in order: most taps along both axes first, least taps along both axes last.
FASTGAN_DEVICE void phase_of_rank(const DataParams& p, int64_t rank, int (&j)[2]) {
  const int full[2] = {p.axes[0].full, p.axes[1].full};
  const int rest[2] = {p.axes[0].stride - full[0], p.axes[1].stride - full[1]};
  bool is_full[2] = {true, true};
  for (int quarter = 0; quarter < 4; ++quarter) {
    is_full[0] = quarter == 0 || quarter == (p.rows_first ? 1 : 2);
    is_full[1] = quarter == 0 || quarter == (p.rows_first ? 2 : 1);
    const int64_t size = int64_t{is_full[0] ? full[0] : rest[0]} * (is_full[1] ? full[1] : rest[1]);
    if (rank < size) break;
    rank -= size;
  }
  const int columns = is_full[1] ? full[1] : rest[1];
  j[0] = static_cast<int>(rank / columns) + (is_full[0] ? 0 : full[0]);
  j[1] = static_cast<int>(rank % columns) + (is_full[1] ? 0 : full[1]);
}

// A pixel of the source: its coordinates for tap 0 and the offset of that position, which may lie outside the image.
struct alignas(16) SourcePixel {
  int64_t offset;
  int y, x;
};

// What the smallest of the multiprocessors holds: 99 KiB for a block (compute capability 8.6), and 164 KiB in all, of
// which every block takes 1 KiB for itself (8.0). A kernel's name carries its shared memory, for resource reports.
template <class Block, int Bytes>
constexpr bool fits_shared_memory = Bytes <= 99 * 1024 && Block::kBlocks * (Bytes + 1024) <= 164 * 1024;

constexpr int kOutside = -(1 << 30);  // a coordinate that no tap brings into an image

template <class Block, bool Forward>
struct DataLayout {
  using T = typename Block::Arithmetic::Element;
  using Sum = typename Block::Arithmetic::Sum;
  using TileA = SharedTile<T, Block::kM, Block::kStep>;
  using TileB =
      std::conditional_t<Forward, SharedTile<T, Block::kStep, Block::kN>, SharedTile<T, Block::kN, Block::kStep>>;
  using TileC = SharedTile<T, Block::kM, Block::kN>;
  static constexpr int pixels = 0;                         // SourcePixel of each row
  static constexpr int targets = pixels + Block::kM * 16;  // int64_t offset in the target, -1 where there is none
  static constexpr int biases = targets + Block::kM * 8;   // Sum of each column
  static constexpr int tiles = biases + Block::kN * int{sizeof(Sum)};
  static constexpr int stages = Block::kStages * (TileA::bytes + TileB::bytes);
  static constexpr int bytes = tiles + (stages > TileC::bytes ? stages : TileC::bytes);
};

// Forward pass (Forward) or input gradient. A block computes kM pixels of one phase times kN channels of one group.
template <class Block, bool Forward, int SharedBytes>
__global__ void __launch_bounds__(Block::kThreads, Block::kBlocks) data_kernel(const __grid_constant__ DataParams p) {
  using Layout = DataLayout<Block, Forward>;
  static_assert(SharedBytes == Layout::bytes && fits_shared_memory<Block, SharedBytes>);
  using T = typename Layout::T;
  using Sum = typename Layout::Sum;
  using TileA = typename Layout::TileA;
  using TileB = typename Layout::TileB;
  using TileC = typename Layout::TileC;
  const uint32_t memory = ptx::shared_memory();
  const int depth = Forward ? p.c : p.o, width = Forward ? p.o : p.c;

  int64_t block = ptx::block();
  const int n0 = static_cast<int>(block % p.n_tiles) * Block::kN;
  block /= p.n_tiles;
  const int64_t m0 = block % p.m_tiles * Block::kM;
  block /= p.m_tiles;
  const int group = static_cast<int>(block % p.groups);
  int j[2] = {0, 0};
  if (Forward) phase_of_rank(p, block / p.groups, j);
  const PhaseAxis y = Forward ? forward_phase(p.axes[0], j[0]) : gradient_phase(p.axes[0]);
  const PhaseAxis x = Forward ? forward_phase(p.axes[1], j[1]) : gradient_phase(p.axes[1]);
  const int64_t rows = p.n * y.outputs * x.outputs;
  if (m0 >= rows) return;

  const Strides from = p.source_strides, to = p.target_strides;
  for (int row = ptx::thread(); row < Block::kM; row += Block::kThreads) {
    SourcePixel pixel{0, kOutside, kOutside};
    int64_t target = -1;
    if (m0 + row < rows) {
      const int64_t line = (m0 + row) / x.outputs;
      const int qx = static_cast<int>(m0 + row - line * x.outputs);
      const int64_t image = line / y.outputs;
      const int qy = static_cast<int>(line - image * y.outputs);
      pixel.y = y.first + qy * y.pitch;
      pixel.x = x.first + qx * x.pitch;
      pixel.offset = image * from.n + pixel.y * from.h + pixel.x * from.w;
      target = image * to.n + (y.residue + int64_t{qy} * y.stride) * to.h + (x.residue + int64_t{qx} * x.stride) * to.w;
    }
    ptx::store_shared(memory + Layout::pixels + row * 16, pixel);
    ptx::store_shared(memory + Layout::targets + row * 8, target);
  }
  for (int column = ptx::thread(); column < Block::kN; column += Block::kThreads) {
    Sum bias = 0;
    if (p.bias != nullptr && n0 + column < width) {
      bias = ptx::to_accumulator(ptx::load(static_cast<const T*>(p.bias) + int64_t{group} * width + n0 + column));
    }
    ptx::store_shared(memory + Layout::biases + column * int{sizeof(Sum)}, bias);
  }
  ptx::barrier();

  const T* const source = static_cast<const T*>(p.source) + int64_t{group} * depth * from.c;
  const int64_t c_stride = int64_t{p.axes[0].kernel} * p.axes[1].kernel * p.o;
  const T* const weight = static_cast<const T*>(p.weight) + int64_t{group} * p.c * c_stride;
  const int height = Forward ? p.axes[0].in : p.axes[0].out, length = Forward ? p.axes[1].in : p.axes[1].out;
  int k0 = 0, ty = 0, tx = 0;  // of the next step: channels from k0 on of tap (ty, tx)
  const auto fetch = [&](uint32_t tile_a, uint32_t tile_b) {
    const int dy = -ty * y.step, dx = -tx * x.step;
    const T* const shifted = source + dy * from.h + dx * from.w + k0 * from.c;
    fetch_tile<TileA, Block::kThreads>(tile_a, p.source_access, from.c, depth - k0, [&](int row) -> Row<const T> {
      const auto pixel = ptx::load_shared<SourcePixel>(memory + Layout::pixels + row * 16);
      const bool inside = (static_cast<unsigned>(pixel.y + dy) < static_cast<unsigned>(height)) &
                          (static_cast<unsigned>(pixel.x + dx) < static_cast<unsigned>(length));
      return {shifted + pixel.offset, inside};
    });
    const int c0 = Forward ? k0 : n0, o0 = Forward ? n0 : k0;
    const int tap = (y.tap + ty * y.period) * p.axes[1].kernel + x.tap + tx * x.period;
    const T* const taps = weight + c0 * c_stride + tap * int64_t{p.o} + o0;
    fetch_tile<TileB, Block::kThreads>(tile_b, p.weight_access, 1, p.o - o0, [&](int row) -> Row<const T> {
      return {taps + row * c_stride, c0 + row < p.c};
    });
    // Taps are innermost: neighbouring ones read nearly the same pixels, which are then still in the L1 cache.
    if (++tx == x.taps) {
      tx = 0;
      if (++ty == y.taps) {
        ty = 0;
        k0 += Block::kStep;
      }
    }
  };
  const int steps = y.taps * x.taps * ((depth - 1) / Block::kStep + 1);
  auto sums = multiply<Block, TileA, true, TileB, !Forward>(memory + Layout::tiles, steps, fetch);

  struct alignas(2 * sizeof(T)) Two {
    T at[2];
  };
  struct alignas(2 * sizeof(Sum)) TwoSums {
    Sum at[2];
  };
  const auto activate = [slope = static_cast<Sum>(p.slope)](Sum z) {
    return z <= 0 ? (slope == 0 ? Sum{0} : z * slope) : z;  // a NaN passes
  };
  const uint32_t staged = memory + Layout::tiles;
  sums.each_pair([&](int row, int column, const Sum* pair) {
    const auto bias = ptx::load_shared<TwoSums>(memory + Layout::biases + column * int{sizeof(Sum)});
    Two two;
    for (int i = 0; i < 2; ++i) two.at[i] = ptx::from_accumulator<T>(activate(pair[i] + bias.at[i]));
    ptx::store_shared(TileC::at(staged, row, column), two);
  });
  ptx::barrier();
  T* const target = static_cast<T*>(p.target) + (int64_t{group} * width + n0) * to.c;
  store_tile<TileC, Block::kThreads>(staged, p.target_access, to.c, width - n0, [&](int row) -> Row<T> {
    const auto offset = ptx::load_shared<int64_t>(memory + Layout::targets + row * 8);
    return {target + offset, offset >= 0};
  });
}

// Where a pixel of x and the pixel of dy that a tap brings it to lie, in elements; -1 where dy has no such pixel.
struct alignas(16) PixelPair {
  int64_t x, dy;
};

template <class Block>
struct WeightGradientLayout {
  using T = typename Block::Arithmetic::Element;
  using TileA = SharedTile<T, Block::kStep, Block::kM>;
  using TileB = SharedTile<T, Block::kStep, Block::kN>;
  static constexpr int pixels = 0;  // PixelPair of each pixel of a step, for two steps
  static constexpr int tiles = 2 * Block::kStep * 16;
  static constexpr int bytes = tiles + Block::kStages * (TileA::bytes + TileB::bytes);
};

// Partial sums of the weight gradient: a block computes kM x kN weights of one tap over one stretch of the pixels of x.
template <class Block, int SharedBytes>
__global__ void __launch_bounds__(Block::kThreads, Block::kBlocks)
    weight_gradient_kernel(const __grid_constant__ WeightGradientParams p) {
  using Layout = WeightGradientLayout<Block>;
  static_assert(SharedBytes == Layout::bytes && fits_shared_memory<Block, SharedBytes>);
  using T = typename Layout::T;
  using Sum = typename Block::Arithmetic::Sum;
  const uint32_t memory = ptx::shared_memory();
  const int taps = p.axes[0].kernel * p.axes[1].kernel;

  // The taps of one stretch follow each other, so that they find it in the L2 cache.
  int64_t block = ptx::block();
  const int tap = static_cast<int>(block % taps);
  block /= taps;
  const int n0 = static_cast<int>(block % p.n_tiles) * Block::kN;
  block /= p.n_tiles;
  const int m0 = static_cast<int>(block % p.m_tiles) * Block::kM;
  block /= p.m_tiles;
  const int group = static_cast<int>(block % p.groups);
  const int64_t split = block / p.groups;

  const int64_t all_steps = (p.pixels + Block::kStep - 1) / Block::kStep, first_step = split * p.split_steps;
  const int64_t last_step = first_step + p.split_steps < all_steps ? first_step + p.split_steps : all_steps;
  const int steps = last_step > first_step ? static_cast<int>(last_step - first_step) : 0;
  const int shift_y = tap / p.axes[1].kernel * p.axes[0].dilation - p.axes[0].padding;
  const int shift_x = tap % p.axes[1].kernel * p.axes[1].dilation - p.axes[1].padding;
  const auto locate_pixels = [&](int step) {
    if (ptx::thread() >= Block::kStep) return;
    PixelPair pair{-1, -1};
    const int64_t pixel = (first_step + step) * Block::kStep + ptx::thread();
    if (pixel < p.pixels) {
      const int64_t line = pixel / p.axes[1].in, image = line / p.axes[0].in;
      const int ix = static_cast<int>(pixel - line * p.axes[1].in);
      const int iy = static_cast<int>(line - image * p.axes[0].in);
      const int oy = iy * p.axes[0].stride + shift_y, ox = ix * p.axes[1].stride + shift_x;
      if (oy >= 0 && oy < p.axes[0].out && ox >= 0 && ox < p.axes[1].out) {
        pair.x = image * p.x_strides.n + iy * p.x_strides.h + ix * p.x_strides.w;
        pair.dy = image * p.dy_strides.n + oy * p.dy_strides.h + ox * p.dy_strides.w;
      }
    }
    ptx::store_shared(memory + Layout::pixels + (step % 2 * Block::kStep + ptx::thread()) * 16, pair);
  };

  const T* const x = static_cast<const T*>(p.x) + (int64_t{group} * p.c + m0) * p.x_strides.c;
  const T* const dy = static_cast<const T*>(p.dy) + (int64_t{group} * p.o + n0) * p.dy_strides.c;
  int step = 0;
  const auto fetch = [&](uint32_t tile_a, uint32_t tile_b) {
    const uint32_t pixels = memory + Layout::pixels + step % 2 * Block::kStep * 16;
    const auto row_of = [&](const T* image, int member) {
      return [=](int row) -> Row<const T> {
        const auto offset = ptx::load_shared<int64_t>(pixels + row * 16 + member);
        return {image + offset, offset >= 0};
      };
    };
    fetch_tile<typename Layout::TileA, Block::kThreads>(tile_a, p.x_access, p.x_strides.c, p.c - m0, row_of(x, 0));
    fetch_tile<typename Layout::TileB, Block::kThreads>(tile_b, p.dy_access, p.dy_strides.c, p.o - n0, row_of(dy, 8));
    locate_pixels(++step);  // behind the barrier that precedes the next fetch
  };
  locate_pixels(0);
  ptx::barrier();
  auto sums = multiply<Block, typename Layout::TileA, false, typename Layout::TileB, false>(memory + Layout::tiles,
                                                                                            steps, fetch);

  const int64_t c_in = int64_t{p.groups} * p.c;
  Sum* const partial = static_cast<Sum*>(p.partial) + split * c_in * taps * p.o;
  sums.each_pair([&](int row, int column, const Sum* pair) {
    const int c = m0 + row, o = n0 + column;
    Sum* const target = partial + ((int64_t{group} * p.c + c) * taps + tap) * p.o + o;
    for (int i = 0; i < 2; ++i) {
      if (c < p.c && o + i < p.o) ptx::store(target + i, pair[i]);
    }
  });
}

constexpr int kSumThreads = 256;

// Adds the partial sums of every weight, first split to last.
template <class T, class Sum>
__global__ void __launch_bounds__(kSumThreads) sum_kernel(const __grid_constant__ SumParams p) {
  const int64_t index = ptx::block() * kSumThreads + ptx::thread();
  if (index >= p.count) return;
  const Sum* partial = static_cast<const Sum*>(p.partial) + index;
  Sum sum = 0;
#pragma unroll 4
  for (int64_t split = 0; split < p.splits; ++split) sum += ptx::load(partial + split * p.count);
  const int64_t line = index / p.o, c = line / p.taps;
  const int o = static_cast<int>(index - line * p.o), tap = static_cast<int>(line - c * p.taps);
  T* const target = static_cast<T*>(p.dweight) + c * p.strides[0] + o * p.strides[1] + tap / p.columns * p.strides[2] +
                    tap % p.columns * p.strides[3];
  ptx::store(target, ptx::from_accumulator<T>(sum));
}

// From here on: the host's side.

inline Axis axis(const ConvTranspose2dShape& s, int i) {
  const int stride = static_cast<int>(s.stride[i]), dilation = static_cast<int>(s.dilation[i]);
  const int kernel = static_cast<int>(s.kernel[i]), common = std::gcd(stride, dilation), period = stride / common;
  const int full = kernel <= period ? kernel : kernel % period == 0 ? period : kernel % period;
  return {static_cast<int>(s.in[i]),
          static_cast<int>(s.out[i]),
          stride,
          static_cast<int>(s.padding[i]),
          dilation,
          kernel,
          period,
          dilation / common,
          full};
}

// The most taps that a phase has along an axis, and the taps that follow.
inline int most_taps(const Axis& a) { return static_cast<int>(ceil_div(a.kernel, a.period)); }
inline int fewer_taps(const Axis& a) { return a.kernel / a.period; }

inline Strides strides(Layout layout, int64_t c, const int64_t (&size)[2]) {
  if (layout == Layout::nchw) return {c * size[0] * size[1], size[0] * size[1], size[1], 1};
  return {c * size[0] * size[1], 1, size[1] * c, c};
}

// Whether rows of `count` elements from `data` on are made of whole aligned vectors of 16 bytes.
template <class T>
bool in_vectors(const void* data, int64_t count) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && count * int64_t{sizeof(T)} % 16 == 0;
}

template <class T>
Access image_access(Layout layout, const void* data, int64_t channels) {
  if (layout == Layout::nchw) return Access::along_rows;
  return in_vectors<T>(data, channels) ? Access::vectors : Access::along_columns;
}

template <class Block, bool Forward>
struct DataLaunch {
  DataParams params;
  int64_t blocks;

  DataLaunch(const ConvTranspose2dShape& s, const void* source, const void* weight, const void* bias, void* target) {
    using T = typename Block::Arithmetic::Element;
    const int64_t c = s.c_in / s.groups, o = s.c_out / s.groups;
    DataParams& p = params;
    p.source = source, p.weight = weight, p.bias = bias, p.target = target;
    p.source_strides = Forward ? strides(s.layout, s.c_in, s.in) : strides(s.layout, s.c_out, s.out);
    p.target_strides = Forward ? strides(s.layout, s.c_out, s.out) : strides(s.layout, s.c_in, s.in);
    p.axes[0] = axis(s, 0), p.axes[1] = axis(s, 1);
    p.rows_first = most_taps(p.axes[0]) * fewer_taps(p.axes[1]) >= fewer_taps(p.axes[0]) * most_taps(p.axes[1]);
    p.n = s.n;
    const int64_t rows =
        Forward ? s.n * ceil_div(s.out[0], s.stride[0]) * ceil_div(s.out[1], s.stride[1]) : s.n * s.in[0] * s.in[1];
    p.m_tiles = ceil_div(rows, Block::kM);
    p.n_tiles = static_cast<int>(ceil_div(Forward ? o : c, Block::kN));
    p.groups = static_cast<int>(s.groups);
    p.c = static_cast<int>(c), p.o = static_cast<int>(o);
    p.slope = !Forward || s.activation == Activation::none ? 1 : s.activation == Activation::relu ? 0 : s.slope;
    p.source_access = image_access<T>(s.layout, source, Forward ? c : o);
    p.weight_access = in_vectors<T>(weight, o) ? Access::vectors : Access::along_columns;
    p.target_access = image_access<T>(s.layout, target, Forward ? o : c);
    blocks = p.m_tiles * p.n_tiles * s.groups * (Forward ? s.stride[0] * s.stride[1] : 1);
  }

  cudaError_t run(cudaStream_t stream) const {
    constexpr int shared_bytes = DataLayout<Block, Forward>::bytes;
    return ptx::launch(data_kernel<Block, Forward, shared_bytes>, blocks, Block::kThreads, shared_bytes, stream,
                       params);
  }
};

// Tries the blocks from the largest to the smallest until the device is filled: two blocks for each multiprocessor, and
// not more than half of a block's channels idle.
template <bool Forward, class Block, class... Smaller>
cudaError_t run_data(const ConvTranspose2dShape& s, int multiprocessors, const void* source, const void* weight,
                     const void* bias, void* target, cudaStream_t stream) {
  const DataLaunch<Block, Forward> launch(s, source, weight, bias, target);
  if constexpr (sizeof...(Smaller) > 0) {
    const int64_t channels = (Forward ? s.c_out : s.c_in) / s.groups;
    if (launch.blocks < 2 * int64_t{multiprocessors} || channels <= Block::kN / 2) {
      return run_data<Forward, Smaller...>(s, multiprocessors, source, weight, bias, target, stream);
    }
  }
  return launch.run(stream);
}

template <class Block>
struct WeightGradientLaunch {
  using T = typename Block::Arithmetic::Element;
  using Sum = typename Block::Arithmetic::Sum;
  WeightGradientParams params;
  int64_t blocks, splits, count;

  WeightGradientLaunch(const ConvTranspose2dShape& s, int multiprocessors) {
    WeightGradientParams& p = params;
    p.x_strides = strides(s.layout, s.c_in, s.in);
    p.dy_strides = strides(s.layout, s.c_out, s.out);
    p.axes[0] = axis(s, 0), p.axes[1] = axis(s, 1);
    p.pixels = s.n * s.in[0] * s.in[1];
    p.groups = static_cast<int>(s.groups);
    p.c = static_cast<int>(s.c_in / s.groups), p.o = static_cast<int>(s.c_out / s.groups);
    p.m_tiles = static_cast<int>(ceil_div(p.c, Block::kM)), p.n_tiles = static_cast<int>(ceil_div(p.o, Block::kN));
    // As many stretches of pixels as fill the device once, but none shorter than eight steps.
    const int64_t tiles = s.kernel[0] * s.kernel[1] * p.n_tiles * p.m_tiles * s.groups;
    const int64_t steps = ceil_div(p.pixels, Block::kStep), most = steps < 16 ? 1 : steps / 8;
    const int64_t wanted = int64_t{Block::kBlocks} * multiprocessors / tiles;
    p.split_steps = ceil_div(steps, wanted < 1 ? 1 : wanted < most ? wanted : most);
    splits = ceil_div(steps, p.split_steps);
    blocks = tiles * splits;
    count = s.c_in * s.kernel[0] * s.kernel[1] * p.o;
  }

  int64_t workspace() const { return splits * count * int64_t{sizeof(Sum)}; }

  cudaError_t run(const ConvTranspose2dShape& s, const void* dy, const void* x, void* dweight, void* workspace,
                  cudaStream_t stream) {
    params.x = x, params.dy = dy, params.partial = workspace;
    params.x_access = image_access<T>(s.layout, x, params.c);
    params.dy_access = image_access<T>(s.layout, dy, params.o);
    constexpr int shared_bytes = WeightGradientLayout<Block>::bytes;
    const cudaError_t error =
        ptx::launch(weight_gradient_kernel<Block, shared_bytes>, blocks, Block::kThreads, shared_bytes, stream, params);
    if (error != cudaSuccess) return error;
    SumParams sum{
        workspace, dweight, count, splits, static_cast<int>(s.kernel[0] * s.kernel[1]), static_cast<int>(s.kernel[1]),
        params.o,  {}};
    for (int i = 0; i < 4; ++i) sum.strides[i] = s.weight_stride[i];
    return ptx::launch(sum_kernel<T, Sum>, ceil_div(count, kSumThreads), kSumThreads, 0, stream, sum);
  }
};

}  // namespace fastgan::cuda
