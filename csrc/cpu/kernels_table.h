// The end of every kernels_<isa>.cpp: all kernels, compiled for that instruction set, as one table.
#include "batch_norm_kernels.h"
#include "instance_norm_kernels.h"
#include "losses_kernels.h"
#include "pixels_kernels.h"
#include "reflection_pad_kernels.h"
#include "winograd_transforms_kernels.h"

namespace fastgan {
namespace FASTGAN_ISA {

// A constant: making the table runs no code of this instruction set.
constexpr Kernels table() {
  return {
      norm_table<float>(),          norm_table<BFloat16>(),       norm_table<double>(),
      batch_norm_table<float>(),    batch_norm_table<BFloat16>(), batch_norm_table<double>(),
      fold_table<float>(),          fold_table<BFloat16>(),       fold_table<Half>(),
      fold_table<double>(),         {loss_block<float>},          {loss_block<BFloat16>},
      {loss_block<double>},         tile_table<float, float>(),   tile_table<float, BFloat16>(),
      tile_table<double, double>(), winograd_table<float>(),      winograd_table<BFloat16>(),
      winograd_weight_table(),
  };
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
