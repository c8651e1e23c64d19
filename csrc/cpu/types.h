// Element types and the small enums that the CPU ops share. No torch here: ops.cpp translates.
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

// nchw: planes of H x W. nhwc: channels innermost (torch's channels_last).
enum class Layout { nchw, nhwc };

enum class Activation { none, relu, leaky_relu };

enum class LossKind { l1, mse, bce };

}  // namespace fastgan
