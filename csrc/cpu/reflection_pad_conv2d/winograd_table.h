// The transforms of Winograd's convolution F(4x4, 3x3), as kernels of one instruction set.
//
// A 4x4 tile of the result of a 3x3 convolution is A^T [(G g G^T) . (B^T d B)] A, with d the 6x6 tile of the image
// under it, g the 3x3 weights and . the product of elements: 36 products in place of 144. (Lavin and Gray, 2015, "Fast
// algorithms for convolutional neural networks", equations 8 and 9.) B, G and A interpolate at 0, 5/8, -5/8, 3/2, -3/2
// and infinity: every constant of B and A is then exact in float32, and the rounding error is half of that with the
// customary 0, 1, -1, 2, -2 and infinity.
#pragma once

#include <cstdint>

namespace fastgan {

constexpr int kWinogradStep = 4;     // pixels of the result, in each direction
constexpr int kWinogradTile = 6;     // pixels of the image
constexpr int kWinogradPoints = 36;  // products

// Channels are innermost everywhere. A panel is `width` channels; what belongs to one point lies `point` elements apart
// from what belongs to the next. Outputs are whole vectors, zeros beyond the last channel. Everything but the images is
// float, whatever their element type T.
template <class T>
struct WinogradKernels {
  // B^T d B of the 36 pixels of a tile, row by row: channel c of point p goes to out[p * point + c / width * panel +
  // c % width].
  void (*image)(const T* const* pixels, int64_t channels, float* out, int64_t point, int64_t panel);
  // A e A^T of the 16 pixels of a tile of a gradient, laid out as by `image`.
  void (*gradient)(const T* const* pixels, int64_t channels, float* out, int64_t point, int64_t panel);
  // A^T m A + bias, of `channels` <= width channels: the first `rows` x `columns` of the 4x4 pixels, `row` and `column`
  // elements apart. bias may be null.
  void (*result)(const float* m, int64_t point, const float* bias, T* y, int64_t row, int64_t column, int rows,
                 int columns, int64_t channels);

  // The same kernels for every T.
  int width;
  // G g G^T of a panel: 9 taps, `width` elements apart.
  void (*weights)(const float* taps, float* out, int64_t point);
  // G^T u G of a panel: the adjoint of `weights`.
  void (*weight_gradient)(const float* u, int64_t point, float* taps);
};

}  // namespace fastgan
