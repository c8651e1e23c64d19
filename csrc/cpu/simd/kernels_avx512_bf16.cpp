// What gains from AVX-512 BF16 on x86-64: register tiles from its dot products, norms from its rounding.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "cpu/simd/kernels.h"

// From here to the end of the file.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512")
#endif

#define FASTGAN_ISA isa_avx512_bf16
#define FASTGAN_VECTOR_BYTES 64
#define FASTGAN_BFLOAT16_DOT 1
#include "cpu/batch_norm/batch_norm_kernels.h"
#include "cpu/instance_norm/norm_kernels.h"
#include "cpu/simd/pixels_kernels.h"

namespace fastgan {
const TileKernels<BFloat16, BFloat16> tile_avx512_bf16 = isa_avx512_bf16::tile_table<BFloat16, BFloat16>();
const NormKernels<BFloat16> norm_avx512_bf16 = isa_avx512_bf16::norm_table<BFloat16>();
const BatchNormKernels<BFloat16> batch_norm_avx512_bf16 = isa_avx512_bf16::batch_norm_table<BFloat16>();
}  // namespace fastgan

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
