// Batch norm on one channel of several samples (NCHW), and the gradient where the statistics are constants.
//
// A channel's planes lie `stride` elements apart and may be short: sums stay in registers from plane to plane, and the
// elements that fill no vector end one that overlaps the vector before.
#pragma once

#include <type_traits>

#include "cpu/batch_norm/batch_norm_table.h"
#include "cpu/instance_norm/norm_kernels.h"

namespace fastgan {
namespace FASTGAN_ISA {

// v with zeros in its first `seen` lanes.
FASTGAN_INLINE VecF without_first(VecF v, int64_t seen) {
  VecI lane = {};
  for (int i = 0; i < kLanes<float>; ++i) lane[i] = i;
  return (VecF)((VecI)v & (lane >= VecI{} + static_cast<int32_t>(seen)));
}
FASTGAN_INLINE VecD without_first(VecD v, int64_t seen) {
  typedef int64_t Lanes __attribute__((vector_size(FASTGAN_VECTOR_BYTES), may_alias));
  Lanes lane = {};
  for (int i = 0; i < kLanes<double>; ++i) lane[i] = i;
  return (VecD)((Lanes)v & (lane >= Lanes{} + seen));
}
FASTGAN_INLINE float without_first(float v, int64_t) { return v; }
FASTGAN_INLINE double without_first(double v, int64_t) { return v; }

// Calls step(V, i, seen) for the vectors of [0, n) from `i` on, the last of which may repeat `seen` elements; for
// single elements where n fills no vector.
template <class A, class Step>
FASTGAN_INLINE void each_overlapping(int64_t i, int64_t n, const Step& step) {
  constexpr int64_t lanes = kLanes<A>;
  if (n < lanes) {
    for (; i < n; ++i) step(A{}, i, 0);
    return;
  }
  for (; i + lanes <= n; i += lanes) step(Vec<A>{}, i, 0);
  if (i < n) step(Vec<A>{}, n - lanes, i - (n - lanes));
}

// Asks for the plane that is read after some 2 KB more: the processor itself does not look far beyond a plane's end.
template <class T>
FASTGAN_INLINE void prefetch(const T* x, int64_t plane, int64_t planes, int64_t stride, int64_t n) {
  constexpr int64_t line = 64 / sizeof(T), ahead = 2048 / sizeof(T);
  if (n > 2 * ahead) return;
  const int64_t next = plane + 1 + ahead / n;
  if (next >= planes) return;
  for (int64_t i = 0; i < n; i += line) fetch(x + (next - plane) * stride + i);
}

// Two sums, in four vectors and a single element each.
template <class A>
struct Sums {
  Vec<A> first[4], second[4];
  A first_rest, second_rest;

  FASTGAN_INLINE void add(Sums& s, int k, Vec<A> a, Vec<A> b, Vec<A> c) {
    s.first[k] += a;
    s.second[k] = fma(b, c, s.second[k]);
  }
  FASTGAN_INLINE void add(Sums& s, int, A a, A b, A c) {
    s.first_rest += a;
    s.second_rest = fma(b, c, s.second_rest);
  }
  FASTGAN_INLINE double total(const Vec<A>* v, A rest) {
    return lane_sum((v[0] + v[1]) + (v[2] + v[3])) + static_cast<double>(rest);
  }
};

// Adds term(V, i, &a, &b) as a and a * b to the sums, for all i in [0, n).
template <class A, class Term>
FASTGAN_INLINE void add_plane(Sums<A>& sums, int64_t n, const Term& term) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (int k = 0; k < 4; ++k) {
      Vec<A> a, b;
      term(i + k * lanes, &a, &b);
      Sums<A>::add(sums, k, a, a, b);
    }
  }
  each_overlapping<A>(i, n, [&](auto lane, int64_t at, int64_t seen) __attribute__((always_inline)) {
    decltype(lane) a, b;
    term(at, &a, &b);
    if (seen > 0) a = without_first(a, seen), b = without_first(b, seen);
    Sums<A>::add(sums, 0, a, a, b);
  });
}

