// Instance norm on one piece of a plane (NCHW) or one run of pixels (channels innermost).
#pragma once

#include <type_traits>

#include "cpu/instance_norm/norm_table.h"
#include "cpu/simd/simd.h"

namespace fastgan {
namespace FASTGAN_ISA {

// Elements summed in float before the sum is carried on in double. A piece this long also stays in the L1 cache, so
// that a second look at it costs no memory traffic.
constexpr int64_t kSumLength = 64 * FASTGAN_VECTOR_BYTES;

// Calls body with a std::integral_constant of the activation.
template <class Body>
FASTGAN_INLINE void with_activation(Activation act, const Body& body) {
  if (act == Activation::none) body(std::integral_constant<Activation, Activation::none>{});
  if (act == Activation::relu) body(std::integral_constant<Activation, Activation::relu>{});
  if (act == Activation::leaky_relu) body(std::integral_constant<Activation, Activation::leaky_relu>{});
}

template <Activation ACT, class V, class A>
FASTGAN_INLINE V activate(V z, A slope) {
  if constexpr (ACT == Activation::relu) {
    return z <= V{} ? V{} : z;
  } else if constexpr (ACT == Activation::leaky_relu) {
    return z > V{} ? z : z * slope;
  } else {
    return z;
  }
}

// Asks for the line of p, to be in L2 when it is read.
FASTGAN_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// The processor's own prefetching ends with the page of 4 KB. So the sums ask for what they read a page later, and a
// piece that is stored past the caches for the pages behind it, so that the next one need not wait for their addresses.
constexpr int64_t kPage = 4096;

// Of `n` elements at p.
template <class T>
FASTGAN_INLINE void fetch_a_page_on(const T* p, int64_t n) {
  constexpr int64_t line = 64 / sizeof(T), page = kPage / sizeof(T);
  for (int64_t i = 0; i < n; i += line) fetch(p + i + page);
}

// As many pages as p's `n` elements take, from the end of these on.
template <class T>
FASTGAN_INLINE void fetch_pages_behind(const T* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kPage / sizeof(T)) fetch(p + n + i);
}

// dy * act'(z)
template <Activation ACT, class V, class A>
FASTGAN_INLINE V activate_backward(V dy, V t, V scale, V shift, A slope) {
  if constexpr (ACT == Activation::none) {
    return dy;
  } else {
    const V z = fma(t, scale, shift);
    if constexpr (ACT == Activation::relu) {
      return z <= V{} ? V{} : dy;
    } else {
      return z > V{} ? dy : dy * slope;
    }
  }
}

// Calls step<V>(i) for whole vectors of [0, n) and then for the single elements that are left.
template <class A, class Step>
FASTGAN_INLINE void each(int64_t n, const Step& step) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) step(Vec<A>{}, i);
  for (; i < n; ++i) step(A{}, i);
}

FASTGAN_INLINE void merge(double* mean, double* m2, double seen, double more_mean, double more_m2, double count) {
  const double total = seen + count;
  const double delta = more_mean - *mean;
  *mean += delta * (count / total);
  *m2 += more_m2 + delta * delta * (seen * count / total);
}

struct Deviations {
  double mean, m2;
  bool cancelled;  // the centre was too far off: the subtraction lost more than two bits
};

// Moments from first = sum(x - centre) and second = sum((x - centre)^2) over count elements.
FASTGAN_INLINE Deviations from_sums(double centre, double first, double second, double count) {
  const double excess = first * first / count, m2 = second - excess;
  return {centre + first / count, m2 < 0 ? 0 : m2, excess > 3 * m2};
}

// For squares beyond the range of float (or NaN, which stays): two passes in double over count strided elements.
template <class T>
FASTGAN_INLINE Deviations moments_in_double(const T* x, int64_t count, int64_t stride) {
  double sum = 0, m2 = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(load_one(x + i * stride));
  const double mean = sum / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(load_one(x + i * stride)) - mean;
    m2 += d * d;
  }
  return {mean, m2, false};
}

// The float mean of every kCentreStep-th vector (an odd number, which meets all columns of an image) of n elements: a
// centre about which one pass gives the moments. Where it proves to be far off, a second pass takes the mean itself.
constexpr int64_t kCentreStep = 17;

template <class T>
FASTGAN_INLINE Accumulate<T> centre_of(const T* x, int64_t n) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = kLanes<A>;
  if (n < lanes) return load_one(x + n / 2);
  Vec<A> sum = {};
  int64_t count = 0;
  for (int64_t i = 0; i + lanes <= n; i += kCentreStep * lanes, count += lanes) sum += load(x + i);
  return static_cast<A>(lane_sum(sum) / static_cast<double>(count));
}

template <class T>
FASTGAN_INLINE Deviations moments_about(Accumulate<T> centre, const T* x, int64_t n) {
  using A = Accumulate<T>;
  using V = Vec<A>;
  constexpr int64_t lanes = kLanes<A>;
  V first[8] = {}, second[8] = {};
  A first_rest = 0, second_rest = 0;
  int64_t i = 0;
  for (; i + 8 * lanes <= n; i += 8 * lanes) {
    fetch_a_page_on(x + i, 8 * lanes);
    for (int k = 0; k < 8; ++k) {
      const V d = load(x + i + k * lanes) - centre;
      first[k] += d;
      second[k] = fma(d, d, second[k]);
    }
  }
  for (; i + lanes <= n; i += lanes) {
    const V d = load(x + i) - centre;
    first[0] += d;
    second[0] = fma(d, d, second[0]);
  }
  for (; i < n; ++i) {
    const A d = load_one(x + i) - centre;
    first_rest += d;
    second_rest = fma(d, d, second_rest);
  }
  for (int k = 0; k < 4; ++k) {
    first[k] += first[k + 4];
    second[k] += second[k + 4];
  }
  const double first_sum = lane_sum((first[0] + first[1]) + (first[2] + first[3])) + static_cast<double>(first_rest);
  const double second_sum =
      lane_sum((second[0] + second[1]) + (second[2] + second[3])) + static_cast<double>(second_rest);
  return from_sums(static_cast<double>(centre), first_sum, second_sum, static_cast<double>(n));
}

// The moments of at most kSumLength elements.
template <class T>
FASTGAN_INLINE void short_moments(const T* x, int64_t n, double* mean, double* m2) {
  using A = Accumulate<T>;
  Deviations d = moments_about(centre_of(x, n), x, n);
  if (d.cancelled) d = moments_about(static_cast<A>(d.mean), x, n);
  if (sizeof(A) < sizeof(double) && !(d.m2 < __builtin_inf())) d = moments_in_double(x, n, 1);
  *mean = d.mean;
  *m2 = d.m2;
}

template <class T>
void plane_moments(const T* x, int64_t n, double* mean, double* m2) {
  *mean = 0;
  *m2 = 0;
  for (int64_t i = 0; i < n; i += kSumLength) {
    const int64_t count = n - i < kSumLength ? n - i : kSumLength;
    double more_mean, more_m2;
    short_moments(x + i, count, &more_mean, &more_m2);
    merge(mean, m2, static_cast<double>(i), more_mean, more_m2, static_cast<double>(count));
  }
}

template <Activation ACT, bool RESIDUAL, class T>
void plane_forward_as(const T* x, const T* residual, T* y, int64_t n, const PlaneParams<Accumulate<T>>& p) {
  using A = Accumulate<T>;
  const A mean = p.mean, slope = p.slope;
  const Vec<A> scale = splat<Vec<A>>(p.scale), shift = splat<Vec<A>>(p.shift);
  const bool streams = p.streams && can_stream<A>(y);
  if (streams) fetch_pages_behind(y, n);
  each<A>(n, [&](auto lane, int64_t i) __attribute__((always_inline)) {
    using V = decltype(lane);
    V a, b;
    if constexpr (sizeof(V) == sizeof(A)) {
      a = p.scale, b = p.shift;
    } else {
      a = scale, b = shift;
    }
    V z = activate<ACT>(fma(static_cast<V>(Access<V>::get(x + i) - mean), a, b), slope);
    if constexpr (RESIDUAL) z += Access<V>::get(residual + i);
    Access<V>::put(y + i, z, streams);
    if (p.ahead != 0) fetch(x + i + p.ahead);
  });
  if (streams) stream_end();
}

