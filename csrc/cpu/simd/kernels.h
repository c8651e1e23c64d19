// The vector kernels as tables of function pointers: one table for each instruction set, chosen at run time.
//
// Kernels are single-threaded and work on one piece of a tensor; the drivers, a folder for each op, cut tensors into
// pieces of fixed size, so that no sum depends on the number of threads.
#pragma once

#include "cpu/batch_norm/batch_norm_table.h"
#include "cpu/instance_norm/norm_table.h"
#include "cpu/losses/losses_table.h"
#include "cpu/reflection_pad/reflection_pad_table.h"
#include "cpu/reflection_pad_conv2d/winograd_table.h"
#include "cpu/simd/pixels.h"
#include "types.h"

namespace fastgan {

// The kernels for elements of type T.
template <class T>
struct Kernels {
  NormKernels<T> norm;
  BatchNormKernels<T> batch_norm;
  FoldKernels<T> fold;
  LossKernels<T> loss;
  TileKernels<Accumulate<T>, T> tile;
  WinogradKernels<T> winograd;  // null for double
};

template <>
struct Kernels<Half> {
  FoldKernels<Half> fold;
};

struct AllKernels : Kernels<float>, Kernels<BFloat16>, Kernels<Half>, Kernels<double> {};

#if defined(__x86_64__)
#define FASTGAN_X86 1
extern const TileKernels<BFloat16, BFloat16> tile_avx512_bf16;
extern const NormKernels<BFloat16> norm_avx512_bf16;
extern const BatchNormKernels<BFloat16> batch_norm_avx512_bf16;
extern const AllKernels kernels_avx512;
extern const AllKernels kernels_avx2;
#endif
extern const AllKernels kernels_default;

// An instruction set, and what it offers.
struct Capability {
  const char* name;
  const AllKernels* kernels;
  const TileKernels<BFloat16, BFloat16>* bfloat16_dot;  // or null, where it has no dot products of bfloat16
};

// The widest that this processor runs, limited by FASTGAN_CPU_CAPABILITY=avx512_bf16|avx512|avx2|default.
const Capability& capability();

// Limits the choice from now on, as the environment variable does; returns false for an unknown name.
bool limit_capability(const char* name);

template <class T>
const Kernels<T>& kernels() {
  return *capability().kernels;
}

}  // namespace fastgan
