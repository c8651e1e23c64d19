// conv_transpose2d with few output channels. See conv_transpose2d.h.
#pragma once

#include "conv_transpose2d_shape.h"

namespace fastgan {

// As conv_transpose2d_forward, where that would leave most of its vectors empty; elsewhere returns false, y unwritten.
bool conv_transpose2d_narrow_forward(const ConvTranspose2dShape& shape, const void* x, const void* weight,
                                     const void* bias, void* y);

}  // namespace fastgan