template <class T>
void plane_forward(Activation act, const T* x, const T* residual, T* y, int64_t n,
                   const PlaneParams<Accumulate<T>>& p) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    constexpr Activation ACT = decltype(constant)::value;
    if (residual != nullptr) {
      plane_forward_as<ACT, true>(x, residual, y, n, p);
    } else {
      plane_forward_as<ACT, false>(x, residual, y, n, p);
    }
  });
}

template <Activation ACT, class G, class T>
void plane_sums_as(const G* dy, const T* x, int64_t n, const PlaneParams<Accumulate<T>>& p, double* sum_g,
                   double* sum_gn) {
  using A = Accumulate<T>;
  using V = Vec<A>;
  constexpr int64_t lanes = kLanes<A>;
  const V mean = splat<V>(p.mean), rstd = splat<V>(p.rstd), scale = splat<V>(p.scale), shift = splat<V>(p.shift);
  for (int64_t start = 0; start < n; start += kSumLength) {
    const int64_t end = n - start < kSumLength ? n : start + kSumLength;
    V g_sums[4] = {}, gn_sums[4] = {};
    A g_rest = 0, gn_rest = 0;
    int64_t i = start;
    for (; i + 4 * lanes <= end; i += 4 * lanes) {
      if (p.streams) {
        fetch_a_page_on(x + i, 4 * lanes);
        if constexpr (std::is_same_v<G, T>) fetch_a_page_on(dy + i, 4 * lanes);
      }
      for (int k = 0; k < 4; ++k) {
        const V t = load(x + i + k * lanes) - mean;
        const V g = activate_backward<ACT>(load(dy + i + k * lanes), t, scale, shift, p.slope);
        g_sums[k] += g;
        gn_sums[k] = fma(g, t * rstd, gn_sums[k]);
      }
    }
    for (; i + lanes <= end; i += lanes) {
      const V t = load(x + i) - mean;
      const V g = activate_backward<ACT>(load(dy + i), t, scale, shift, p.slope);
      g_sums[0] += g;
      gn_sums[0] = fma(g, t * rstd, gn_sums[0]);
    }
    for (; i < end; ++i) {
      const A t = load_one(x + i) - p.mean;
      const A g = activate_backward<ACT>(static_cast<A>(load_one(dy + i)), t, p.scale, p.shift, p.slope);
      g_rest += g;
      gn_rest = fma(g, t * p.rstd, gn_rest);
    }
    *sum_g += lane_sum((g_sums[0] + g_sums[1]) + (g_sums[2] + g_sums[3])) + static_cast<double>(g_rest);
    *sum_gn += lane_sum((gn_sums[0] + gn_sums[1]) + (gn_sums[2] + gn_sums[3])) + static_cast<double>(gn_rest);
  }
}

template <class G, class T>
void plane_sums(Activation act, const G* dy, const T* x, int64_t n, const PlaneParams<Accumulate<T>>& p, double* sum_g,
                double* sum_gn) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    plane_sums_as<decltype(constant)::value>(dy, x, n, p, sum_g, sum_gn);
  });
}

template <Activation ACT, class G, class T>
void plane_backward_as(const G* dy, const T* x, T* dx, int64_t n, const PlaneParams<Accumulate<T>>& p,
                       Accumulate<T> mean_g, Accumulate<T> slant) {
  using A = Accumulate<T>;
  const bool streams = p.streams && can_stream<A>(dx);
  if (streams) fetch_pages_behind(dx, n);
  each<A>(n, [&](auto lane, int64_t i) __attribute__((always_inline)) {
    using V = decltype(lane);
    const V t = Access<V>::get(x + i) - p.mean;
    const V scale = splat<V>(p.scale);
    const V g = activate_backward<ACT>(static_cast<V>(Access<V>::get(dy + i)), t, scale, splat<V>(p.shift), p.slope);
    Access<V>::put(dx + i, static_cast<V>(scale * fma(t, splat<V>(slant), static_cast<V>(g - mean_g))), streams);
    if (p.ahead != 0) {
      fetch(x + i + p.ahead);
      if constexpr (std::is_same_v<G, T>) fetch(dy + i + p.ahead);
    }
  });
  if (streams) stream_end();
}

template <class G, class T>
void plane_backward(Activation act, const G* dy, const T* x, T* dx, int64_t n, const PlaneParams<Accumulate<T>>& p,
                    Accumulate<T> mean_g, Accumulate<T> slant) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    plane_backward_as<decltype(constant)::value>(dy, x, dx, n, p, mean_g, slant);
  });
}

// Calls step<lanes, V>(c) for tiles of several channel vectors, then for single vectors, then for single channels.
constexpr int kTile = FASTGAN_VECTOR_BYTES == 64 ? 4 : 2;

template <int N>
struct Count {
  static constexpr int value = N;
};

template <class A, class Step>
FASTGAN_INLINE void each_tile(int64_t channels, const Step& step) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t c = 0;
  for (; c + kTile * lanes <= channels; c += kTile * lanes) step(Count<kTile>{}, Vec<A>{}, c);
  for (; c + lanes <= channels; c += lanes) step(Count<1>{}, Vec<A>{}, c);
  for (; c < channels; ++c) step(Count<1>{}, A{}, c);
}

// Adds the lanes of v to out in double.
template <class V>
FASTGAN_INLINE void add_lanes(double* out, V v) {
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(v[0])); ++i) out[i] += static_cast<double>(v[i]);
}
FASTGAN_INLINE void add_lanes(double* out, float v) { *out += static_cast<double>(v); }
FASTGAN_INLINE void add_lanes(double* out, double v) { *out += v; }

// The sums of a tile of channels stay in registers while all pixels go by, four at a time. first and second are as in
// from_sums().
template <int TILE, class V, class T>
FASTGAN_INLINE void tile_moments_about(const V* centre, const T* x, int64_t pixels, int64_t channels, V* first,
                                       V* second) {
  constexpr int64_t lanes = sizeof(V) / sizeof(Accumulate<T>);
  for (int k = 0; k < TILE; ++k) first[k] = second[k] = V{};
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4) {
    const T* const row = x + p * channels;
    for (int k = 0; k < TILE; ++k) {
      const V a = Access<V>::get(row + k * lanes) - centre[k];
      const V b = Access<V>::get(row + channels + k * lanes) - centre[k];
      const V c = Access<V>::get(row + 2 * channels + k * lanes) - centre[k];
      const V d = Access<V>::get(row + 3 * channels + k * lanes) - centre[k];
      first[k] += (a + b) + (c + d);
      second[k] += fma(a, a, static_cast<V>(b * b)) + fma(c, c, static_cast<V>(d * d));
    }
  }
  for (; p < pixels; ++p) {
    for (int k = 0; k < TILE; ++k) {
      const V d = Access<V>::get(x + p * channels + k * lanes) - centre[k];
      first[k] += d;
      second[k] = fma(d, d, second[k]);
    }
  }
}

template <class T>
void channel_moments(const T* x, int64_t pixels, int64_t channels, double* mean, double* m2) {
  using A = Accumulate<T>;
  constexpr int64_t step = 7;  // as kCentreStep, of pixels
  const A inverse = A(1) / static_cast<A>((pixels + step - 1) / step);
  const double count = static_cast<double>(pixels);
  each_tile<A>(channels, [&](auto size, auto lane, int64_t c) __attribute__((always_inline)) {
    using V = decltype(lane);
    constexpr int tile = decltype(size)::value;
    constexpr int64_t lanes = sizeof(V) / sizeof(A);
    V centre[tile] = {}, first[tile], second[tile];
    for (int64_t p = 0; p < pixels; p += step) {
      for (int k = 0; k < tile; ++k) centre[k] += Access<V>::get(x + p * channels + c + k * lanes);
    }
    for (int k = 0; k < tile; ++k) centre[k] *= inverse;
    for (int pass = 0; pass < 2; ++pass) {
      tile_moments_about<tile>(centre, x + c, pixels, channels, first, second);
      bool cancelled = false;
      for (int k = 0; k < tile; ++k) {
        double centres[lanes] = {}, firsts[lanes] = {}, seconds[lanes] = {};
        add_lanes(centres, centre[k]);
        add_lanes(firsts, first[k]);
        add_lanes(seconds, second[k]);
        for (int64_t i = 0; i < lanes; ++i) {
          const Deviations d = from_sums(centres[i], firsts[i], seconds[i], count);
          mean[c + k * lanes + i] = d.mean;
          m2[c + k * lanes + i] = d.m2;
          cancelled |= d.cancelled;
        }
      }
      if (!cancelled) break;
      for (int k = 0; k < tile; ++k) centre[k] += first[k] * (A(1) / static_cast<A>(pixels));
    }
  });
  if (sizeof(A) == sizeof(double)) return;
  for (int64_t c = 0; c < channels; ++c) {
    if (m2[c] < __builtin_inf()) continue;
    const Deviations d = moments_in_double(x + c, pixels, channels);
    mean[c] = d.mean;
    m2[c] = d.m2;
  }
}

