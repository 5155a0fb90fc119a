// What the shapes of Attention mean: shared by shape inference and the kernels of every device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/op.h"

namespace forebay::ops {

// Inputs: Q K V mask past_key past_value nonpad_kv_seqlen. Outputs: Y present_key present_value qk.
inline constexpr std::size_t kAttentionMask = 3, kAttentionPastKey = 4, kAttentionPastValue = 5, kAttentionLengths = 6;

struct AttentionDims {
  std::int64_t batch = -1, q_heads = -1, kv_heads = -1, queries = -1, keys = -1, past = 0, head = -1, value_head = -1;
  bool packed = false;  // three dimensions: heads inside of the last
  std::int64_t total() const { return keys < 0 || past < 0 ? -1 : past + keys; }
};

// Dimensions may be unknown; invalid_model where they cannot meet.
Result<AttentionDims> attention_dims(const NodeView& node, std::span<const TypeShape> inputs);

struct AttentionMask {
  std::array<std::int64_t, 4> strides{};  // elements, over batch, head, query, key
  std::int64_t length = 0;                // keys that the mask reaches: those behind it are hidden
};
// With all dimensions known: that past, lengths and mask fit; how the mask is read (zeros without one).
Result<AttentionMask> check_attention(const NodeView& node, std::span<const TypeShape> inputs, const AttentionDims& dims);

}  // namespace forebay::ops
