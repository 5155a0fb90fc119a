// Convolutions of 8-bit integers with exact 32-bit sums, as kernels see them: dense NCHW data in up to three spatial axes.
#pragma once

#include "runtime/cuda/integer_task.h"

namespace forebay::cuda {

struct IntegerConv {
  DType x_type = DType::u8, w_type = DType::i8, y_type = DType::i32;  // y: i32 where the sums are the result
  const void *x = nullptr, *w = nullptr;                              // w: the filters of the call
  void* y = nullptr;
  int batch = 0, groups = 1;
  int channels = 0;                             // of a group
  int filters = 0, first = 0, all_filters = 0;  // of the call, where they begin in y, and how many y has
  int in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1}, pad[3] = {0, 0, 0};
  int taps = 1, in_size = 1, out_size = 1;
  Parameter x_zero, w_zero, x_scale, w_scale, y_scale, y_zero, bias;  // of w and the bias one a filter of y
  bool float_bias = false;                                            // added to the scaled sum, else to the sum
};
cudaError_t launch_integer_conv(const IntegerConv& task, cudaStream_t stream);

}  // namespace forebay::cuda
