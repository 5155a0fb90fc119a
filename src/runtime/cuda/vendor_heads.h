// What com.microsoft's attention operators and RotaryEmbedding do to rows of heads before the attention itself.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// Where the position of row i of sequence b comes from.
enum class Positions : int { counted, each, offset, behind };  // b * rows + i, ids[b][i], ids[0] + i, befores[b] + i

// y = rotate(norm(x + bias)) of each row of each head. Rows of y lie behind befores[b] others where those are given with `behind`.
struct HeadsTask {
  DType type = DType::f32;
  const void *x = nullptr, *bias = nullptr, *norm = nullptr, *cos = nullptr, *sin = nullptr;
  void* y = nullptr;
  const std::int64_t *ids = nullptr, *befores = nullptr, *valid = nullptr;  // valid: 0 for a sequence whose rows are made not-a-number
  std::int64_t batch = 0, heads = 0, rows = 0, size = 0, x_strides[3] = {}, y_strides[3] = {};  // over batch, head, row
  std::int64_t half = 0, table_rows = 0;  // half 0: no rotation. A position beyond the table gives not-a-number
  float epsilon = 0;
  Positions positions = Positions::counted;
  bool interleaved = false, behind = false;
};
cudaError_t launch_heads(const HeadsTask& task, cudaStream_t stream);

// seqlens_k of GroupQueryAttention to rows before and after the pass, and whether they are possible; else they are made so.
struct SequencesTask {
  const std::int32_t* last = nullptr;  // the last row of each sequence
  std::int64_t *befores = nullptr, *afters = nullptr, *valid = nullptr;
  std::int64_t batch = 0, queries = 0, past = 0, total = 0;
  bool prompt = false;
};
cudaError_t launch_sequences(const SequencesTask& task, cudaStream_t stream);

// The padding mask of MultiHeadAttention and its attention_bias, as one mask to be added: [batches, heads, rows, keys].
struct PaddingTask {
  DType type = DType::f32;  // of `added`
  const std::int32_t* padding = nullptr;
  const void* added = nullptr;
  float* mask = nullptr;
  int padding_rank = 0;  // 1: lengths, 2: [batch, keys], 3: [batch, rows, keys]
  std::int64_t batches = 0, heads = 0, rows = 0, keys = 0, added_batches = 1;
  float fill = 0;
};
cudaError_t launch_padding(const PaddingTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
