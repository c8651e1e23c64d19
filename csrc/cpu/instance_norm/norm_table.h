// Instance norm's kernels of one instruction set, as function pointers.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

// What the normalise step and its derivative need of one plane: t = x - mean, z = t * scale + shift, n = t * rstd.
template <class A>
struct PlaneParams {
  A mean, rstd, scale, shift;
  A slope;        // of leaky_relu
  bool streams;   // store the result past the caches, where its alignment allows
  int64_t ahead;  // elements from an input to the one fetched into L2 meanwhile, 0 for none
};

// The same for a run of pixels with channels innermost: one value per channel.
template <class A>
struct ChannelParams {
  const A *mean, *rstd, *scale, *shift;
  A slope;
  bool streams;
};

template <class T>
struct NormKernels {
  using A = Accumulate<T>;

  // Mean, and sum of squared deviations from it, of n contiguous elements.
  void (*plane_moments)(const T* x, int64_t n, double* mean, double* m2);
  // y = act(z) + residual; residual may be null.
  void (*plane_forward)(Activation act, const T* x, const T* residual, T* y, int64_t n, const PlaneParams<A>& p);
  // Adds sum(g) and sum(g * n) to the outputs, g = dy * act'(z). The second form reads folded gradients.
  void (*plane_sums)(Activation act, const T* dy, const T* x, int64_t n, const PlaneParams<A>& p, double* sum_g,
                     double* sum_gn);
  void (*plane_sums_folded)(Activation act, const A* dy, const T* x, int64_t n, const PlaneParams<A>& p, double* sum_g,
                            double* sum_gn);
  // dx = scale * (g - mean_g - n * mean_gn) = scale * (g - mean_g + t * slant), slant = -rstd * mean(g * n)
  void (*plane_backward)(Activation act, const T* dy, const T* x, T* dx, int64_t n, const PlaneParams<A>& p, A mean_g,
                         A slant);
  void (*plane_backward_folded)(Activation act, const A* dy, const T* x, T* dx, int64_t n, const PlaneParams<A>& p,
                                A mean_g, A slant);

  // The same for `pixels` contiguous pixels of `channels` values.
  void (*channel_moments)(const T* x, int64_t pixels, int64_t channels, double* mean, double* m2);
  void (*channel_forward)(Activation act, const T* x, const T* residual, T* y, int64_t pixels, int64_t channels,
                          const ChannelParams<A>& p);
  void (*channel_sums)(Activation act, const T* dy, const T* x, int64_t pixels, int64_t channels,
                       const ChannelParams<A>& p, double* sum_g, double* sum_gn);
  void (*channel_sums_folded)(Activation act, const A* dy, const T* x, int64_t pixels, int64_t channels,
                              const ChannelParams<A>& p, double* sum_g, double* sum_gn);
  void (*channel_backward)(Activation act, const T* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                           const ChannelParams<A>& p, const A* mean_g, const A* slant);
  void (*channel_backward_folded)(Activation act, const A* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                                  const ChannelParams<A>& p, const A* mean_g, const A* slant);

  // Merges (mean, m2) of `count` more elements into the running ones of `seen` elements, for `n` channels.
  void (*merge_moments)(double* mean, double* m2, double seen, const double* more_mean, const double* more_m2,
                        double count, int64_t n);
};

}  // namespace fastgan
