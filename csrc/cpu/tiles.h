// The kernels of pixels.h for one dtype, and its elements outside of them.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels.h"

namespace fastgan {

// body(tiles), with the TileKernels<S, T> that serve images of this dtype best; float16 has none.
template <class Body>
void with_tiles(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float32: return body(tile_kernels<float>());
    case Dtype::float64: return body(tile_kernels<double>());
    case Dtype::bfloat16:
      if (const auto* const dot = capability().bfloat16_dot; dot != nullptr) return body(*dot);
      return body(tile_kernels<BFloat16>());
    case Dtype::float16: return;
  }
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
