// Batch norm's kernels of one instruction set, as function pointers; pixels with channels innermost have instance
// norm's.
#pragma once

#include <cstdint>

#include "cpu/instance_norm/norm_table.h"

namespace fastgan {

// Batch norm on one channel of `planes` samples, whose planes of n elements lie `stride` apart.
template <class T>
struct BatchNormKernels {
  using A = Accumulate<T>;

  // As the functions of NormKernels.
  void (*planes_moments)(const T* x, int64_t planes, int64_t stride, int64_t n, double* mean, double* m2);
  void (*planes_forward)(Activation act, const T* x, T* y, int64_t planes, int64_t stride, int64_t n,
                         const PlaneParams<A>& p);
  void (*planes_sums)(Activation act, const T* dy, const T* x, int64_t planes, int64_t stride, int64_t n,
                      const PlaneParams<A>& p, double* sum_g, double* sum_gn);
  void (*planes_backward)(Activation act, const T* dy, const T* x, T* dx, int64_t planes, int64_t stride, int64_t n,
                          const PlaneParams<A>& p, A mean_g, A slant);
  // dx = scale * g, where the statistics are constants.
  void (*planes_backward_fixed)(Activation act, const T* dy, const T* x, T* dx, int64_t planes, int64_t stride,
                                int64_t n, const PlaneParams<A>& p);
  void (*channel_backward_fixed)(Activation act, const T* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                                 const ChannelParams<A>& p);
};

}  // namespace fastgan
