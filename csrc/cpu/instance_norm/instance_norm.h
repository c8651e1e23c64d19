// instance_norm on the CPU: raw pointers and sizes, checked and allocated by csrc/instance_norm.cpp.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

// Sizes and constants that both passes share. A below is double for Dtype::float64 and float otherwise.
struct InstanceNormShape {
  Dtype dtype;  // not float16
  Layout layout;
  int64_t n, c, h, w;
  Activation activation;
  double slope;
  int64_t halo;
};

// What a pass reads of its planes' statistics and of the channels' parameters.
struct NormChannels {
  const void* mean;    // A, one for each plane
  const void* rstd;    // the same
  const void* weight;  // A[c] or null
  const void* bias;    // A[c] or null
};

struct InstanceNormForward {
  const void* x;
  const void* residual;                                             // or null
  int64_t residual_stride_n, residual_stride_c, residual_stride_h;  // elements; stride_c is read in NCHW only
  const void* weight;                                               // A[c] or null
  const void* bias;                                                 // A[c] or null
  double eps;
  void* y;         // with the halo
  void* mean;      // A[n * c]
  void* rstd;      // A[n * c]
  void* variance;  // A[n * c], the unbiased one, or null
};

struct InstanceNormBackward {
  const void* dy;           // with the halo
  const void* dy_interior;  // without it, added to dy's pixels inside; or null, as it is where there is no halo
  const void* x;
  NormChannels channels;
  void* dx;
  void* dresidual;  // or null
  double* dweight;  // [c] or null
  double* dbias;    // [c] or null
};

void instance_norm_forward(const InstanceNormShape& shape, const InstanceNormForward& args);
void instance_norm_backward(const InstanceNormShape& shape, const InstanceNormBackward& args);

}  // namespace fastgan
