// The register tiles of gemm.h for one instruction set.
#pragma once

#include <utility>

#include "cpu/simd/gemm.h"
#include "cpu/simd/simd.h"

namespace fastgan {
namespace FASTGAN_ISA {

// 32 registers hold 14 x 2 sums, two vectors of b and one of a; 16 registers hold 6 x 2.
constexpr int kTileRows = FASTGAN_VECTOR_BYTES == 64 ? 14 : 6;

// One step along k: a vector of b, an element of a in every lane, and their product added to the sums; and how sums
// become results.
template <class S>
struct Step {
  using V = Vec<S>;
  static constexpr int kElements = 1;
  FASTGAN_INLINE V vector(const S* b) { return load(b); }
  FASTGAN_INLINE V broadcast(const S* a) { return *a - V{}; }
  FASTGAN_INLINE V multiply_add(V a, V b, V sum) { return fma(a, b, sum); }
  template <class T>
  FASTGAN_INLINE void put(T* p, V sum) {
    store(p, sum);
  }
};

#if defined(FASTGAN_BFLOAT16_DOT)
template <>
struct Step<BFloat16> {
  using V = __m512bh;
  static constexpr int kElements = 2;
  FASTGAN_INLINE V vector(const BFloat16* b) { return (V)_mm512_loadu_si512(b); }
  FASTGAN_INLINE V broadcast(const BFloat16* a) {
    int32_t pair;
    __builtin_memcpy(&pair, a, 4);
    return (V)_mm512_set1_epi32(pair);
  }
  FASTGAN_INLINE VecF multiply_add(V a, V b, VecF sum) { return (VecF)_mm512_dpbf16_ps((__m512)sum, a, b); }
  // As the products do, the instruction takes denormals for zeros.
  FASTGAN_INLINE void put(BFloat16* p, VecF sum) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)sum));
  }
};
#endif

// Element i * row of p, with few registers: bases seven rows apart, and offsets that x86 can scale.
template <int I, class S>
FASTGAN_INLINE const S* row_of(const S* const (&bases)[2], int64_t row, int64_t row3, int64_t row5) {
  constexpr int R = I % 7;
  const int64_t offset = R == 0   ? 0
                         : R == 1 ? row
                         : R == 2 ? 2 * row
                         : R == 3 ? row3
                         : R == 4 ? 4 * row
                         : R == 5 ? row5
                                  : 2 * row3;
  return bases[I / 7] + offset;
}

template <class V, class A>
FASTGAN_INLINE V activated(V z, Activation activation, A slope) {
  if (activation == Activation::none) return z;
  const V low = activation == Activation::relu ? V{} : z * slope;
  return z <= V{} ? low : z;
}

template <class S, class T, int M, int N>
struct Tile {
  using A = Accumulate<T>;
  using V = Vec<A>;

  template <int... I>
  FASTGAN_INLINE void step(V (&sum)[M][N], const S* const (&bases)[2], const S* b, int64_t row, int64_t row3,
                           int64_t row5, std::integer_sequence<int, I...>) {
    using K = Step<S>;
    typename K::V right[N];
    for (int j = 0; j < N; ++j) right[j] = K::vector(b + j * kLanes<A> * K::kElements);
    (
        [&] {
          const typename K::V left = K::broadcast(row_of<I>(bases, row, row3, row5));
          for (int j = 0; j < N; ++j) sum[I][j] = K::multiply_add(left, right[j], sum[I][j]);
        }(),
        ...);
  }

  static void run(const GemmTile<S, T>& t) {
    V sum[M][N] = {};
    const int64_t row = t.row, row3 = 3 * row, row5 = 5 * row, step_a = t.step;
    for (int64_t r = 0; r < t.count; ++r) {
      const S* b = t.runs[r].b;
      const S* bases[2] = {t.runs[r].a, t.runs[r].a + 7 * row};
      for (int64_t k = t.runs[r].depth; k > 0; --k) {
        step(sum, bases, b, row, row3, row5, std::make_integer_sequence<int, M>());
        bases[0] += step_a;
        bases[1] += step_a;
        b += N * kLanes<A> * Step<S>::kElements;
      }
    }
    if (t.c != nullptr) {
      for (int i = 0; i < M; ++i) {
        for (int j = 0; j < N; ++j) {
          A* const c = t.c + i * t.out_row + j * kLanes<A>;
          store(c, t.add ? load(c) + sum[i][j] : sum[i][j]);
        }
      }
      return;
    }
    for (int j = 0; j < N; ++j) {
      const V bias = t.bias != nullptr ? load(t.bias + j * kLanes<A>) : V{};
      for (int i = 0; i < M; ++i) sum[i][j] = activated<V, A>(sum[i][j] + bias, t.activation, t.slope);
    }
    if (t.columns == N * kLanes<A>) {
      for (int i = 0; i < M; ++i) {
        for (int j = 0; j < N; ++j) Step<S>::put(t.y + i * t.out_row + j * kLanes<A>, sum[i][j]);
      }
      return;
    }
    A row_sums[N * kLanes<A>];
    for (int i = 0; i < M; ++i) {
      for (int j = 0; j < N; ++j) store(row_sums + j * kLanes<A>, sum[i][j]);
      for (int64_t j = 0; j < t.columns; ++j) store_one(t.y + i * t.out_row + j, row_sums[j]);
    }
  }
};

template <class S, class T, int... I>
constexpr GemmKernels<S, T> gemm_table(std::integer_sequence<int, I...>) {
  return {kTileRows, kLanes<Accumulate<T>>, {{Tile<S, T, I + 1, 1>::run...}, {Tile<S, T, I + 1, 2>::run...}}};
}

template <class S, class T>
constexpr GemmKernels<S, T> gemm_table() {
  return gemm_table<S, T>(std::make_integer_sequence<int, kTileRows>());
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
