// Pointwise losses and their derivatives on one block of elements.
#pragma once

#include <math.h>

#include "cpu/losses/losses_table.h"
#include "cpu/simd/simd.h"

namespace fastgan {
namespace FASTGAN_ISA {

// Elements whose losses are summed in float before the sum is carried on in double.
constexpr int64_t kLossLength = 32 * FASTGAN_VECTOR_BYTES;

// exp(a) and log1p(e) for a <= 0 (NaN passes) and 0 <= e <= 1: what the logistic loss needs. In float both are within
// 2 ulp of the true value, subnormal results included.
FASTGAN_INLINE VecF exp_nonpositive(VecF a) {
  a = a < -104.0f ? VecF{} - 104.0f : a;                                 // exp(-104) rounds to zero
  const VecI n = __builtin_convertvector(a * 1.44269504f - 0.5f, VecI);  // rounds towards zero, so to nearest
  const VecF whole = __builtin_convertvector(n, VecF);
  VecF r = fma(whole, VecF{} - 0.693359375f, a);
  r = fma(whole, VecF{} + 2.12194440e-4f, r);  // ln 2 in two parts, the first exact in products with n
  VecF p = VecF{} + 1.0f / 5040;
  p = fma(p, r, VecF{} + 1.0f / 720);
  p = fma(p, r, VecF{} + 1.0f / 120);
  p = fma(p, r, VecF{} + 1.0f / 24);
  p = fma(p, r, VecF{} + 1.0f / 6);
  p = fma(p, r, VecF{} + 0.5f);
  p = fma(p * r, r, r) + 1.0f;
  // 2^n in two factors, each a normal number: n goes down to -150.
  const VecI half = n >> 1;
  const VecF low = (VecF)((half + 127) << 23), high = (VecF)((n - half + 127) << 23);
  return p * low * high;
}

// log1p(e) = 2 artanh(s), s = e / (2 + e) <= 1/3, by its power series.
FASTGAN_INLINE VecF log1p_unit(VecF e) {
  const VecF s = e / (e + 2.0f);
  const VecF w = s * s;
  VecF p = VecF{} + 2.0f / 15;
  p = fma(p, w, VecF{} + 2.0f / 13);
  p = fma(p, w, VecF{} + 2.0f / 11);
  p = fma(p, w, VecF{} + 2.0f / 9);
  p = fma(p, w, VecF{} + 2.0f / 7);
  p = fma(p, w, VecF{} + 2.0f / 5);
  p = fma(p, w, VecF{} + 2.0f / 3);
  return fma(p * w, s, s + s);
}

FASTGAN_INLINE VecD exp_nonpositive(VecD a) {
  VecD r;
  for (int i = 0; i < kLanes<double>; ++i) r[i] = ::exp(a[i]);
  return r;
}

FASTGAN_INLINE VecD log1p_unit(VecD e) {
  VecD r;
  for (int i = 0; i < kLanes<double>; ++i) r[i] = ::log1p(e[i]);
  return r;
}

template <LossKind KIND, class V>
FASTGAN_INLINE V loss_of(V x, V t, V* derivative) {
  const V zero = {}, one = V{} + 1;
  if constexpr (KIND == LossKind::l1) {
    const V d = x - t;
    *derivative = d > zero ? one : (d < zero ? -one : d);
    return d < zero ? -d : d;
  } else if constexpr (KIND == LossKind::mse) {
    const V d = x - t;
    *derivative = d + d;
    return d * d;
  } else {
    // max(x, 0) - x t = x (step(x) - t), which cancels nothing.
    const V e = exp_nonpositive(static_cast<V>(x > zero ? -x : x));
    *derivative = (x > zero ? one : e) / (one + e) - t;
    const V step = x > zero ? one : zero;
    return fma(x, static_cast<V>(step - t), log1p_unit(e));
  }
}

template <LossKind KIND, bool TARGET, class T>
double loss_block_as(const T* x, const T* target, Accumulate<T> label, T* value, T* grad, int64_t n) {
  using A = Accumulate<T>;
  using V = Vec<A>;
  constexpr int64_t lanes = kLanes<A>;
  double total = 0;
  V t = splat<V>(label);
  for (int64_t start = 0; start < n; start += kLossLength) {
    const int64_t end = n - start < kLossLength ? n : start + kLossLength;
    V sums[4] = {};
    int64_t i = start;
    for (; i + 4 * lanes <= end; i += 4 * lanes) {
      for (int k = 0; k < 4; ++k) {
        const int64_t at = i + k * lanes;
        V derivative;
        if constexpr (TARGET) t = load(target + at);
        const V loss = loss_of<KIND>(load(x + at), t, &derivative);
        sums[k] += loss;
        if (value != nullptr) store(value + at, loss);
        if (grad != nullptr) store(grad + at, derivative);
      }
    }
    total += lane_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < end; i += lanes) {
      // The last elements go through one vector that is filled up with copies of the first of them.
      const int64_t left = end - i < lanes ? end - i : lanes;
      V some = splat<V>(load_one(x + i)), derivative;
      for (int64_t k = 0; k < left; ++k) some[k] = load_one(x + i + k);
      if constexpr (TARGET) {
        t = splat<V>(load_one(target + i));
        for (int64_t k = 0; k < left; ++k) t[k] = load_one(target + i + k);
      }
      const V loss = loss_of<KIND>(some, t, &derivative);
      for (int64_t k = 0; k < left; ++k) {
        total += static_cast<double>(loss[k]);
        if (value != nullptr) store_one(value + i + k, loss[k]);
        if (grad != nullptr) store_one(grad + i + k, derivative[k]);
      }
    }
  }
  return total;
}

template <LossKind KIND, class T>
FASTGAN_INLINE double loss_block_of(const T* x, const T* target, Accumulate<T> label, T* value, T* grad, int64_t n) {
  return target != nullptr ? loss_block_as<KIND, true>(x, target, label, value, grad, n)
                           : loss_block_as<KIND, false>(x, target, label, value, grad, n);
}

template <class T>
double loss_block(LossKind kind, const T* x, const T* target, Accumulate<T> label, T* value, T* grad, int64_t n) {
  if (kind == LossKind::l1) return loss_block_of<LossKind::l1>(x, target, label, value, grad, n);
  if (kind == LossKind::mse) return loss_block_of<LossKind::mse>(x, target, label, value, grad, n);
  return loss_block_of<LossKind::bce>(x, target, label, value, grad, n);
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
