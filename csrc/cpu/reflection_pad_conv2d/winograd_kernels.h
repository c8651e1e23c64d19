// The transforms of winograd_table.h for one instruction set.
#pragma once

#include "cpu/reflection_pad_conv2d/winograd_table.h"
#include "cpu/simd/simd.h"

namespace fastgan {
namespace FASTGAN_ISA {

// The points 0, P, -P, Q, -Q and infinity.
constexpr float kP = 0.625f, kQ = 1.5f;
constexpr float kP2 = kP * kP, kQ2 = kQ * kQ;
// The products of the distances from a point to the other finite ones.
constexpr float kAt0 = kP2 * kQ2, kAtP = 2 * kP2 * (kP2 - kQ2), kAtQ = 2 * kQ2 * (kQ2 - kP2);

FASTGAN_INLINE VecF fma(float a, VecF b, VecF c) { return fma(splat<VecF>(a), b, c); }

// B^T x
struct ImageTransform {
  static constexpr int kIn = 6, kOut = 6;
  FASTGAN_INLINE void apply(const VecF (&x)[6], VecF (&y)[6]) {
    const VecF even_p = fma(-kQ2, x[2], x[4]), odd_p = kP * fma(-kQ2, x[1], x[3]);
    const VecF even_q = fma(-kP2, x[2], x[4]), odd_q = kQ * fma(-kP2, x[1], x[3]);
    y[0] = fma(kAt0, x[0], fma(-(kP2 + kQ2), x[2], x[4]));
    y[1] = even_p + odd_p;
    y[2] = even_p - odd_p;
    y[3] = even_q + odd_q;
    y[4] = even_q - odd_q;
    y[5] = fma(kAt0, x[1], fma(-(kP2 + kQ2), x[3], x[5]));
  }
};

// A x
struct GradientTransform {
  static constexpr int kIn = 4, kOut = 6;
  FASTGAN_INLINE void apply(const VecF (&x)[4], VecF (&y)[6]) {
    const VecF even_p = fma(kP2, x[2], x[0]), odd_p = kP * fma(kP2, x[3], x[1]);
    const VecF even_q = fma(kQ2, x[2], x[0]), odd_q = kQ * fma(kQ2, x[3], x[1]);
    y[0] = x[0];
    y[1] = even_p + odd_p;
    y[2] = even_p - odd_p;
    y[3] = even_q + odd_q;
    y[4] = even_q - odd_q;
    y[5] = x[3];
  }
};

// A^T x
struct ResultTransform {
  static constexpr int kIn = 6, kOut = 4;
  FASTGAN_INLINE void apply(const VecF (&x)[6], VecF (&y)[4]) {
    const VecF even_p = x[1] + x[2], odd_p = kP * (x[1] - x[2]);
    const VecF even_q = x[3] + x[4], odd_q = kQ * (x[3] - x[4]);
    y[0] = x[0] + even_p + even_q;
    y[1] = odd_p + odd_q;
    y[2] = fma(kP2, even_p, kQ2 * even_q);
    y[3] = fma(kP2, odd_p, fma(kQ2, odd_q, x[5]));
  }
};

// G x
struct WeightTransform {
  static constexpr int kIn = 3, kOut = 6;
  FASTGAN_INLINE void apply(const VecF (&x)[3], VecF (&y)[6]) {
    const VecF even_p = fma(kP2, x[2], x[0]) * (1 / kAtP), odd_p = x[1] * (kP / kAtP);
    const VecF even_q = fma(kQ2, x[2], x[0]) * (1 / kAtQ), odd_q = x[1] * (kQ / kAtQ);
    y[0] = x[0] * (1 / kAt0);
    y[1] = even_p + odd_p;
    y[2] = even_p - odd_p;
    y[3] = even_q + odd_q;
    y[4] = even_q - odd_q;
    y[5] = x[2];
  }
};

// G^T x
struct WeightGradientTransform {
  static constexpr int kIn = 6, kOut = 3;
  FASTGAN_INLINE void apply(const VecF (&x)[6], VecF (&y)[3]) {
    const VecF even_p = (x[1] + x[2]) * (1 / kAtP), odd_p = (x[1] - x[2]) * (kP / kAtP);
    const VecF even_q = (x[3] + x[4]) * (1 / kAtQ), odd_q = (x[3] - x[4]) * (kQ / kAtQ);
    y[0] = fma(1 / kAt0, x[0], even_p + even_q);
    y[1] = odd_p + odd_q;
    y[2] = fma(kP2, even_p, fma(kQ2, even_q, x[5]));
  }
};

// T x T^T, of a square of kIn x kIn vectors that load(i, j) reads; store(i, j, value) takes the kOut x kOut results.
template <class T, class Load, class Store>
FASTGAN_INLINE void transform_square(const Load& load_one, const Store& store_one) {
  VecF half[T::kOut][T::kIn];
#pragma GCC unroll 6
  for (int j = 0; j < T::kIn; ++j) {
    VecF in[T::kIn], out[T::kOut];
#pragma GCC unroll 6
    for (int i = 0; i < T::kIn; ++i) in[i] = load_one(i, j);
    T::apply(in, out);
#pragma GCC unroll 6
    for (int i = 0; i < T::kOut; ++i) half[i][j] = out[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < T::kOut; ++i) {
    VecF out[T::kOut];
    T::apply(half[i], out);
#pragma GCC unroll 6
    for (int j = 0; j < T::kOut; ++j) store_one(i, j, out[j]);
  }
}

template <class Transform, class T>
FASTGAN_INLINE void transform_pixels(const T* const* pixels, int64_t channel, float* out, int64_t point) {
  transform_square<Transform>([&](int i, int j) { return load(pixels[i * Transform::kIn + j] + channel); },
                              [&](int i, int j, VecF value) { store(out + (i * Transform::kOut + j) * point, value); });
}

template <class Transform, class T>
void winograd_pixels(const T* const* pixels, int64_t channels, float* out, int64_t point, int64_t panel) {
  constexpr int64_t L = kLanes<float>;
  constexpr int kPixels = Transform::kIn * Transform::kIn;
  int64_t c = 0;
  for (; c + L <= channels; c += L) {
    transform_pixels<Transform>(pixels, c, out + c / (2 * L) * panel + c % (2 * L), point);
  }
  if (c == channels) return;
  T last[kPixels][L] = {};
  const T* rows[kPixels];
  for (int i = 0; i < kPixels; ++i) {
    for (int64_t j = c; j < channels; ++j) last[i][j - c] = pixels[i][j];
    rows[i] = last[i];
  }
  transform_pixels<Transform>(rows, 0, out + c / (2 * L) * panel + c % (2 * L), point);
}

template <class T>
void winograd_result(const float* m, int64_t point, const float* bias, T* y, int64_t row, int64_t column, int rows,
                     int columns, int64_t channels) {
  constexpr int64_t L = kLanes<float>;
  for (int64_t c = 0; c < channels; c += L) {
    const VecF add = bias != nullptr ? load(bias + c) : VecF{};
    const auto sums = [&](int i, int j) { return load(m + (i * kWinogradTile + j) * point + c); };
    if (rows == kWinogradStep && columns == kWinogradStep && c + L <= channels) {
      transform_square<ResultTransform>(
          sums, [&](int i, int j, VecF value) { store(y + i * row + j * column + c, value + add); });
      continue;
    }
    float tile[kWinogradStep][kWinogradStep][L];
    transform_square<ResultTransform>(sums, [&](int i, int j, VecF value) { store(tile[i][j], value + add); });
    const int64_t count = channels - c < L ? channels - c : L;
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) {
        for (int64_t k = 0; k < count; ++k) store_one(y + i * row + j * column + c + k, tile[i][j][k]);
      }
    }
  }
}

// A panel of weights or of their gradient.
template <class T>
void winograd_taps(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  for (int v = 0; v < 2; ++v) {
    const int64_t c = v * kLanes<float>;
    transform_square<T>([&](int i, int j) { return load(in + (i * T::kIn + j) * in_stride + c); },
                        [&](int i, int j, VecF value) { store(out + (i * T::kOut + j) * out_stride + c, value); });
  }
}

void winograd_weights(const float* taps, float* out, int64_t point) {
  winograd_taps<WeightTransform>(taps, 2 * kLanes<float>, out, point);
}

void winograd_weight_gradient(const float* u, int64_t point, float* taps) {
  winograd_taps<WeightGradientTransform>(u, point, taps, 2 * kLanes<float>);
}

template <class T>
constexpr WinogradKernels<T> winograd_table() {
  return {winograd_pixels<ImageTransform, T>,
          winograd_pixels<GradientTransform, T>,
          winograd_result<T>,
          2 * kLanes<float>,
          winograd_weights,
          winograd_weight_gradient};
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
