// Matrix products of a block: tiles in shared memory, fragments of a warp, and the pipeline of copies and products.
//
// A block computes kM x kN sums over k, kStep elements of k at a time; a warp computes 16 x 16 tiles of them. Every
// arithmetic below gives a lane the same eight sums of such a tile: fragment_row(e), fragment_column(e).
#pragma once

#include <type_traits>

#include "cuda/ptx.cuh"

namespace fastgan::cuda {

// Rows x Columns elements in shared memory, columns adjacent, each row padded so that fragments load without bank
// conflicts.
template <class T, int Rows, int Columns>
struct SharedTile {
  static constexpr int rows = Rows, columns = Columns;
  static constexpr int row_bytes = Columns * int{sizeof(T)};
  static constexpr int pitch = row_bytes + (row_bytes <= 64 || sizeof(T) == 2 ? 16 : 32);
  static constexpr int bytes = Rows * pitch;
  using Element = T;

  FASTGAN_DEVICE static uint32_t at(uint32_t tile, int row, int column) {
    return tile + row * pitch + column * int{sizeof(T)};
  }
};

FASTGAN_DEVICE int fragment_row(int e) { return ptx::lane() / 4 + (e >> 1 & 1) * 8; }
FASTGAN_DEVICE int fragment_column(int e) { return ptx::lane() % 4 * 2 + (e & 1) + (e >> 2) * 8; }

// An arithmetic: how a lane loads its part of a 16 x kDepth tile of A (Tile: its SharedTile; KInner: whether k runs
// along the columns) and of a kDepth x 16 tile of B, and how it multiplies them.
//
// The instructions for m16n8k* take four 8 x (kDepth / 2) matrices of A, of which the second is below the first, and
// of two neighbouring B's, of which the second is behind the first along k. Where matrix i lies in the tile, along the
// rows of A or the columns of B, and along k:
struct Quarter {
  int other, k;
};
FASTGAN_DEVICE Quarter quarter_of_a(int i, int depth) { return {i % 2 * 8, i / 2 * depth / 2}; }
FASTGAN_DEVICE Quarter quarter_of_b(int i, int depth) { return {i / 2 * 8, i % 2 * depth / 2}; }

// Both operands by Math::load, which takes the position of a tile and its quarters.
template <class Math>
struct Quartered {
  using A = uint32_t[4];
  using B = uint32_t[4];

  template <class Tile, bool KInner>
  FASTGAN_DEVICE static void load_a(A& a, uint32_t tile, int m, int k) {
    Math::template load<Tile, KInner>(a, tile, m, k, quarter_of_a);
  }

  template <class Tile, bool KInner>
  FASTGAN_DEVICE static void load_b(B& b, uint32_t tile, int n, int k) {
    Math::template load<Tile, KInner>(b, tile, n, k, quarter_of_b);
  }
};

// bfloat16 and float16 on tensor cores, sums in float.
template <class T>
struct TensorHalf : Quartered<TensorHalf<T>> {
  using Element = T;
  using Sum = float;
  static constexpr int kDepth = 16;

  template <class Tile, bool KInner, class QuarterOf>
  FASTGAN_DEVICE static void load(uint32_t (&r)[4], uint32_t tile, int other, int k, QuarterOf quarter) {
    const Quarter at = quarter(ptx::lane() / 8, kDepth);
    const int row = ptx::lane() % 8;
    if constexpr (KInner) {
      ptx::load_matrices(r, Tile::at(tile, other + at.other + row, k + at.k));
    } else {
      ptx::load_matrices_transposed(r, Tile::at(tile, k + at.k + row, other + at.other));
    }
  }

  FASTGAN_DEVICE static void multiply(float (&sums)[2][4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    ptx::mma_m16n8k16(T{}, sums[0], a, b[0], b[1]);
    ptx::mma_m16n8k16(T{}, sums[1], a, b[2], b[3]);
  }
};

// float on tensor cores, products rounded to TF32.
struct TensorTf32 : Quartered<TensorTf32> {
  using Element = float;
  using Sum = float;
  static constexpr int kDepth = 8;

