// Vectors of the instruction set that the including file was opened for, on the compiler's vector extension.
//
// Included by kernels_<isa>.cpp only, after FASTGAN_ISA (a namespace) and FASTGAN_VECTOR_BYTES are defined and the
// instruction set is switched on. Everything the kernels call lives in that namespace or is an intrinsic: a function
// shared with other files could be merged by the linker with a copy that this processor cannot run.
#pragma once

#include "types.h"

#define FASTGAN_INLINE static inline __attribute__((always_inline))

namespace fastgan {
namespace FASTGAN_ISA {

typedef float VecF __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias));
typedef double VecD __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias));
typedef int32_t VecI __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias));
typedef uint32_t VecU __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias));
typedef float VecFUnaligned __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias, aligned(4)));
typedef double VecDUnaligned __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias, aligned(8)));
typedef uint16_t VecH __attribute__((vector_size(FASTGAN_VECTOR_BYTES / 2), may_alias));
typedef uint16_t VecHUnaligned __attribute__((vector_size(FASTGAN_VECTOR_BYTES / 2), may_alias, aligned(2)));

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = VecF;
};
template <>
struct VectorOf<double> {
  using type = VecD;
};
template <class A>
using Vec = typename VectorOf<A>::type;
template <class A>
constexpr int kLanes = FASTGAN_VECTOR_BYTES / static_cast<int>(sizeof(A));

FASTGAN_INLINE VecF bits_to_float(VecU u) { return (VecF)u; }
FASTGAN_INLINE VecU float_to_bits(VecF f) { return (VecU)f; }
FASTGAN_INLINE float bits_to_float(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
FASTGAN_INLINE uint32_t float_to_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}

// bfloat16 and half are widened and rounded (to nearest even, NaN kept) on 32-bit integers, vector or scalar alike.
template <class U, class F>
FASTGAN_INLINE U bfloat16_bits(F value) {
  const U u = float_to_bits(value);
  const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U quiet_nan = (u >> 16) | 0x40u;
  return (u & 0x7fffffffu) > U{} + 0x7f800000u ? quiet_nan : rounded;
}

template <class F, class U>
FASTGAN_INLINE F half_value(U bits) {
  const U magnitude = (bits & 0x7fffu) << 13;
  const F scaled = bits_to_float(magnitude) * 0x1p112f;
  const U finite = float_to_bits(scaled);
  const U value = magnitude >= U{} + (0x7c00u << 13) ? (magnitude | 0x7f800000u) : finite;
  return bits_to_float(value | ((bits & 0x8000u) << 16));
}

template <class U, class F>
FASTGAN_INLINE U half_bits(F value) {
  const U u = float_to_bits(value);
  const U magnitude = u & 0x7fffffffu;
  const U infinity = U{} + (255u << 23);
  // Below 2^-14 the sum with 0.5 leaves the subnormal half in the low bits, rounded by the addition itself.
  const U subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - (126u << 23);
  const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const U large = magnitude > infinity ? U{} + 0x7e00u : U{} + 0x7c00u;
  const U small = magnitude < U{} + (113u << 23) ? subnormal : normal;
  return (magnitude >= U{} + (143u << 23) ? large : small) | ((u >> 16) & 0x8000u);
}

// 16-bit integers to 32-bit lanes and back. The compiler's own conversion takes a detour through half vectors.
#if defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 64
FASTGAN_INLINE VecU widen(VecH h) { return (VecU)_mm512_cvtepu16_epi32((__m256i)h); }
FASTGAN_INLINE VecH narrow(VecU u) { return (VecH)_mm512_cvtepi32_epi16((__m512i)u); }
#elif defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 32
FASTGAN_INLINE VecU widen(VecH h) { return (VecU)_mm256_cvtepu16_epi32((__m128i)h); }
// Every lane holds at most 16 bits: nothing saturates.
FASTGAN_INLINE VecH narrow(VecU u) {
  return (VecH)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u), _mm256_extracti128_si256((__m256i)u, 1));
}
#else
FASTGAN_INLINE VecU widen(VecH h) { return __builtin_convertvector(h, VecU); }
FASTGAN_INLINE VecH narrow(VecU u) { return __builtin_convertvector(u, VecH); }
#endif

// A vector rounded to bfloat16. The instruction rounds as the integers do, but takes what is below 2^-126 for zero.
#if defined(FASTGAN_BFLOAT16_DOT)
FASTGAN_INLINE VecH to_bfloat16(VecF v) { return (VecH)_mm512_cvtneps_pbh((__m512)v); }
#else
FASTGAN_INLINE VecH to_bfloat16(VecF v) { return narrow(bfloat16_bits<VecU>(v)); }
#endif

// Whole vectors, from and to memory of any alignment.
FASTGAN_INLINE VecF load(const float* p) { return *reinterpret_cast<const VecFUnaligned*>(p); }
FASTGAN_INLINE VecD load(const double* p) { return *reinterpret_cast<const VecDUnaligned*>(p); }
FASTGAN_INLINE VecF load(const BFloat16* p) {
  const VecH h = *reinterpret_cast<const VecHUnaligned*>(p);
  return bits_to_float(widen(h) << 16);
}
FASTGAN_INLINE VecF load(const Half* p) {
  const VecH h = *reinterpret_cast<const VecHUnaligned*>(p);
  return half_value<VecF>(widen(h));
}
FASTGAN_INLINE void store(float* p, VecF v) { *reinterpret_cast<VecFUnaligned*>(p) = v; }
FASTGAN_INLINE void store(double* p, VecD v) { *reinterpret_cast<VecDUnaligned*>(p) = v; }
FASTGAN_INLINE void store(BFloat16* p, VecF v) { *reinterpret_cast<VecHUnaligned*>(p) = to_bfloat16(v); }
FASTGAN_INLINE void store(Half* p, VecF v) { *reinterpret_cast<VecHUnaligned*>(p) = narrow(half_bits<VecU>(v)); }

