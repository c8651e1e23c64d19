// What the norms' drivers share: sizes of pieces, merged moments, and the parameters of the normalise step.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/simd/kernels.h"
#include "scratch.h"

namespace fastgan {

constexpr int64_t kBlock = 16384;           // elements of a plane that are summed, or written, at a time
constexpr int64_t kPixelBytes = 64 * 1024;  // of pixels whose sums are taken at a time, channels innermost
constexpr int64_t kGrain = 32768;           // elements that are worth a thread

// Results of at least this size are stored past the caches. Measured with cold caches on two cores (1 MB of L2 each, 32
// MB of L3): at 4 MB this takes a fifth off the NCHW backward pass, and pass and following convolution together take no
// longer; channels innermost it gains nothing there. At 16 MB it halves the time of writing.
constexpr int64_t kStreamPlanesBytes = 4 << 20;
constexpr int64_t kStreamPixelsBytes = 12 << 20;

inline bool streams_past_caches(Layout layout, int64_t bytes) {
  return bytes >= (layout == Layout::nchw ? kStreamPlanesBytes : kStreamPixelsBytes);
}

// Memory for the norms' partial sums.
struct PartialSums;
using PartialSumsSpace = Workspace<double, PartialSums>;

template <class T>
const T* at(const void* base, int64_t offset) {
  return static_cast<const T*>(base) + offset;
}

template <class T>
T* at(void* base, int64_t offset) {
  return static_cast<T*>(base) + offset;
}

struct Moments {
  double mean = 0, m2 = 0, seen = 0;

  void merge(double more_mean, double more_m2, double count) {
    const double total = seen + count, delta = more_mean - mean;
    mean += delta * (count / total);
    m2 += more_m2 + delta * delta * (seen * count / total);
    seen = total;
  }
};

// The parameters of plane or channel c of a sample.
template <class A>
PlaneParams<A> plane_params(A mean, A rstd, const void* weight, const void* bias, int64_t c, double slope,
                            bool streams) {
  const A scale = weight != nullptr ? rstd * *at<A>(weight, c) : rstd;
  const A shift = bias != nullptr ? *at<A>(bias, c) : A(0);
  return {mean, rstd, scale, shift, static_cast<A>(slope), streams, 0};
}

// 1 / sqrt(variance + eps), and 0 where that is 1 / 0: a constant plane without eps is 0, as in torch.
template <class A>
A rstd_of(double m2, int64_t count, double eps) {
  const double square = (count > 0 ? m2 / static_cast<double>(count) : 0.0) + eps;
  return square == 0 ? A(0) : static_cast<A>(1.0 / std::sqrt(square));
}

inline int64_t pixels_per_block(int64_t channels, size_t element) {
  const int64_t fitting = kPixelBytes / (channels < 1 ? 1 : channels * static_cast<int64_t>(element));
  return fitting < 32 ? 32 : fitting > 256 ? 256 : fitting;
}

}  // namespace fastgan
