// The parts of a mixture of experts: routes, products with the matrices of the experts that a row goes to, gates, weighted sums.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// The k largest scores of each row, the first of equals first, not-a-numbers last; weights are a softmax over all, or those given.
struct RouteTask {
  DType type = DType::f32, given_type = DType::none;
  const void *scores = nullptr, *given = nullptr;
  std::int32_t* chosen = nullptr;
  float* weights = nullptr;
  std::int64_t rows = 0, experts = 0, k = 1;
  bool normalize = false;
};
cudaError_t launch_expert_route(const RouteTask& task, cudaStream_t stream);

// y[pair, out] = W[indices[pair]] * x[pair / per_row] + bias, of the pairs whose expert is one of the call's.
struct ExpertTask {
  DType type = DType::f32;  // of x and y, and of W unless it holds codes
  const void *x = nullptr, *w = nullptr, *bias = nullptr;
  DType bias_type = DType::none;
  const std::int32_t* indices = nullptr;
  void* y = nullptr;
  std::int64_t pairs = 0, per_row = 1, in = 0, out = 0;
  std::int64_t first = 0, experts = 0;  // of the call
  // Codes u2, u4 or u8 in bytes, low bits first; a scale for each `block` of a row.
  DType code = DType::none, scale_type = DType::none;
  const void *scales = nullptr, *zeros = nullptr;                     // of the call's first expert; zero points are codes
  std::int64_t block = 1, blocks = 1, zero_expert = 0, zero_row = 1;  // codes from expert to expert, from row to row
  std::int32_t* groups = nullptr;                                     // of launch_grouped_experts: experts + 1 + pairs numbers
};
cudaError_t launch_expert_linear(const ExpertTask& task, cudaStream_t stream);
// Tensor cores, for many pairs: f16 and bf16, rows of a multiple of 8, at most kMostGrouped experts a call.
inline constexpr int kMostGrouped = 256;
cudaError_t launch_grouped_experts(const ExpertTask& task, cudaStream_t stream);

// form 0: gate and linear are two inputs; 1: they alternate in the rows of one; 2: one after the other in its rows.
struct SwiGluTask {
  DType type = DType::f32;
  const void *x = nullptr, *second = nullptr;
  void* y = nullptr;
  std::int64_t count = 0, width = 1, form = 0;
  float alpha = 1, beta = 0, limit = 0;
};
cudaError_t launch_swiglu(const SwiGluTask& task, cudaStream_t stream);

struct CombineTask {
  DType y_type = DType::f32, weight_type = DType::f32, sum_type = DType::f32;
  const void *y = nullptr, *weights = nullptr;
  void* sum = nullptr;
  std::int64_t rows = 0, k = 1, out = 0;
};
cudaError_t launch_expert_combine(const CombineTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
