// Attention on the device: what a launch is told.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// What a row gives that sees nothing, or whose softmax is not a number.
enum class EmptyRows : int { zero, as_softmax, zero_when_nan };

// How a task is computed: in f32 by rows, one query in one launch, or on the tensor cores with few or many rows to a block.
enum class AttentionWay : int { rows, one, few, many };
inline constexpr std::int64_t kMostOneRows = 16, kMostOneSplits = 8, kMostOneLots = 65535;

// What a mask does to 64 queries by 64 keys.
inline constexpr int kKindTile = 64, kMostKindTiles = 2048;
inline constexpr int kKeyStep = 128;  // stretches of keys begin and end at multiples of the largest tile
inline constexpr int kPlain = 0, kMixed = 1, kHiddenByNumber = 2, kHidden = 3;  // hidden: by minus infinity
inline constexpr float kHiddenBelow = -1e30f;                                   // a number that hides: no other score is as low

// The rows of a unit read the same keys and values: row r of batch b and key head k is query r % queries of head k * group + r / queries.
struct AttentionTask {
  DType type = DType::f32, mask_type = DType::none;
  const void *q = nullptr, *k = nullptr, *v = nullptr, *past_key = nullptr, *past_value = nullptr, *mask = nullptr;
  const std::int64_t* lengths = nullptr;  // of the keys of each batch; null: all
  const std::int64_t* befores = nullptr;  // keys before the first query of each batch, where causal; null: past
  const void* sinks = nullptr;            // a score more for each head, of a value of zeros; its type is `type`
  void* y = nullptr;
  float* parts = nullptr;  // with splits: largest score, sum of weights and mixed values of each row and split
  std::int64_t batch = 0, q_heads = 0, kv_heads = 0, queries = 0, keys = 0, past = 0, head = 0, value_head = 0;
  // In elements, over batch, head and row. The past is dense.
  std::int64_t q_strides[3] = {}, k_strides[3] = {}, v_strides[3] = {}, y_strides[3] = {};
  std::int64_t mask_strides[4] = {}, mask_length = 0;
  std::int64_t splits = 1, split_keys = 0;  // each split takes this many keys
  float scale = 1, softcap = 0, mask_fill = 0;
  const std::uint8_t* kinds = nullptr;  // of the mask; null: not known
  std::int64_t kind_strides[3] = {};    // batch, head, 64 queries
  std::int64_t kind_dims[4] = {};       // batches, heads, and tiles of queries and keys
  AttentionWay way = AttentionWay::rows;
  std::int64_t window = 0;  // a query sees this many keys, up to its last; 0: all. Causal alone
  bool causal = false, sink_of_zero = false;
  bool joined = false;   // the heads of a unit share blocks
  bool aligned = false;  // all addresses, to 16 bytes
  EmptyRows empty_rows = EmptyRows::zero;
};

inline constexpr std::int64_t kMostAttentionHead = 8192;  // queries lie in shared memory
// A function of the shapes alone: sets the way, splits and split_keys.
struct AttentionSpace {
  std::int64_t parts = 0, kinds = 0;  // floats, bytes
};
AttentionSpace plan_attention(AttentionTask* task);
cudaError_t launch_attention(const AttentionTask& task, cudaStream_t stream);
// Its stages.
cudaError_t launch_mask_kinds(const AttentionTask& task, cudaStream_t stream);
bool serves_attention_one(const AttentionTask& task);  // of f16 and bf16
cudaError_t launch_attention_one(const AttentionTask& task, cudaStream_t stream);
cudaError_t launch_attention_few(const AttentionTask& task, cudaStream_t stream);
cudaError_t launch_attention_many(const AttentionTask& task, cudaStream_t stream);
cudaError_t find_warpgroups(bool* has);  // whether this thread's device multiplies by warpgroups (9.0)
cudaError_t launch_attention_hopper(const AttentionTask& task, cudaStream_t stream);  // heads of at most 128, compute capability 9.0

}  // namespace forebay::cuda
