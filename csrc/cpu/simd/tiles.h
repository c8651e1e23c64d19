// The kernels of pixels.h for one dtype, and its elements outside of them.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/simd/kernels.h"

namespace fastgan {

// body(tiles), with the TileKernels<S, T> that serve images of this dtype best; float16 has none.
template <class Body>
void with_tiles(Dtype dtype, Body body) {
  with_type<float, BFloat16, double>(dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (const auto* const dot = capability().bfloat16_dot; dot != nullptr) return body(*dot);
    }
    body(kernels<T>().tile);
  });
}

// The grain of a loop that copies so many elements an item: fewer than 32 thousand are copied before a thread wakes.
inline int64_t copy_grain(int64_t elements) {
  return std::max<int64_t>(1, (int64_t{32} << 10) / std::max<int64_t>(1, elements));
}

template <class S, class T>
S element(T value) {
  if constexpr (std::is_same_v<S, T>) {
    return value;
  } else {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
  }
}

}  // namespace fastgan