template <class T>
FASTGAN_INLINE Deviations group_moments_about(Accumulate<T> centre, const T* x, int64_t planes, int64_t stride,
                                              int64_t n) {
  using A = Accumulate<T>;
  Sums<A> sums = {};
  for (int64_t plane = 0; plane < planes; ++plane, x += stride) {
    prefetch(x, plane, planes, stride, n);
    add_plane(sums, n, [&](int64_t i, auto* a, auto* b) __attribute__((always_inline)) {
      *a = *b = Access<std::remove_pointer_t<decltype(a)>>::get(x + i) - centre;
    });
  }
  return from_sums(static_cast<double>(centre), Sums<A>::total(sums.first, sums.first_rest),
                   Sums<A>::total(sums.second, sums.second_rest), static_cast<double>(planes * n));
}

// The moments of at most kSumLength elements.
template <class T>
FASTGAN_INLINE void group_moments(const T* x, int64_t planes, int64_t stride, int64_t n, double* mean, double* m2) {
  using A = Accumulate<T>;
  Deviations d = group_moments_about(centre_of(x, n), x, planes, stride, n);
  if (d.cancelled) d = group_moments_about(static_cast<A>(d.mean), x, planes, stride, n);
  *mean = d.mean;
  *m2 = d.m2;
  if (sizeof(A) == sizeof(double) || d.m2 < __builtin_inf()) return;
  *mean = *m2 = 0;
  for (int64_t plane = 0; plane < planes; ++plane) {
    d = moments_in_double(x + plane * stride, n, 1);
    merge(mean, m2, static_cast<double>(plane * n), d.mean, d.m2, static_cast<double>(n));
  }
}

template <class T>
void planes_moments(const T* x, int64_t planes, int64_t stride, int64_t n, double* mean, double* m2) {
  const int64_t group = n < kSumLength ? kSumLength / n : 1;
  *mean = *m2 = 0;
  for (int64_t plane = 0; plane < planes; plane += group) {
    const int64_t some = planes - plane < group ? planes - plane : group;
    double more_mean, more_m2;
    if (some == 1) {
      plane_moments(x + plane * stride, n, &more_mean, &more_m2);
    } else {
      group_moments(x + plane * stride, some, stride, n, &more_mean, &more_m2);
    }
    merge(mean, m2, static_cast<double>(plane * n), more_mean, more_m2, static_cast<double>(some * n));
  }
}

template <Activation ACT, class T>
void planes_forward_as(const T* x, T* y, int64_t planes, int64_t stride, int64_t n,
                       const PlaneParams<Accumulate<T>>& p) {
  using A = Accumulate<T>;
  for (int64_t plane = 0; plane < planes; ++plane, x += stride, y += stride) {
    const bool streams = p.streams && can_stream<A>(y);
    each_overlapping<A>(0, n, [&](auto lane, int64_t i, int64_t seen) __attribute__((always_inline)) {
      using V = decltype(lane);
      const V t = Access<V>::get(x + i) - p.mean;
      const V z = activate<ACT>(fma(t, splat<V>(p.scale), splat<V>(p.shift)), p.slope);
      Access<V>::put(y + i, z, streams && seen == 0);
    });
  }
  if (p.streams) stream_end();
}

template <class T>
void planes_forward(Activation act, const T* x, T* y, int64_t planes, int64_t stride, int64_t n,
                    const PlaneParams<Accumulate<T>>& p) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    planes_forward_as<decltype(constant)::value>(x, y, planes, stride, n, p);
  });
}

template <Activation ACT, class T>
void planes_sums_as(const T* dy, const T* x, int64_t planes, int64_t stride, int64_t n,
                    const PlaneParams<Accumulate<T>>& p, double* sum_g, double* sum_gn) {
  using A = Accumulate<T>;
  Sums<A> sums = {};
  int64_t held = 0;
  const auto carry = [&]() __attribute__((always_inline)) {
    *sum_g += Sums<A>::total(sums.first, sums.first_rest);
    *sum_gn += Sums<A>::total(sums.second, sums.second_rest);
    sums = {};
    held = 0;
  };
  for (int64_t plane = 0; plane < planes; ++plane, dy += stride, x += stride) {
    prefetch(dy, plane, planes, stride, n);
    prefetch(x, plane, planes, stride, n);
    for (int64_t start = 0; start < n; start += kSumLength) {
      const int64_t count = n - start < kSumLength ? n - start : kSumLength;
      add_plane(sums, count, [&](int64_t i, auto* a, auto* b) __attribute__((always_inline)) {
        using V = std::remove_pointer_t<decltype(a)>;
        const V t = Access<V>::get(x + start + i) - p.mean;
        const V gradient = Access<V>::get(dy + start + i);
        *a = activate_backward<ACT>(gradient, t, splat<V>(p.scale), splat<V>(p.shift), p.slope);
        *b = t * p.rstd;
      });
      held += count;
      if (held >= kSumLength) carry();
    }
  }
  carry();
}

