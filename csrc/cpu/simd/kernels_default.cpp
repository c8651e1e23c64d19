// The kernels for what every processor of the architecture has: 128-bit vectors (SSE2, NEON, ...).
#include <math.h>

#include "cpu/simd/kernels.h"

#define FASTGAN_ISA isa_default
#define FASTGAN_VECTOR_BYTES 16
#include "cpu/simd/kernels_table.h"

namespace fastgan {
const AllKernels kernels_default = isa_default::table();
}
