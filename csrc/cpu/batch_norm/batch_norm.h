// batch_norm on the CPU: raw pointers and sizes, checked and allocated by csrc/batch_norm.cpp.
#pragma once

#include <cstdint>

#include "cpu/instance_norm/instance_norm.h"

namespace fastgan {

// Sizes and constants that all passes share; A below is double for Dtype::float64 and float otherwise. No size is zero.
struct BatchNormShape {
  Dtype dtype;  // not float16
  Layout layout;
  int64_t n, c, hw;
  Activation activation;
  double slope;
};

struct BatchNormForward {
  const void* x;
  const void* weight;  // A[c] or null
  const void* bias;    // A[c] or null
  double eps;
  void* y;
  void* mean;      // A[c]
  void* rstd;      // A[c]
  void* variance;  // A[c], the unbiased one
};

struct BatchNormBackward {
  const void* dy;
  const void* x;
  NormChannels channels;
  void* dx;
  double* dweight;  // [c] or null
  double* dbias;    // [c] or null
};

// With the statistics of x, which are written.
void batch_norm_forward(const BatchNormShape& shape, const BatchNormForward& args);
void batch_norm_backward(const BatchNormShape& shape, const BatchNormBackward& args);

// With statistics that are constants.
void batch_norm_apply(const BatchNormShape& shape, const void* x, const NormChannels& channels, void* y);
void batch_norm_apply_backward(const BatchNormShape& shape, const BatchNormBackward& args);

}  // namespace fastgan
