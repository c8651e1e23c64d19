// The machine that the kernels are written for, and nothing else of CUDA: threads of a block, shared memory by 32-bit
// addresses, asynchronous copies, matrix fragments, conversions. A host compiler takes the same names from
// cuda_emulation.h, which executes them on the CPU; kernels therefore touch memory through these functions only.
//
// Instructions are those of sm_80 and later; names and fragment layouts are the PTX ISA's (sections mma, ldmatrix,
// cp.async).
#pragma once

#include <cstdint>
#include <cstring>

#include <cuda_runtime_api.h>

#include "types.h"

#ifndef __CUDACC__
#include "cuda_emulation.h"
#else

#define FASTGAN_DEVICE __device__ __forceinline__

namespace fastgan::ptx {

FASTGAN_DEVICE int thread() { return threadIdx.x; }
FASTGAN_DEVICE int lane() { return threadIdx.x & 31; }
FASTGAN_DEVICE int64_t block() { return blockIdx.x; }
FASTGAN_DEVICE void barrier() { __syncthreads(); }

// The address of the block's dynamic shared memory, which is aligned to 16 bytes.
FASTGAN_DEVICE uint32_t shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(memory));
}

template <class T>
FASTGAN_DEVICE T load(const T* source) {
  return *source;
}

template <class T>
FASTGAN_DEVICE void store(T* target, T value) {
  *target = value;
}

// 2, 4, 8 or 16 bytes, aligned to their size.
template <class T>
FASTGAN_DEVICE T load_shared(uint32_t address) {
  T value;
  if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(address));
    memcpy(&value, &bits, 2);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(address));
    memcpy(&value, &bits, 4);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t bits;
    asm volatile("ld.shared.u64 %0, [%1];" : "=l"(bits) : "r"(address));
    memcpy(&value, &bits, 8);
  } else {
    static_assert(sizeof(T) == 16);
    uint32_t bits[4];
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                 : "r"(address));
    memcpy(&value, bits, 16);
  }
  return value;
}

template <class T>
FASTGAN_DEVICE void store_shared(uint32_t address, T value) {
  if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    memcpy(&bits, &value, 2);
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(bits) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(bits) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    asm volatile("st.shared.u64 [%0], %1;" ::"r"(address), "l"(bits) : "memory");
  } else {
    static_assert(sizeof(T) == 16);
    uint32_t bits[4];
    memcpy(bits, &value, 16);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(bits[0]), "r"(bits[1]), "r"(bits[2]),
                 "r"(bits[3])
                 : "memory");
  }
}

// Copies Bytes from global to shared memory, or writes zeros where `valid` is false (source is then not read).
// Complete after wait(); two bytes, which the hardware cannot copy asynchronously, are complete at once.
template <int Bytes>
FASTGAN_DEVICE void copy_async(uint32_t target, const void* source, bool valid) {
  if constexpr (Bytes == 2) {
    store_shared<uint16_t>(target, valid ? *static_cast<const uint16_t*>(source) : uint16_t{0});
  } else {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(__cvta_generic_to_global(source)),
                 "n"(Bytes), "r"(valid ? Bytes : 0)
                 : "memory");
  }
}

FASTGAN_DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies but those of its last `Pending` commits.
template <int Pending>
FASTGAN_DEVICE void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8. Register j of a lane
// holds elements 2 (lane % 4) and the next of row lane / 4 of matrix j.
FASTGAN_DEVICE void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// The same of the transposed matrices.
FASTGAN_DEVICE void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// c += a b for a 16 x 16, b 16 x 8 and c 16 x 8.
FASTGAN_DEVICE void mma_m16n8k16(BFloat16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FASTGAN_DEVICE void mma_m16n8k16(Half, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b for a 16 x 8, b 8 x 8 and c 16 x 8, elements in TF32.
FASTGAN_DEVICE void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b for a 8 x 4, b 4 x 8 and c 8 x 8.
FASTGAN_DEVICE void mma_m8n8k4(double (&c)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(c[0]), "+d"(c[1])
      : "d"(a), "d"(b));
}

// The bits of a float rounded to TF32: 10 bits of mantissa, ties away from zero.
FASTGAN_DEVICE uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

FASTGAN_DEVICE float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }

template <class T>
FASTGAN_DEVICE T from_accumulator(float value);
template <>
FASTGAN_DEVICE float from_accumulator<float>(float value) {
  return value;
}
template <>
FASTGAN_DEVICE BFloat16 from_accumulator<BFloat16>(float value) {
  BFloat16 rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
}
template <>
FASTGAN_DEVICE Half from_accumulator<Half>(float value) {
  Half rounded;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
}
template <class T>
FASTGAN_DEVICE T from_accumulator(double value) {
  return value;
}

FASTGAN_DEVICE float to_accumulator(float value) { return value; }
FASTGAN_DEVICE double to_accumulator(double value) { return value; }
FASTGAN_DEVICE float to_accumulator(BFloat16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }
FASTGAN_DEVICE float to_accumulator(Half value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

// Enqueues kernel(params) on `stream`; the return value says why it could not.
template <class Params>
cudaError_t launch(void (*kernel)(Params), int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
                   Params params) {
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  const auto* function = reinterpret_cast<const void*>(kernel);
  // Above 48 KiB a kernel must be allowed its dynamic shared memory, on every device anew.
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
  }
  void* arguments[] = {&params};
  const dim3 grid(static_cast<unsigned>(blocks)), block(static_cast<unsigned>(threads));
  return cudaLaunchKernel(function, grid, block, arguments, shared_bytes, stream);
}

}  // namespace fastgan::ptx

#endif
