// Loops over torch's own threads, without torch's headers.
#pragma once

#include <cstdint>

namespace fastgan {

using RangeBody = void (*)(int64_t begin, int64_t end, void* context);

// Calls body on disjoint ranges that cover [begin, end), each at least `grain` long where possible. Which thread gets
// which range depends on the thread count; results must not.
void parallel_ranges(int64_t begin, int64_t end, int64_t grain, RangeBody body, void* context);

int thread_count();

template <class F>
void parallel_for(int64_t count, int64_t grain, const F& f) {
  if (count <= 0) return;
  parallel_ranges(
      0, count, grain < 1 ? 1 : grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&f));
}

}  // namespace fastgan
