// The vector kernels as tables of function pointers: one table per instruction set, chosen at run time.
//
// Kernels are single-threaded and work on one piece of a tensor; the drivers (instance_norm.cpp, losses.cpp,
// reflection_pad.cpp) cut tensors into pieces of fixed size, so that no sum depends on the number of threads.
#pragma once

#include <cstdint>

#include "pixels.h"
#include "types.h"
#include "winograd_transforms.h"

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

// A reflect-padded image of rows of `pixel` values each: (height + top + bottom, width + left + right) pixels.
struct PaddedImage {
  int64_t height, width, pixel;
  int64_t left, right, top, bottom;
};

template <class T>
struct FoldKernels {
  using A = Accumulate<T>;
  // Rows [begin, end) of the adjoint of the padding, plus those of the unpadded `inner` where it is not null: width *
  // pixel sums per row, in A.
  void (*fold_rows)(const T* padded, const T* inner, const PaddedImage& image, int64_t begin, int64_t end, A* out);
  // Rounds n sums to T.
  void (*store)(const A* in, T* out, int64_t n);
};

template <class T>
struct LossKernels {
  using A = Accumulate<T>;
  // Returns the sum of the losses of n elements. target, value and grad may be null: then the target is `label`, and
  // no elementwise loss and no derivative are written.
  double (*block)(LossKind kind, const T* x, const T* target, A label, T* value, T* grad, int64_t n);
};

struct Kernels {
  NormKernels<float> norm_float;
  NormKernels<BFloat16> norm_bfloat16;
  NormKernels<double> norm_double;
  BatchNormKernels<float> batch_norm_float;
  BatchNormKernels<BFloat16> batch_norm_bfloat16;
  BatchNormKernels<double> batch_norm_double;
  FoldKernels<float> fold_float;
  FoldKernels<BFloat16> fold_bfloat16;
  FoldKernels<Half> fold_half;
  FoldKernels<double> fold_double;
  LossKernels<float> loss_float;
  LossKernels<BFloat16> loss_bfloat16;
  LossKernels<double> loss_double;
  TileKernels<float, float> tile_float;
  TileKernels<float, BFloat16> tile_bfloat16;  // widened
  TileKernels<double, double> tile_double;
  WinogradKernels<float> winograd_float;
  WinogradKernels<BFloat16> winograd_bfloat16;
  WinogradWeightKernels winograd_weights;
};

#if defined(__x86_64__)
#define FASTGAN_X86 1
extern const TileKernels<BFloat16, BFloat16> tile_avx512_bf16;
extern const NormKernels<BFloat16> norm_avx512_bf16;
extern const BatchNormKernels<BFloat16> batch_norm_avx512_bf16;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx2;
#endif
extern const Kernels kernels_default;

// An instruction set, and what it offers.
struct Capability {
  const char* name;
  const Kernels* kernels;
  const TileKernels<BFloat16, BFloat16>* bfloat16_dot;  // or null, where it has no dot products of bfloat16
  const NormKernels<BFloat16>* bfloat16_norm;
  const BatchNormKernels<BFloat16>* bfloat16_batch_norm;
};

// The widest that this processor runs, limited by FASTGAN_CPU_CAPABILITY=avx512_bf16|avx512|avx2|default.
const Capability& capability();

inline const Kernels& kernels() { return *capability().kernels; }

// Limits the choice from now on, as the environment variable does; returns false for an unknown name.
bool limit_capability(const char* name);

template <class T>
const NormKernels<T>& norm_kernels();
template <>
inline const NormKernels<float>& norm_kernels() {
  return kernels().norm_float;
}
template <>
inline const NormKernels<BFloat16>& norm_kernels() {
  return *capability().bfloat16_norm;
}
template <>
inline const NormKernels<double>& norm_kernels() {
  return kernels().norm_double;
}

template <class T>
const BatchNormKernels<T>& batch_norm_kernels();
template <>
inline const BatchNormKernels<float>& batch_norm_kernels() {
  return kernels().batch_norm_float;
}
template <>
inline const BatchNormKernels<BFloat16>& batch_norm_kernels() {
  return *capability().bfloat16_batch_norm;
}
template <>
inline const BatchNormKernels<double>& batch_norm_kernels() {
  return kernels().batch_norm_double;
}

template <class T>
const FoldKernels<T>& fold_kernels();
template <>
inline const FoldKernels<float>& fold_kernels() {
  return kernels().fold_float;
}
template <>
inline const FoldKernels<BFloat16>& fold_kernels() {
  return kernels().fold_bfloat16;
}
template <>
inline const FoldKernels<Half>& fold_kernels() {
  return kernels().fold_half;
}
template <>
inline const FoldKernels<double>& fold_kernels() {
  return kernels().fold_double;
}

template <class T>
const LossKernels<T>& loss_kernels();
template <>
inline const LossKernels<float>& loss_kernels() {
  return kernels().loss_float;
}
template <>
inline const LossKernels<BFloat16>& loss_kernels() {
  return kernels().loss_bfloat16;
}
template <>
inline const LossKernels<double>& loss_kernels() {
  return kernels().loss_double;
}

template <class T>
const TileKernels<Accumulate<T>, T>& tile_kernels();
template <>
inline const TileKernels<float, float>& tile_kernels<float>() {
  return kernels().tile_float;
}
template <>
inline const TileKernels<float, BFloat16>& tile_kernels<BFloat16>() {
  return kernels().tile_bfloat16;
}
template <>
inline const TileKernels<double, double>& tile_kernels<double>() {
  return kernels().tile_double;
}

template <class T>
const WinogradKernels<T>& winograd_kernels();
template <>
inline const WinogradKernels<float>& winograd_kernels() {
  return kernels().winograd_float;
}
template <>
inline const WinogradKernels<BFloat16>& winograd_kernels() {
  return kernels().winograd_bfloat16;
}

}  // namespace fastgan