FASTGAN_INLINE void merge_moments_body(double* mean, double* m2, double seen, const double* more_mean,
                                       const double* more_m2, double count, int64_t n) {
  const double share = count / (seen + count), weight = seen * count / (seen + count);
  each<double>(n, [&](auto lane, int64_t c) __attribute__((always_inline)) {
    using V = decltype(lane);
    const V middle = Access<V>::get(mean + c);
    const V delta = Access<V>::get(more_mean + c) - middle;
    const V spread = Access<V>::get(m2 + c) + Access<V>::get(more_m2 + c);
    Access<V>::put(mean + c, fma(delta, splat<V>(share), middle));
    Access<V>::put(m2 + c, fma(static_cast<V>(delta * delta), splat<V>(weight), spread));
  });
}

inline void merge_moments(double* mean, double* m2, double seen, const double* more_mean, const double* more_m2,
                          double count, int64_t n) {
  merge_moments_body(mean, m2, seen, more_mean, more_m2, count, n);
}

template <Activation ACT, bool RESIDUAL, class T>
void channel_forward_as(const T* x, const T* residual, T* y, int64_t pixels, int64_t channels,
                        const ChannelParams<Accumulate<T>>& p) {
  using A = Accumulate<T>;
  const bool streams = p.streams && can_stream<A>(y) && channels % kLanes<A> == 0;
  const A slope = p.slope;
  for (int64_t pixel = 0; pixel < pixels; ++pixel, x += channels, y += channels) {
    each<A>(channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
      using V = decltype(lane);
      const V t = Access<V>::get(x + c) - Access<V>::get(p.mean + c);
      V z = activate<ACT>(fma(t, Access<V>::get(p.scale + c), Access<V>::get(p.shift + c)), slope);
      if constexpr (RESIDUAL) z += Access<V>::get(residual + c);
      Access<V>::put(y + c, z, streams);
    });
    if constexpr (RESIDUAL) residual += channels;
  }
  if (streams) stream_end();
}

template <class T>
void channel_forward(Activation act, const T* x, const T* residual, T* y, int64_t pixels, int64_t channels,
                     const ChannelParams<Accumulate<T>>& p) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    constexpr Activation ACT = decltype(constant)::value;
    if (residual != nullptr) {
      channel_forward_as<ACT, true>(x, residual, y, pixels, channels, p);
    } else {
      channel_forward_as<ACT, false>(x, residual, y, pixels, channels, p);
    }
  });
}

