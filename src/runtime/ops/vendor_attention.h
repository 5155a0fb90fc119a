// What the attention operators of com.microsoft say once their shapes are known: shared by the kernels of every device.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/op.h"

namespace forebay::ops {

struct GroupQuery {
  enum Input : std::size_t {
    kQuery,
    kKey,
    kValue,
    kPastKey,
    kPastValue,
    kLengths,
    kTotal,
    kCos,
    kSin,
    kPositions,
    kAdded,
    kSink,
    kKeyScale,
    kValueScale,
    kQueryNorm,
    kKeyNorm
  };
  std::int64_t batch = -1, heads = 0, kv_heads = 0, queries = -1, head = -1, past = 0;
  bool packed = false;  // key and value lie in the query's rows
  // Known with the shapes: the longest sequence after the pass, the rows of present, the sliding window, the rows and width of the tables.
  std::int64_t total = 0, length = 0, window = -1, positions = 0, half = 0;
  bool prompt = false, causal = true, rotary = false, interleaved = false, norm = false, sink = false;
  float norm_epsilon = 1e-6f;
  std::vector<std::int64_t> added_dims;  // of attention_bias
};
// The dimensions alone, which may be unknown.
Result<GroupQuery> group_query_dims(const NodeView& node, std::span<const TypeShape> inputs);
Result<GroupQuery> group_query(const PrepareContext& context);

struct MultiHead {
  enum Input : std::size_t { kQuery, kKey, kValue, kBias, kPadding, kAdded, kPastKey, kPastValue, kPastLength, kIndirection };
  // How keys and values come.
  enum class Form : std::uint8_t { apart, packed_qkv, packed_kv, by_head };
  Form form = Form::apart;
  std::int64_t batch = -1, heads = 1, queries = -1, fresh = -1, past = 0, head = -1, value_head = -1;
  std::int64_t buffer = 0;  // rows of past and present when they are one buffer of a fixed length; 0: they are not
  std::int64_t keys() const { return fresh < 0 || past < 0 ? -1 : past + fresh; }
  std::int64_t past_rows() const { return buffer != 0 ? buffer : past; }
  std::int64_t present_rows() const { return buffer != 0 ? buffer : keys(); }
  // Known with the shapes.
  bool causal = false;
  float fill = 0;                // of what the padding hides
  std::size_t padding_rank = 0;  // 0: none
  std::int64_t added_batch = 1;
};
// `past_length`: the value of past_sequence_length, -1 while it is not known.
Result<MultiHead> multi_head_dims(const NodeView& node, std::span<const TypeShape> inputs, std::int64_t past_length);
Result<MultiHead> multi_head(const PrepareContext& context);

}  // namespace forebay::ops
