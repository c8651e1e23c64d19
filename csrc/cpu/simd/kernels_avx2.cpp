// The kernels for x86-64 with AVX2 and FMA.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "cpu/simd/kernels.h"

// From here to the end of the file.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define FASTGAN_ISA isa_avx2
#define FASTGAN_VECTOR_BYTES 32
#include "cpu/simd/kernels_table.h"

namespace fastgan {
const AllKernels kernels_avx2 = isa_avx2::table();
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
