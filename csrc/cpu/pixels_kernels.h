// Images between the two layouts, for one instruction set: planes of T outside, pixels with channels innermost inside.
#pragma once

#include <utility>

#include "gemm_kernels.h"
#include "pixels.h"

namespace fastgan {
namespace FASTGAN_ISA {

template <class V>
constexpr int kLength = sizeof(V) / sizeof(V{}[0]);

// Elements of a and b in turns: the first halves of both, then the second halves.
template <class V, int... I>
FASTGAN_INLINE void interleave(V a, V b, V& low, V& high, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
  low = __builtin_shufflevector(a, b, ((I % 2) * L + I / 2)...);
  high = __builtin_shufflevector(a, b, ((I % 2) * L + I / 2 + L / 2)...);
}

// Interleaving rows i and i + L / 2 rotates the bits of (row, column) by one: log2(L) times make the transpose.
template <class V>
FASTGAN_INLINE void transpose(V (&rows)[kLength<V>]) {
  constexpr int L = kLength<V>;
#pragma GCC unroll 4
  for (int round = 1; round < L; round *= 2) {
    V next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      interleave(rows[i], rows[i + L / 2], next[2 * i], next[2 * i + 1], std::make_integer_sequence<int, L>());
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) rows[i] = next[i];
  }
}

template <class S, class T>
struct Pixels {
  using A = Accumulate<T>;
  using V = Vec<A>;
  static constexpr int64_t L = kLanes<A>;

  static void copy(const T* from, S* to, int64_t n) {
    int64_t i = 0;
    for (; i + L <= n; i += L) store(to + i, load(from + i));
    for (; i < n; ++i) store_one(to + i, load_one(from + i));
  }

  static void from_planes(const T* from, int64_t plane, S* to, int64_t pitch, int64_t pixels, int64_t channels) {
    int64_t c = 0;
    for (; c + L <= channels; c += L) {
      int64_t p = 0;
      for (; p + L <= pixels; p += L) {
        V v[L];
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) v[i] = load(from + (c + i) * plane + p);
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(to + (p + i) * pitch + c, v[i]);
      }
      for (int i = 0; i < L; ++i) {
        for (int64_t q = p; q < pixels; ++q) store_one(to + q * pitch + c + i, load_one(from + (c + i) * plane + q));
      }
    }
    for (; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) store_one(to + p * pitch + c, load_one(from + c * plane + p));
    }
  }

  static void to_planes(const A* sums, int64_t pitch, T* to, int64_t plane, int64_t pixels, int64_t channels,
                        const A* bias, Activation activation, A slope) {
    for (int64_t c = 0; c < channels; c += L) {
      const int count = static_cast<int>(channels - c < L ? channels - c : L);
      const V shift = bias != nullptr ? load(bias + c) : V{};
      int64_t p = 0;
      for (; p + L <= pixels; p += L) {
        V v[L];
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) {
          v[i] = activated<V, A>(load(sums + (p + i) * pitch + c) + shift, activation, slope);
        }
        transpose(v);
        if (count == L) {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) store(to + (c + i) * plane + p, v[i]);
        } else {
          for (int i = 0; i < count; ++i) store(to + (c + i) * plane + p, v[i]);
        }
      }
      for (; p < pixels; ++p) {
        const V v = activated<V, A>(load(sums + p * pitch + c) + shift, activation, slope);
        for (int i = 0; i < count; ++i) store_one(to + (c + i) * plane + p, v[i]);
      }
    }
  }
};

template <class S, class T>
constexpr TileKernels<S, T> tile_table() {
  return {gemm_table<S, T>(), {Pixels<S, T>::copy, Pixels<S, T>::from_planes, Pixels<S, T>::to_planes}};
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
