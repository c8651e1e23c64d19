// Pointwise losses: blocks of fixed size, whose sums are added in order, so that the threads' number changes no bit.
#include "cpu/losses/losses.h"

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd/kernels.h"

namespace fastgan {
namespace {

constexpr int64_t kBlock = 32768;

template <class T>
double loss_as(const PointwiseLoss& a) {
  using A = Accumulate<T>;
  const LossKernels<T>& k = kernels<T>().loss;
  const int64_t blocks = ceil_div(a.count, kBlock);
  std::vector<double> partial(static_cast<size_t>(blocks));
  const auto from = [](const void* base, int64_t offset) {
    return base != nullptr ? static_cast<const T*>(base) + offset : nullptr;
  };
  const auto into = [](void* base, int64_t offset) {
    return base != nullptr ? static_cast<T*>(base) + offset : nullptr;
  };
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i * kBlock, count = std::min(kBlock, a.count - offset);
      partial[static_cast<size_t>(i)] =
          k.block(a.kind, from(a.input, offset), from(a.target, offset), static_cast<A>(a.label), into(a.value, offset),
                  into(a.grad, offset), count);
    }
  });
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace

double pointwise_loss(const PointwiseLoss& args) {
  double sum = 0;
  with_type<float, BFloat16, double>(args.dtype, [&](auto element) { sum = loss_as<decltype(element)>(args); });
  return sum;
}

}  // namespace fastgan