  template <class Tile, bool KInner, class QuarterOf>
  FASTGAN_DEVICE static void load(uint32_t (&r)[4], uint32_t tile, int other, int k, QuarterOf quarter) {
    if constexpr (KInner) {  // an 8x8 matrix of 16-bit elements is an 8x4 matrix of floats
      const Quarter at = quarter(ptx::lane() / 8, kDepth);
      ptx::load_matrices(r, Tile::at(tile, other + at.other + ptx::lane() % 8, k + at.k));
    } else {
      for (int i = 0; i < 4; ++i) {
        const Quarter at = quarter(i, kDepth);
        const int row = k + at.k + ptx::lane() % 4, column = other + at.other + ptx::lane() / 4;
        r[i] = ptx::load_shared<uint32_t>(Tile::at(tile, row, column));
      }
    }
    for (uint32_t& bits : r) bits = ptx::round_to_tf32(bits);
  }

  FASTGAN_DEVICE static void multiply(float (&sums)[2][4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    ptx::mma_m16n8k8_tf32(sums[0], a, b[0], b[1]);
    ptx::mma_m16n8k8_tf32(sums[1], a, b[2], b[3]);
  }
};

// float in full precision, by multiply-adds of single lanes.
struct SimtFloat {
  using Element = float;
  using Sum = float;
  static constexpr int kDepth = 4;
  using A = float[2][4];  // of two rows
  using B = float[4][4];  // of four columns
  struct alignas(8) Two {
    float at[2];
  };
  struct alignas(16) Four {
    float at[4];
  };

  template <class Tile, bool KInner>
  FASTGAN_DEVICE static void load_a(A& a, uint32_t tile, int m, int k) {
    for (int i = 0; i < 2; ++i) {
      const int row = m + ptx::lane() / 4 + i * 8;
      if constexpr (KInner) {
        const Four four = ptx::load_shared<Four>(Tile::at(tile, row, k));
        for (int j = 0; j < 4; ++j) a[i][j] = four.at[j];
      } else {
        for (int j = 0; j < 4; ++j) a[i][j] = ptx::load_shared<float>(Tile::at(tile, k + j, row));
      }
    }
  }

  template <class Tile, bool KInner>
  FASTGAN_DEVICE static void load_b(B& b, uint32_t tile, int n, int k) {
    for (int i = 0; i < 2; ++i) {
      const int column = n + ptx::lane() % 4 * 2 + i * 8;
      for (int j = 0; j < (KInner ? 2 : 4); ++j) {
        if constexpr (KInner) {
          const Four four = ptx::load_shared<Four>(Tile::at(tile, column + j, k));
          for (int d = 0; d < 4; ++d) b[i * 2 + j][d] = four.at[d];
        } else {
          const Two two = ptx::load_shared<Two>(Tile::at(tile, k + j, column));
          for (int d = 0; d < 2; ++d) b[i * 2 + d][j] = two.at[d];
        }
      }
    }
  }

  FASTGAN_DEVICE static void multiply(float (&sums)[2][4], const A& a, const B& b) {
    for (int k = 0; k < kDepth; ++k) {
      for (int e = 0; e < 8; ++e) {
        float& sum = sums[e / 4][e % 4];
        sum = ptx::fused_multiply_add(a[e / 2 % 2][k], b[e / 4 * 2 + e % 2][k], sum);
      }
    }
  }
};

// double on tensor cores.
struct TensorDouble {
  using Element = double;
  using Sum = double;
  static constexpr int kDepth = 4;
  using A = double[2];
  using B = double[2];

  template <class Tile, bool KInner>
  FASTGAN_DEVICE static void load_a(A& a, uint32_t tile, int m, int k) {
    for (int i = 0; i < 2; ++i) a[i] = element<Tile, KInner>(tile, m + i * 8, k);
  }

  template <class Tile, bool KInner>
  FASTGAN_DEVICE static void load_b(B& b, uint32_t tile, int n, int k) {
    for (int i = 0; i < 2; ++i) b[i] = element<Tile, KInner>(tile, n + i * 8, k);
  }

  FASTGAN_DEVICE static void multiply(double (&sums)[2][4], const A& a, const B& b) {
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < 2; ++i) {
        double quarter[2] = {sums[j][i * 2], sums[j][i * 2 + 1]};
        ptx::mma_m8n8k4(quarter, a[i], b[j]);
        sums[j][i * 2] = quarter[0], sums[j][i * 2 + 1] = quarter[1];
      }
    }
  }

