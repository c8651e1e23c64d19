#include "cpu/parallel.h"

#include <stdexcept>

#include <torch/csrc/stable/c/shim.h>

namespace fastgan {

// torch's C shim runs the loop inside libtorch: no OpenMP runtime of our own is linked.
void parallel_ranges(int64_t begin, int64_t end, int64_t grain, RangeBody body, void* context) {
  if (torch_parallel_for(begin, end, grain, body, context) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("fastgan: a parallel loop of the CPU kernels failed");
  }
}

int thread_count() {
  uint32_t count = 1;
  return torch_get_num_threads(&count) == AOTI_TORCH_SUCCESS ? static_cast<int>(count) : 1;
}

}  // namespace fastgan
