// Work along axes: reductions over any of them, Softmax, ArgMax, sums and norms over channels and groups.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

enum class AxisReduce : int { sum, mean, max, min, prod, l1, l2, log_sum, log_sum_exp, sum_square };
// y[i] of `outer` is the reduction of a over `inner` from outer's place on; operand 1 of each walk is a. Floats in f32 in an order that
// depends on the sizes alone; i32 and i64 wrap. Where nothing is reduced, the identity.
struct AxisReduceTask {
  AxisReduce op = AxisReduce::sum;
  DType type = DType::f32;
  Walk outer, inner;
  const void* a = nullptr;
  void* y = nullptr;
};
cudaError_t launch_axis_reduce(const AxisReduceTask& task, cudaStream_t stream);

// [outer, length, inner], along length.
struct AxisTask {
  DType type = DType::f32;
  std::int64_t outer = 1, length = 1, inner = 1;
  const void* a = nullptr;
  void* y = nullptr;
};
cudaError_t launch_axis_softmax(const AxisTask& task, bool log, cudaStream_t stream);
// i64 places of the most (or least) values; the first of equals, or the last.
cudaError_t launch_axis_arg(const AxisTask& task, bool most, bool last, cudaStream_t stream);
cudaError_t launch_axis_cumsum(const AxisTask& task, bool exclusive, bool reverse, cudaStream_t stream);

// y = (x - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] + shift[c], x as [images, channels, size]; parameters of one type.
// With `groups`, mean and variance are those of each image's group of channels.
struct ChannelNormTask {
  DType type = DType::f32, parameter_type = DType::f32;
  std::int64_t images = 1, channels = 1, size = 1, groups = 0;
  std::int64_t parameters = 0;  // channels, or groups
  const void *x = nullptr, *scale = nullptr, *shift = nullptr, *mean = nullptr, *variance = nullptr;
  void* y = nullptr;
  float epsilon = 0;
};
cudaError_t launch_channel_norm(const ChannelNormTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
