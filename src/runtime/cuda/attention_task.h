// Attention on the device: what a launch is told.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// What a row gives that sees nothing, or whose softmax is not a number.
enum class EmptyRows : int { zero, as_softmax, zero_when_nan };

// The rows of a unit read the same keys and values: row r of batch b and key head k is query r % queries of head k * group + r / queries.
struct AttentionTask {
  DType type = DType::f32, mask_type = DType::none;
  const void *q = nullptr, *k = nullptr, *v = nullptr, *past_key = nullptr, *past_value = nullptr, *mask = nullptr;
  const std::int64_t* lengths = nullptr;  // of the keys of each batch; null: all
  void* y = nullptr;
  float* parts = nullptr;  // with splits: largest score, sum of weights and mixed values of each row and split
  std::int64_t batch = 0, q_heads = 0, kv_heads = 0, queries = 0, keys = 0, past = 0, head = 0, value_head = 0;
  std::int64_t mask_strides[4] = {}, mask_length = 0;
  std::int64_t splits = 1, split_keys = 0;  // each split takes this many keys
  float scale = 1, softcap = 0, mask_fill = 0;
  bool packed = false, causal = false;
  EmptyRows empty_rows = EmptyRows::zero;
};

inline constexpr std::int64_t kMostAttentionHead = 8192;  // queries lie in shared memory
// A function of the shapes alone: sets splits and split_keys, gives the floats of `parts`.
std::int64_t plan_attention(AttentionTask* task);
cudaError_t launch_attention(const AttentionTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
