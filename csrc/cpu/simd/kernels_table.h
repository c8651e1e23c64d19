// The end of every kernels_<isa>.cpp: all kernels, compiled for that instruction set, as one table.
#include "cpu/batch_norm/batch_norm_kernels.h"
#include "cpu/instance_norm/norm_kernels.h"
#include "cpu/losses/losses_kernels.h"
#include "cpu/reflection_pad/reflection_pad_kernels.h"
#include "cpu/reflection_pad_conv2d/winograd_kernels.h"
#include "cpu/simd/pixels_kernels.h"

namespace fastgan {
namespace FASTGAN_ISA {

template <class T>
constexpr Kernels<T> kernels_of(WinogradKernels<T> winograd) {
  return {norm_table<T>(), batch_norm_table<T>(),          fold_table<T>(),
          {loss_block<T>}, tile_table<Accumulate<T>, T>(), winograd};
}

// A constant: making the table runs no code of this instruction set.
constexpr AllKernels table() {
  return {kernels_of<float>(winograd_table<float>()),
          kernels_of<BFloat16>(winograd_table<BFloat16>()),
          {fold_table<Half>()},
          kernels_of<double>({})};
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
