// The kernels for x86-64 with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "cpu/simd/kernels.h"

// From here to the end of the file.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define FASTGAN_ISA isa_avx512
#define FASTGAN_VECTOR_BYTES 64
#include "cpu/simd/kernels_table.h"

namespace fastgan {
const AllKernels kernels_avx512 = isa_avx512::table();
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