template <Activation ACT, class G, class T>
void channel_sums_as(const G* dy, const T* x, int64_t pixels, int64_t channels, const ChannelParams<Accumulate<T>>& p,
                     double* sum_g, double* sum_gn) {
  using A = Accumulate<T>;
  each_tile<A>(channels, [&](auto size, auto lane, int64_t c) __attribute__((always_inline)) {
    using V = decltype(lane);
    constexpr int tile = decltype(size)::value;
    constexpr int64_t lanes = sizeof(V) / sizeof(A);
    V mean[tile], rstd[tile], scale[tile], shift[tile], g_sum[tile] = {}, gn_sum[tile] = {};
    for (int k = 0; k < tile; ++k) {
      mean[k] = Access<V>::get(p.mean + c + k * lanes);
      rstd[k] = Access<V>::get(p.rstd + c + k * lanes);
      scale[k] = Access<V>::get(p.scale + c + k * lanes);
      shift[k] = Access<V>::get(p.shift + c + k * lanes);
    }
    const auto add = [&](int64_t at, int k, V& g_total, V& gn_total) __attribute__((always_inline)) {
      const V t = Access<V>::get(x + at) - mean[k];
      const V g = activate_backward<ACT>(static_cast<V>(Access<V>::get(dy + at)), t, scale[k], shift[k], p.slope);
      g_total += g;
      gn_total = fma(g, static_cast<V>(t * rstd[k]), gn_total);
    };
    int64_t pixel = 0;
    for (; pixel + 4 <= pixels; pixel += 4) {
      const int64_t at = pixel * channels + c;
      for (int k = 0; k < tile; ++k) {
        V g_four = {}, gn_four = {};
        for (int r = 0; r < 4; ++r) add(at + r * channels + k * lanes, k, g_four, gn_four);
        g_sum[k] += g_four;
        gn_sum[k] += gn_four;
      }
    }
    for (; pixel < pixels; ++pixel) {
      for (int k = 0; k < tile; ++k) add(pixel * channels + c + k * lanes, k, g_sum[k], gn_sum[k]);
    }
    for (int k = 0; k < tile; ++k) {
      add_lanes(sum_g + c + k * lanes, g_sum[k]);
      add_lanes(sum_gn + c + k * lanes, gn_sum[k]);
    }
  });
}

template <class G, class T>
void channel_sums(Activation act, const G* dy, const T* x, int64_t pixels, int64_t channels,
                  const ChannelParams<Accumulate<T>>& p, double* sum_g, double* sum_gn) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    channel_sums_as<decltype(constant)::value>(dy, x, pixels, channels, p, sum_g, sum_gn);
  });
}

template <Activation ACT, class G, class T>
void channel_backward_as(const G* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                         const ChannelParams<Accumulate<T>>& p, const Accumulate<T>* mean_g,
                         const Accumulate<T>* slant) {
  using A = Accumulate<T>;
  const bool streams = p.streams && can_stream<A>(dx) && channels % kLanes<A> == 0;
  const A slope = p.slope;
  for (int64_t pixel = 0; pixel < pixels; ++pixel, dy += channels, x += channels, dx += channels) {
    each<A>(channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
      using V = decltype(lane);
      const V t = Access<V>::get(x + c) - Access<V>::get(p.mean + c);
      const V scale = Access<V>::get(p.scale + c), shift = Access<V>::get(p.shift + c);
      const V g = activate_backward<ACT>(static_cast<V>(Access<V>::get(dy + c)), t, scale, shift, slope);
      const V centred = g - Access<V>::get(mean_g + c);
      const V projected = fma(t, static_cast<V>(Access<V>::get(slant + c)), centred);
      Access<V>::put(dx + c, static_cast<V>(scale * projected), streams);
    });
  }
  if (streams) stream_end();
}

template <class G, class T>
void channel_backward(Activation act, const G* dy, const T* x, T* dx, int64_t pixels, int64_t channels,
                      const ChannelParams<Accumulate<T>>& p, const Accumulate<T>* mean_g, const Accumulate<T>* slant) {
  with_activation(act, [&](auto constant) __attribute__((always_inline)) {
    channel_backward_as<decltype(constant)::value>(dy, x, dx, pixels, channels, p, mean_g, slant);
  });
}

template <class T>
constexpr NormKernels<T> norm_table() {
  using A = Accumulate<T>;
  return {
      plane_moments<T>,       plane_forward<T>,       plane_sums<T, T>,   plane_sums<A, T>,   plane_backward<T, T>,
      plane_backward<A, T>,   channel_moments<T>,     channel_forward<T>, channel_sums<T, T>, channel_sums<A, T>,
      channel_backward<T, T>, channel_backward<A, T>, merge_moments,
  };
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