// Stores past the caches, to addresses of the vector's alignment: for results larger than the caches, which would only
// be read in to be overwritten. stream_end() orders them before later stores.
#if defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 64
FASTGAN_INLINE void stream(float* p, VecF v) { _mm512_stream_ps(p, (__m512)v); }
FASTGAN_INLINE void stream(double* p, VecD v) { _mm512_stream_pd(p, (__m512d)v); }
FASTGAN_INLINE void stream(BFloat16* p, VecF v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)to_bfloat16(v));
}
FASTGAN_INLINE void stream_end() { _mm_sfence(); }
#elif defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 32
FASTGAN_INLINE void stream(float* p, VecF v) { _mm256_stream_ps(p, (__m256)v); }
FASTGAN_INLINE void stream(double* p, VecD v) { _mm256_stream_pd(p, (__m256d)v); }
FASTGAN_INLINE void stream(BFloat16* p, VecF v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)to_bfloat16(v));
}
FASTGAN_INLINE void stream_end() { _mm_sfence(); }
#else
template <class T, class V>
FASTGAN_INLINE void stream(T* p, V v) {
  store(p, v);
}
FASTGAN_INLINE void stream_end() {}
#endif

// Single elements.
FASTGAN_INLINE float load_one(const float* p) { return *p; }
FASTGAN_INLINE double load_one(const double* p) { return *p; }
FASTGAN_INLINE float load_one(const BFloat16* p) { return bits_to_float(static_cast<uint32_t>(p->bits) << 16); }
FASTGAN_INLINE float load_one(const Half* p) { return half_value<float>(static_cast<uint32_t>(p->bits)); }
FASTGAN_INLINE void store_one(float* p, float v) { *p = v; }
FASTGAN_INLINE void store_one(double* p, double v) { *p = v; }
FASTGAN_INLINE void store_one(BFloat16* p, float v) { p->bits = static_cast<uint16_t>(bfloat16_bits<uint32_t>(v)); }
FASTGAN_INLINE void store_one(Half* p, float v) { p->bits = static_cast<uint16_t>(half_bits<uint32_t>(v)); }

// Reads and writes vectors or single elements, by the type V of the value.
template <class V>
struct Access {
  template <class T>
  FASTGAN_INLINE V get(const T* p) {
    return load(p);
  }
  template <class T>
  FASTGAN_INLINE void put(T* p, V v) {
    store(p, v);
  }
  template <class T>
  FASTGAN_INLINE void put(T* p, V v, bool past_caches) {
    if (past_caches) {
      stream(p, v);
    } else {
      store(p, v);
    }
  }
};
template <>
struct Access<float> {
  template <class T>
  FASTGAN_INLINE float get(const T* p) {
    return load_one(p);
  }
  template <class T>
  FASTGAN_INLINE void put(T* p, float v, bool = false) {
    store_one(p, v);
  }
};
template <>
struct Access<double> {
  template <class T>
  FASTGAN_INLINE double get(const T* p) {
    return load_one(p);
  }
  template <class T>
  FASTGAN_INLINE void put(T* p, double v, bool = false) {
    store_one(p, v);
  }
};

// a * b + c in one rounding where the instruction set has it. Forward and backward passes must agree on the sign of
// z, so both go through this function.
#if defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 64
FASTGAN_INLINE VecF fma(VecF a, VecF b, VecF c) { return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
FASTGAN_INLINE VecD fma(VecD a, VecD b, VecD c) { return (VecD)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES == 32
FASTGAN_INLINE VecF fma(VecF a, VecF b, VecF c) { return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
FASTGAN_INLINE VecD fma(VecD a, VecD b, VecD c) { return (VecD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
FASTGAN_INLINE VecF fma(VecF a, VecF b, VecF c) { return a * b + c; }
FASTGAN_INLINE VecD fma(VecD a, VecD b, VecD c) { return a * b + c; }
#endif
#if defined(FASTGAN_X86) && FASTGAN_VECTOR_BYTES >= 32
FASTGAN_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FASTGAN_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
FASTGAN_INLINE float fma(float a, float b, float c) { return a * b + c; }
FASTGAN_INLINE double fma(double a, double b, double c) { return a * b + c; }
#endif

// The value in every lane; a scalar stays itself.
template <class V, class A>
FASTGAN_INLINE V splat(A a) {
  return V{} + a;
}

// Whether vectors of A can be streamed to p.
template <class A, class T>
FASTGAN_INLINE bool can_stream(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (kLanes<A> * sizeof(T)) == 0;
}

// The lanes' sum in double, in a fixed order.
template <class V>
FASTGAN_INLINE double lane_sum(V v) {
  double sum = 0;
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(v[0])); ++i) sum += static_cast<double>(v[i]);
  return sum;
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