template <class T>
void planes_sums(Activation act, const T* dy, const T* x, int64_t planes, int64_t stride, int64_t n,
                 const PlaneParams<Accumulate<T>>& p, double* sum_g, double* sum_gn) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    planes_sums_as<decltype(constant)::value>(dy, x, planes, stride, n, p, sum_g, sum_gn);
  });
}

template <Activation ACT, bool FIXED, class T>
void planes_backward_as(const T* dy, const T* x, T* dx, int64_t planes, int64_t stride, int64_t n,
                        const PlaneParams<Accumulate<T>>& p, Accumulate<T> mean_g, Accumulate<T> slant) {
  using A = Accumulate<T>;
  for (int64_t plane = 0; plane < planes; ++plane, dy += stride, x += stride, dx += stride) {
    const bool streams = p.streams && can_stream<A>(dx);
    each_overlapping<A>(0, n, [&](auto lane, int64_t i, int64_t seen) __attribute__((always_inline)) {
      using V = decltype(lane);
      const V t = Access<V>::get(x + i) - p.mean, scale = splat<V>(p.scale);
      V g = activate_backward<ACT>(static_cast<V>(Access<V>::get(dy + i)), t, scale, splat<V>(p.shift), p.slope);
      if constexpr (!FIXED) g = fma(t, splat<V>(slant), static_cast<V>(g - mean_g));
      Access<V>::put(dx + i, static_cast<V>(scale * g), streams && seen == 0);
    });
  }
  if (p.streams) stream_end();
}

template <class T>
void planes_backward(Activation act, const T* dy, const T* x, T* dx, int64_t planes, int64_t stride, int64_t n,
                     const PlaneParams<Accumulate<T>>& p, Accumulate<T> mean_g, Accumulate<T> slant) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    planes_backward_as<decltype(constant)::value, false>(dy, x, dx, planes, stride, n, p, mean_g, slant);
  });
}

template <class T>
void planes_backward_fixed(Activation act, const T* dy, const T* x, T* dx, int64_t planes, int64_t stride, int64_t n,
                           const PlaneParams<Accumulate<T>>& p) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    planes_backward_as<decltype(constant)::value, true>(dy, x, dx, planes, stride, n, p, 0, 0);
  });
}

template <Activation ACT, class T>
void channel_backward_fixed_as(const T* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                               const ChannelParams<Accumulate<T>>& p) {
  using A = Accumulate<T>;
  const bool streams = p.streams && can_stream<A>(dx) && channels % kLanes<A> == 0;
  for (int64_t pixel = 0; pixel < pixels; ++pixel, dy += channels, x += channels, dx += channels) {
    each<A>(channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
      using V = decltype(lane);
      const V t = Access<V>::get(x + c) - Access<V>::get(p.mean + c);
      const V scale = Access<V>::get(p.scale + c), shift = Access<V>::get(p.shift + c);
      const V g = activate_backward<ACT>(static_cast<V>(Access<V>::get(dy + c)), t, scale, shift, p.slope);
      Access<V>::put(dx + c, static_cast<V>(scale * g), streams);
    });
  }
  if (streams) stream_end();
}

template <class T>
void channel_backward_fixed(Activation act, const T* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                            const ChannelParams<Accumulate<T>>& p) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    channel_backward_fixed_as<decltype(constant)::value>(dy, x, dx, pixels, channels, p);
  });
}

template <class T>
constexpr BatchNormKernels<T> batch_norm_table() {
  return {
      planes_moments<T>,  planes_forward<T>,        planes_sums<T>,
      planes_backward<T>, planes_backward_fixed<T>, channel_backward_fixed<T>,
  };
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
