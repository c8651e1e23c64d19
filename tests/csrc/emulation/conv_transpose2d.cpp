// The launchers of csrc/cuda/conv_transpose2d/launchers.h for ctypes; memories are declared with their true sizes.
#include "cuda/conv_transpose2d/launchers.h"

#include <cstdlib>

#include "machine.h"

namespace {
int multiprocessors = 1;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = multiprocessors;
  return cudaSuccess;
}

using fastgan::ConvTranspose2dShape;

extern "C" {

void set_multiprocessors(int count) { multiprocessors = count; }

// numbers: dtype, layout, n, c_in, c_out, groups, then in, out, kernel, stride, padding, output_padding and dilation by
// two, the four strides of the weight gradient, and the activation.
void make_shape(const int64_t* numbers, double slope, ConvTranspose2dShape* shape) {
  ConvTranspose2dShape& s = *shape;
  s.dtype = static_cast<fastgan::Dtype>(*numbers++);
  s.layout = static_cast<fastgan::Layout>(*numbers++);
  for (int64_t* field : {&s.n, &s.c_in, &s.c_out, &s.groups}) *field = *numbers++;
  for (int64_t* pair : {s.in, s.out, s.kernel, s.stride, s.padding, s.output_padding, s.dilation}) {
    pair[0] = *numbers++, pair[1] = *numbers++;
  }
  for (int64_t& stride : s.weight_stride) stride = *numbers++;
  s.activation = static_cast<fastgan::Activation>(*numbers++);
  s.slope = slope;
}

int shape_bytes() { return sizeof(ConvTranspose2dShape); }

// sizes: the bytes of x (or dy), weight, bias and the result.
int forward(const ConvTranspose2dShape* shape, int tf32, const void* x, const void* weight, const void* bias, void* y,
            const int64_t* sizes) {
  emulation::forget_memories();
  emulation::add_input(x, sizes[0]);
  emulation::add_input(weight, sizes[1]);
  if (bias != nullptr) emulation::add_input(bias, sizes[2]);
  emulation::add_output(y, sizes[3]);
  return fastgan::cuda::conv_transpose2d_forward(*shape, tf32, x, weight, bias, y, nullptr);
}

int input_gradient(const ConvTranspose2dShape* shape, int tf32, const void* dy, const void* weight, const void*,
                   void* dx, const int64_t* sizes) {
  emulation::forget_memories();
  emulation::add_input(dy, sizes[0]);
  emulation::add_input(weight, sizes[1]);
  emulation::add_output(dx, sizes[3]);
  return fastgan::cuda::conv_transpose2d_input_gradient(*shape, tf32, dy, weight, dx, nullptr);
}

// x in the place of the weight; `bytes` receives the size of the workspace.
int weight_gradient(const ConvTranspose2dShape* shape, int tf32, const void* dy, const void* x, const void*,
                    void* dweight, const int64_t* sizes, int64_t* bytes) {
  cudaError_t error = fastgan::cuda::conv_transpose2d_workspace(*shape, tf32, bytes);
  if (error != cudaSuccess) return error;
  void* const workspace = std::aligned_alloc(16, (*bytes + 15) / 16 * 16);
  emulation::forget_memories();
  emulation::add_input(dy, sizes[0]);
  emulation::add_input(x, sizes[1]);
  emulation::add_output(dweight, sizes[3]);
  emulation::add_output(workspace, *bytes);
  error = fastgan::cuda::conv_transpose2d_weight_gradient(*shape, tf32, dy, x, dweight, workspace, nullptr);
  std::free(workspace);
  return error;
}

}  // extern "C"