 private:
  template <class Tile, bool KInner>
  FASTGAN_DEVICE static double element(uint32_t tile, int other, int k) {
    const int along = other + ptx::lane() / 4, depth = k + ptx::lane() % 4;
    return ptx::load_shared<double>(KInner ? Tile::at(tile, along, depth) : Tile::at(tile, depth, along));
  }
};

// How a block is cut: kM x kN sums, of which a warp has WarpM x WarpN; how many steps of k are in flight, and how many
// blocks shall fit a multiprocessor (that bounds the registers).
template <class Math, int M, int N, int WarpM, int WarpN, int Stages, int Blocks>
struct BlockShape {
  using Arithmetic = Math;
  static constexpr int kM = M, kN = N, kWarpM = WarpM, kWarpN = WarpN, kStages = Stages, kBlocks = Blocks;
  static constexpr int kStep = 64 / int{sizeof(typename Math::Element)};
  static constexpr int kThreads = M / WarpM * (N / WarpN) * 32;
};

// The sums of a lane: [tile along m][tile along n][half of the tile][sum].
template <class Block>
struct Sums {
  using Sum = typename Block::Arithmetic::Sum;
  Sum at[Block::kWarpM / 16][Block::kWarpN / 16][2][4];

  // body(row, column, pair): two sums of adjacent columns at a time, positions within the block.
  template <class Body>
  FASTGAN_DEVICE void each_pair(Body body) {
    const int warp = ptx::thread() / 32;
    const int m = warp % (Block::kM / Block::kWarpM) * Block::kWarpM;
    const int n = warp / (Block::kM / Block::kWarpM) * Block::kWarpN;
#pragma unroll
    for (int j = 0; j < Block::kWarpN / 16; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < Block::kWarpM / 16; ++i) {
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            const int e = half * 4 + row * 2;
            body(m + i * 16 + fragment_row(e), n + j * 16 + fragment_column(e), &at[i][j][half][row * 2]);
          }
        }
      }
    }
  }
};

// Adds the products of one step to the sums.
template <class Block, class TileA, bool AKInner, class TileB, bool BKInner>
FASTGAN_DEVICE void multiply_step(Sums<Block>& sums, uint32_t tile_a, uint32_t tile_b) {
  using Math = typename Block::Arithmetic;
  const int warp = ptx::thread() / 32;
  const int m = warp % (Block::kM / Block::kWarpM) * Block::kWarpM;
  const int n = warp / (Block::kM / Block::kWarpM) * Block::kWarpN;
#pragma unroll
  for (int k = 0; k < Block::kStep; k += Math::kDepth) {
    typename Math::A a[Block::kWarpM / 16];
#pragma unroll
    for (int i = 0; i < Block::kWarpM / 16; ++i) Math::template load_a<TileA, AKInner>(a[i], tile_a, m + i * 16, k);
#pragma unroll
    for (int j = 0; j < Block::kWarpN / 16; ++j) {
      typename Math::B b;
      Math::template load_b<TileB, BKInner>(b, tile_b, n + j * 16, k);
#pragma unroll
      for (int i = 0; i < Block::kWarpM / 16; ++i) Math::multiply(sums.at[i][j], a[i], b);
    }
  }
}

// The sums over `steps` steps. fetch(tile_a, tile_b), called once for each step in order and with a barrier between two
// calls, starts the copies of the next step's tiles. Ends with every copy complete and shared memory free.
template <class Block, class TileA, bool AKInner, class TileB, bool BKInner, class Fetch>
FASTGAN_DEVICE Sums<Block> multiply(uint32_t memory, int steps, Fetch fetch) {
  constexpr int stage_bytes = TileA::bytes + TileB::bytes;
  Sums<Block> sums{};
  for (int s = 0; s < Block::kStages - 1; ++s) {
    if (s < steps) fetch(memory + s * stage_bytes, memory + s * stage_bytes + TileA::bytes);
    ptx::commit();
    ptx::barrier();
  }
  uint32_t stage = memory, free_stage = memory + (Block::kStages - 1) * stage_bytes;
  const uint32_t last_stage = free_stage;
  for (int s = 0; s < steps; ++s) {
    ptx::wait<Block::kStages - 2>();
    ptx::barrier();  // this step's tiles are complete, and the tiles of the step before are used up
    if (s + Block::kStages - 1 < steps) fetch(free_stage, free_stage + TileA::bytes);
    ptx::commit();
    multiply_step<Block, TileA, AKInner, TileB, BKInner>(sums, stage, stage + TileA::bytes);
    free_stage = stage;
    stage = stage == last_stage ? memory : stage + stage_bytes;
  }
  ptx::wait<0>();
  ptx::barrier();
  return sums;
}

