// Element types, enums and integer arithmetic that all ops share, on every device. No torch here.
#pragma once

#include <cstdint>

namespace fastgan {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

// Sums, statistics and parameters of an element type: float, or double for double.
template <class T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <class T>
using Accumulate = typename AccumulateOf<T>::type;

enum class Dtype { float32, bfloat16, float16, float64 };

template <class T>
constexpr Dtype kDtype = Dtype::float32;
template <>
inline constexpr Dtype kDtype<BFloat16> = Dtype::bfloat16;
template <>
inline constexpr Dtype kDtype<Half> = Dtype::float16;
template <>
inline constexpr Dtype kDtype<double> = Dtype::float64;

// Calls body with a value of the element type that dtype names, if it is one of Types.
template <class... Types, class Body>
void with_type(Dtype dtype, const Body& body) {
  (void)((dtype == kDtype<Types> && (body(Types{}), true)) || ...);
}

// nchw: planes of H x W. nhwc: channels innermost (torch's channels_last).
enum class Layout { nchw, nhwc };

enum class Activation { none, relu, leaky_relu };

enum class LossKind { l1, mse, bce };

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastgan
