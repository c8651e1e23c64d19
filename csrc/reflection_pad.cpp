// The reflection_pad2d ops of torch.ops.fastgan_csrc: schemas, argument checks, allocation. The arithmetic is in
// cpu/reflection_pad.
#include "cpu/reflection_pad/reflection_pad.h"

#include <tuple>

#include <torch/library.h>

#include "checks.h"

namespace fastgan {
namespace {

ReflectionPad padding(const Tensor& x, int64_t left, int64_t right, int64_t top, int64_t bottom, bool padded,
                      const char* op) {
  ReflectionPad s{};
  s.layout = layout_of(x, op, padded ? "dy" : "input");
  s.dtype = dtype_of(x, op, true);
  s.left = left, s.right = right, s.top = top, s.bottom = bottom;
  s.n = x.size(0), s.c = x.size(1);
  s.h = x.size(2) - (padded ? top + bottom : 0);
  s.w = x.size(3) - (padded ? left + right : 0);
  for (const auto& [pad, size, name, axis] :
       {std::tuple{left, s.w, "left", "width"}, std::tuple{right, s.w, "right", "width"},
        std::tuple{top, s.h, "top", "height"}, std::tuple{bottom, s.h, "bottom", "height"}}) {
    TORCH_CHECK_VALUE(pad >= 0 && (pad == 0 || pad < size), op, ": the padding ", name,
                      " must be at least 0 and less than the ", axis, " of the unpadded image, got ", pad, " for a ",
                      axis, " of ", size);
  }
  TORCH_CHECK_VALUE(s.h >= 0 && s.w >= 0, op, ": dy of shape ", x.sizes(), " is smaller than its padding ", left, ", ",
                    right, ", ", top, ", ", bottom, " (left, right, top, bottom)");
  return s;
}

Tensor reflection_pad2d_op(const Tensor& x, int64_t left, int64_t right, int64_t top, int64_t bottom) {
  const ReflectionPad s = padding(x, left, right, top, bottom, false, "reflection_pad2d");
  Tensor y = empty({s.n, s.c, s.h + top + bottom, s.w + left + right}, x, s.layout);
  if (y.numel() != 0) reflection_pad_forward(s, x.const_data_ptr(), y.mutable_data_ptr());
  return y;
}

Tensor reflection_pad2d_backward_op(const Tensor& dy, int64_t left, int64_t right, int64_t top, int64_t bottom) {
  const ReflectionPad s = padding(dy, left, right, top, bottom, true, "reflection_pad2d_backward");
  Tensor dx = empty({s.n, s.c, s.h, s.w}, dy, s.layout);
  if (dx.numel() != 0) reflection_pad_backward(s, dy.const_data_ptr(), dx.mutable_data_ptr());
  return dx;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastgan_csrc, m) {
  m.def("reflection_pad2d(Tensor x, int left, int right, int top, int bottom) -> Tensor");
  m.def("reflection_pad2d_backward(Tensor dy, int left, int right, int top, int bottom) -> Tensor");
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) {
  m.impl("reflection_pad2d", reflection_pad2d_op);
  m.impl("reflection_pad2d_backward", reflection_pad2d_backward_op);
}

}  // namespace fastgan