// How threads walk a tile: 16 bytes along the columns each, or single elements with neighbouring threads along the
// columns or along the rows, whichever is adjacent in global memory.
enum class Access { vectors, along_columns, along_rows };

// body(row, column) for every Width elements of a tile.
template <class Tile, int Width, bool AlongRows, int Threads, class Body>
FASTGAN_DEVICE void walk(Body body) {
  constexpr int across = Tile::columns / Width, rounds = Tile::rows * across / Threads;
  static_assert(rounds * Threads == Tile::rows * across, "threads share a tile evenly");
#pragma unroll(rounds <= 4 ? rounds : 4)
  for (int i = 0; i < rounds; ++i) {
    const int index = i * Threads + ptx::thread();
    if constexpr (AlongRows) {
      body(index % Tile::rows, index / Tile::rows * Width);
    } else {
      body(index / across, index % across * Width);
    }
  }
}

// The first column of a tile's row in global memory; its elements are not touched where it is not inside.
template <class T>
struct Row {
  T* at;
  bool inside;
};

// Starts copying a tile, of which `columns` columns exist, `stride` elements apart in global memory (one in vectors);
// the rest, and rows that are not inside, become zero. locate(row) gives the Row.
template <class Tile, int Threads, class Locate>
FASTGAN_DEVICE void fetch_tile(uint32_t tile, Access access, int64_t stride, int columns, Locate locate) {
  using T = typename Tile::Element;
  const auto copy = [&](auto bytes, int row, int column, int64_t offset) {
    const Row<const T> source = locate(row);
    ptx::copy_async<decltype(bytes)::value>(Tile::at(tile, row, column), source.at + offset,
                                            source.inside & (column < columns));
  };
  using Vector = std::integral_constant<int, 16>;
  using Scalar = std::integral_constant<int, sizeof(T)>;
  if (access == Access::vectors) {
    walk<Tile, 16 / sizeof(T), false, Threads>([&](int row, int column) { copy(Vector{}, row, column, column); });
  } else if (access == Access::along_columns) {
    walk<Tile, 1, false, Threads>([&](int row, int column) { copy(Scalar{}, row, column, column * stride); });
  } else {
    walk<Tile, 1, true, Threads>([&](int row, int column) { copy(Scalar{}, row, column, column * stride); });
  }
}

// Writes a tile to global memory; the arguments are those of fetch_tile.
template <class Tile, int Threads, class Locate>
FASTGAN_DEVICE void store_tile(uint32_t tile, Access access, int64_t stride, int columns, Locate locate) {
  using T = typename Tile::Element;
  struct alignas(16) Vector {
    uint32_t words[4];
  };
  const auto put = [&](auto pattern, int row, int column, int64_t offset) {
    using Value = decltype(pattern);
    const Row<T> target = locate(row);
    const Value value = ptx::load_shared<Value>(Tile::at(tile, row, column));
    if (target.inside & (column < columns)) ptx::store(reinterpret_cast<Value*>(target.at + offset), value);
  };
  if (access == Access::vectors) {
    walk<Tile, 16 / sizeof(T), false, Threads>([&](int row, int column) { put(Vector{}, row, column, column); });
  } else if (access == Access::along_columns) {
    walk<Tile, 1, false, Threads>([&](int row, int column) { put(T{}, row, column, column * stride); });
  } else {
    walk<Tile, 1, true, Threads>([&](int row, int column) { put(T{}, row, column, column * stride); });
  }
}

}  // namespace fastgan::cuda
