// Images between the two layouts, for one instruction set: planes of T outside, pixels with channels innermost inside.
#pragma once

#include <utility>

#include "cpu/simd/gemm_kernels.h"
#include "cpu/simd/pixels.h"

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

// The first n lanes only, 0 < n < lanes; the others read as zeros.
template <class T>
FASTGAN_INLINE Vec<Accumulate<T>> load_some(const T* p, int64_t n) {
  using A = Accumulate<T>;
  A lanes[kLanes<A>] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = load_one(p + i);
  return load(lanes);
}
template <class T, class V>
FASTGAN_INLINE void store_some(T* p, V v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) store_one(p + i, v[i]);
}
#if defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 64
FASTGAN_INLINE __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
FASTGAN_INLINE VecF load_some(const float* p, int64_t n) { return (VecF)_mm512_maskz_loadu_ps(first_lanes(n), p); }
FASTGAN_INLINE VecD load_some(const double* p, int64_t n) {
  return (VecD)_mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(n)), p);
}
FASTGAN_INLINE VecF load_some(const BFloat16* p, int64_t n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return (VecF)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
FASTGAN_INLINE void store_some(float* p, VecF v, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v); }
FASTGAN_INLINE void store_some(double* p, VecD v, int64_t n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(n)), (__m512d)v);
}
FASTGAN_INLINE void store_some(BFloat16* p, VecF v, int64_t n) {
  alignas(32) BFloat16 rounded[16];
  store(rounded, v);
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm256_load_si256(reinterpret_cast<const __m256i*>(rounded)));
}
#endif

// Values that were read from T, which needs no rounding in S.
FASTGAN_INLINE void keep(float* p, VecF v) { store(p, v); }
FASTGAN_INLINE void keep(double* p, VecD v) { store(p, v); }
FASTGAN_INLINE void keep(BFloat16* p, VecF v) { *reinterpret_cast<VecHUnaligned*>(p) = narrow(float_to_bits(v) >> 16); }

template <class S, class T>
struct Pixels {
  using A = Accumulate<T>;
  using V = Vec<A>;
  static constexpr int64_t L = kLanes<A>;
  static constexpr int64_t kFewChannels = 3;  // so few are not worth a transpose

  static void copy(const T* from, S* to, int64_t n) {
    int64_t i = 0;
    for (; i + L <= n; i += L) keep(to + i, load(from + i));
    for (; i < n; ++i) store_one(to + i, load_one(from + i));
  }

  static void from_pixels(const T* from, int64_t from_pitch, S* to, int64_t pitch, int64_t pixels, int64_t channels) {
    for (int64_t p = 0; p < pixels; ++p, from += from_pitch, to += pitch) {
      int64_t c = 0;
      for (; c + L <= channels; c += L) keep(to + c, load(from + c));
      if (c < channels) store_some(to + c, load_some(from + c, channels - c), channels - c);
    }
  }

  static void from_planes(const T* from, int64_t plane, S* to, int64_t pitch, int64_t pixels, int64_t channels) {
    if (channels <= kFewChannels) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t p = 0; p < pixels; ++p) store_one(to + p * pitch + c, load_one(from + c * plane + p));
      }
      return;
    }
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t count = channels - c < L ? channels - c : L;
      for (int64_t p = 0; p < pixels; p += L) {
        const int64_t length = pixels - p < L ? pixels - p : L;
        const T* const x = from + c * plane + p;
        S* const y = to + p * pitch + c;
        V v[L] = {};
        if (count == L && length == L) {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) v[i] = load(x + i * plane);
        } else {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) {
            if (i < count) v[i] = length == L ? load(x + i * plane) : load_some(x + i * plane, length);
          }
        }
        transpose(v);
        if (count == L && length == L) {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) keep(y + i * pitch, v[i]);
        } else {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) {
            if (i >= length) break;
            if (count == L) {
              keep(y + i * pitch, v[i]);
            } else {
              store_some(y + i * pitch, v[i], count);
            }
          }
        }
      }
    }
  }

  static void to_planes(const A* sums, int64_t pitch, T* to, int64_t plane, int64_t pixels, int64_t channels,
                        const A* bias, Activation activation, A slope) {
    if (channels <= kFewChannels) {
      for (int64_t c = 0; c < channels; ++c) {
        const A shift = bias != nullptr ? bias[c] : A{};
        for (int64_t p = 0; p < pixels; ++p) {
          const A z = sums[p * pitch + c] + shift;
          store_one(to + c * plane + p, activated<A, A>(z, activation, slope));
        }
      }
      return;
    }
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t count = channels - c < L ? channels - c : L;
      const V shift = bias != nullptr ? load(bias + c) : V{};
      for (int64_t p = 0; p < pixels; p += L) {
        const int64_t length = pixels - p < L ? pixels - p : L;
        const A* const x = sums + p * pitch + c;
        T* const y = to + c * plane + p;
        V v[L] = {};
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) {
          if (i < length) v[i] = activated<V, A>(load(x + i * pitch) + shift, activation, slope);
        }
        transpose(v);
        if (count == L && length == L) {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) Step<S>::put(y + i * plane, v[i]);
        } else {
#pragma GCC unroll 16
          for (int i = 0; i < L; ++i) {
            if (i >= count) break;
            if (length == L) {
              Step<S>::put(y + i * plane, v[i]);
            } else {
              store_some(y + i * plane, v[i], length);
            }
          }
        }
      }
    }
  }

  static void group(const S* from, int64_t from_pitch, S* to, int64_t pitch, int64_t pixels, int64_t channels) {
    if constexpr (kTileGroup<S> == 1) {
      for (int64_t p = 0; p < pixels; ++p, from += from_pitch, to += pitch) {
        int64_t c = 0;
        for (; c + L <= channels; c += L) store(to + c, load(from + c));
        if (c < channels) store_some(to + c, load_some(from + c, channels - c), channels - c);
      }
    } else {
      for (int64_t p = 0; p < pixels; p += 2, from += 2 * from_pitch, to += 2 * pitch) {
        const bool both = p + 1 < pixels;
        int64_t c = 0;
        for (; both && c + L <= channels; c += L) {
          const VecU first = widen(*reinterpret_cast<const VecHUnaligned*>(from + c));
          const VecU second = widen(*reinterpret_cast<const VecHUnaligned*>(from + from_pitch + c));
          store(reinterpret_cast<float*>(to + 2 * c), bits_to_float(first | second << 16));
        }
        for (; c < channels; ++c) {
          to[2 * c] = from[c];
          to[2 * c + 1] = both ? from[from_pitch + c] : S{};
        }
      }
    }
  }
};

template <class S, class T>
constexpr TileKernels<S, T> tile_table() {
  using P = Pixels<S, T>;
  return {gemm_table<S, T>(), {P::copy, P::from_pixels, P::from_planes, P::to_planes, P::group}};
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
