// What csrc/cuda/ptx.cuh gives a CUDA compiler, for a host compiler: the same functions, executed by machine.h.
//
// Fragment layouts are written down from the PTX ISA ("Matrix Fragments for mma.m16n8k16", ".m16n8k8", ".m8n8k4" and
// "ldmatrix"), with its names: group = lane / 4, in_group = lane % 4.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "machine.h"

#define FASTGAN_DEVICE inline
#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)

namespace fastgan::ptx {

inline int thread() { return emulation::thread(); }
inline int lane() { return emulation::thread() % emulation::kWarp; }
inline int64_t block() { return emulation::block(); }
inline void barrier() { emulation::barrier(); }
inline uint32_t shared_memory() { return emulation::kSharedBase; }

template <class T>
T load(const T* source) {
  emulation::check_read(source, sizeof(T));
  return *source;
}

template <class T>
void store(T* target, T value) {
  emulation::check_write(target, sizeof(T));
  std::memcpy(static_cast<void*>(target), &value, sizeof(T));
}

template <class T>
T load_shared(uint32_t address) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  std::memcpy(&value, emulation::shared(address, sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void store_shared(uint32_t address, T value) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  std::memcpy(emulation::shared(address, sizeof(T)), &value, sizeof(T));
}

template <int Bytes>
void copy_async(uint32_t target, const void* source, bool valid) {
  if constexpr (Bytes == 2) {
    store_shared<uint16_t>(target, valid ? load(static_cast<const uint16_t*>(source)) : uint16_t{0});
  } else {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
    emulation::copy_async(target, source, Bytes, valid);
  }
}

inline void commit() { emulation::commit(); }
template <int Pending>
void wait() {
  emulation::wait(Pending);
}

// Conversions, rounding to nearest, ties to even.

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float to_accumulator(float value) { return value; }
inline double to_accumulator(double value) { return value; }
inline float to_accumulator(BFloat16 value) { return float_of(uint32_t{value.bits} << 16); }
inline float to_accumulator(Half value) {
  const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  const float normal = std::ldexp(float(1024 + mantissa), exponent - 25), tiny = std::ldexp(float(mantissa), -24);
  float magnitude = exponent == 0 ? tiny : normal;
  if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
  return value.bits >> 15 ? -magnitude : magnitude;
}

template <class T>
T from_accumulator(float value);
template <>
inline float from_accumulator<float>(float value) {
  return value;
}
template <>
inline BFloat16 from_accumulator<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return {0x7FFF};
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
template <>
inline Half from_accumulator<Half>(float value) {
  const uint16_t sign = bits_of(value) >> 31 << 15;
  const float magnitude = std::fabs(value);
  if (value != value) return {0x7FFF};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7C00)};
  if (magnitude < 0x1p-14f) return {static_cast<uint16_t>(sign | int(std::nearbyint(std::ldexp(magnitude, 24))))};
  int exponent;
  const float fraction = std::frexp(magnitude, &exponent);
  const int mantissa = int(std::nearbyint(fraction * 2048));
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + mantissa - 1024))};
}
template <class T>
T from_accumulator(double value) {
  return value;
}

inline uint32_t round_to_tf32(uint32_t bits) {
  const float value = float_of(bits);
  return std::isfinite(value) ? (bits + 0x1000) & 0xFFFFE000 : bits;
}

inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }

// ldmatrix .x4: lane i holds the address of row i % 8 of matrix i / 8; every row is 16 aligned bytes.

struct Matrices {
  uint32_t address;
  uint32_t* r;
};

template <bool Transposed>
void execute_load_matrices(void* const (&lanes)[emulation::kWarp]) {
  uint16_t matrices[4][8][8];
  for (int i = 0; i < 32; ++i) {
    std::memcpy(matrices[i / 8][i % 8], emulation::shared(static_cast<Matrices*>(lanes[i])->address, 16), 16);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    for (int j = 0; j < 4; ++j) {
      uint16_t pair[2];
      for (int e = 0; e < 2; ++e) {
        pair[e] = Transposed ? matrices[j][in_group * 2 + e][group] : matrices[j][group][in_group * 2 + e];
      }
      std::memcpy(&static_cast<Matrices*>(lanes[lane])->r[j], pair, 4);
    }
  }
}

inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  Matrices mine{address, r};
  emulation::together(execute_load_matrices<false>, &mine);
}

inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  Matrices mine{address, r};
  emulation::together(execute_load_matrices<true>, &mine);
}

// mma: the fragments are put together to whole matrices, which are multiplied.

struct Operands {
  const void *a, *b;
  void* c;
};

template <int M, int N, int K, class T>
void multiply_matrices(const T (&a)[M][K], const T (&b)[K][N], T (&c)[M][N]) {
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      T sum = 0;
      for (int k = 0; k < K; ++k) sum += a[m][k] * b[k][n];
      c[m][n] = sum;
    }
  }
}

// Accumulators of the m16n8 shapes: c0, c1 in row group, c2, c3 in row group + 8; columns 2 in_group + (i & 1).
inline void add_m16n8(void* const (&lanes)[emulation::kWarp], const float (&product)[16][8]) {
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    auto* c = static_cast<float*>(static_cast<Operands*>(lanes[lane])->c);
    for (int i = 0; i < 4; ++i) c[i] += product[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
  }
}

template <class T>
void execute_m16n8k16(void* const (&lanes)[emulation::kWarp]) {
  float a[16][16], b[16][8], product[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    T of_a[8], of_b[4];
    std::memcpy(of_a, static_cast<Operands*>(lanes[lane])->a, sizeof of_a);
    std::memcpy(of_b, static_cast<Operands*>(lanes[lane])->b, sizeof of_b);
    for (int i = 0; i < 8; ++i) {
      const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
      const int column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      a[row][column] = to_accumulator(of_a[i]);
    }
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      b[row][group] = to_accumulator(of_b[i]);
    }
  }
  multiply_matrices<16, 8, 16>(a, b, product);
  add_m16n8(lanes, product);
}

template <class T>
void mma_m16n8k16(T, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  Operands mine{a, b, c};
  emulation::together(execute_m16n8k16<T>, &mine);
}

// The low 13 bits of a TF32 operand are not read.
inline void execute_m16n8k8_tf32(void* const (&lanes)[emulation::kWarp]) {
  float a[16][8], b[8][8], product[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    const auto* of_a = static_cast<const uint32_t*>(static_cast<Operands*>(lanes[lane])->a);
    const auto* of_b = static_cast<const uint32_t*>(static_cast<Operands*>(lanes[lane])->b);
    for (int i = 0; i < 4; ++i) {
      const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? in_group : in_group + 4;
      a[row][column] = float_of(of_a[i] & 0xFFFFE000);
    }
    for (int i = 0; i < 2; ++i) b[i == 0 ? in_group : in_group + 4][group] = float_of(of_b[i] & 0xFFFFE000);
  }
  multiply_matrices<16, 8, 8>(a, b, product);
  add_m16n8(lanes, product);
}

inline void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  Operands mine{a, b, c};
  emulation::together(execute_m16n8k8_tf32, &mine);
}

inline void execute_m8n8k4(void* const (&lanes)[emulation::kWarp]) {
  double a[8][4], b[4][8], product[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    a[lane / 4][lane % 4] = *static_cast<const double*>(static_cast<Operands*>(lanes[lane])->a);
    b[lane % 4][lane / 4] = *static_cast<const double*>(static_cast<Operands*>(lanes[lane])->b);
  }
  multiply_matrices<8, 8, 4>(a, b, product);
  for (int lane = 0; lane < 32; ++lane) {
    auto* c = static_cast<double*>(static_cast<Operands*>(lanes[lane])->c);
    for (int i = 0; i < 2; ++i) c[i] += product[lane / 4][lane % 4 * 2 + (i & 1)];
  }
}

inline void mma_m8n8k4(double (&c)[2], double a, double b) {
  Operands mine{&a, &b, c};
  emulation::together(execute_m8n8k4, &mine);
}

template <class Params>
cudaError_t launch(void (*kernel)(Params), int64_t blocks, int threads, int shared_bytes, cudaStream_t, Params params) {
  if (blocks > INT32_MAX || blocks < 1) return cudaErrorInvalidConfiguration;
  const std::string failure = emulation::run(blocks, threads, shared_bytes, [&] { kernel(params); });
  if (failure.empty()) return cudaSuccess;
  std::fprintf(stderr, "emulated kernel: %s\n", failure.c_str());
  return cudaErrorLaunchFailure;
}

}  // namespace fastgan::ptx
