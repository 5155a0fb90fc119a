// LRN and LpNormalization, computed in f64 as on the CPU.
#pragma once

#include "runtime/cuda/axis_task.h"

namespace forebay::cuda {

// y = x / (bias + alpha * the sum of squares of `window` channels around it) ^ beta; alpha is that of one channel.
struct ResponseTask {
  DType type = DType::f32;
  const void* x = nullptr;
  void* y = nullptr;
  std::int64_t images = 1, channels = 1, size = 1, window = 1;
  double alpha = 0, beta = 0, bias = 1;
};
cudaError_t launch_response_norm(const ResponseTask& task, cudaStream_t stream);

// A warp a line: divided by the sum of magnitudes, or by the root of the sum of squares; by 0 it is 0.
cudaError_t launch_line_norm(const AxisTask& task, bool magnitudes, cudaStream_t stream);

}  // namespace forebay::cuda
