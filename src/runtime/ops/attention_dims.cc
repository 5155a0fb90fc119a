#include "runtime/ops/attention_dims.h"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

bool has(std::span<const TypeShape> inputs, std::size_t i) { return i < inputs.size() && inputs[i].present(); }
std::int64_t per_head(std::int64_t hidden, std::int64_t heads) { return hidden < 0 || heads <= 0 ? -1 : hidden / heads; }

}  // namespace

Result<AttentionDims> attention_dims(const NodeView& node, std::span<const TypeShape> inputs) {
  AttentionDims d;
  const auto &q = inputs[0].dims, &k = inputs[1].dims, &v = inputs[2].dims;
  if (q.size() != k.size() || q.size() != v.size() || (q.size() != 3 && q.size() != 4)) {
    return node.invalid("Q, K and V must all have 3 or 4 dimensions, not " + dims_text(q) + ", " + dims_text(k) + ", " + dims_text(v));
  }
  d.packed = q.size() == 3;
  d.batch = q[0];
  if (d.packed) {
    d.q_heads = node.integer("q_num_heads", 0);
    d.kv_heads = node.integer("kv_num_heads", 0);
    if (d.q_heads < 1 || d.kv_heads < 1) return node.invalid("q_num_heads and kv_num_heads are needed for inputs of 3 dimensions");
    d.queries = q[1];
    d.keys = k[1];
    d.head = per_head(q[2], d.q_heads);
    d.value_head = per_head(v[2], d.kv_heads);
    if (q[2] >= 0 && k[2] >= 0 && (q[2] % d.q_heads != 0 || k[2] % d.kv_heads != 0 || k[2] / d.kv_heads != d.head)) {
      return node.invalid("heads of Q " + dims_text(q) + " and K " + dims_text(k) + " do not have one size");
    }
  } else {
    d.q_heads = q[1];
    d.kv_heads = k[1];
    d.queries = q[2];
    d.keys = k[2];
    d.head = q[3];
    d.value_head = v[3];
    if (q[3] >= 0 && k[3] >= 0 && q[3] != k[3])
      return node.invalid("heads of Q " + dims_text(q) + " and K " + dims_text(k) + " do not have one size");
  }
  const std::size_t length = d.packed ? 1 : 2;
  if (k[length] >= 0 && v[length] >= 0 && k[length] != v[length])
    return node.invalid("K " + dims_text(k) + " and V " + dims_text(v) + " differ in length");
  if (d.q_heads >= 0 && d.kv_heads > 0 && d.q_heads % d.kv_heads != 0) {
    return node.invalid(std::to_string(d.q_heads) + " query heads are not a multiple of " + std::to_string(d.kv_heads));
  }
  if (has(inputs, kAttentionPastKey) != has(inputs, kAttentionPastValue)) return node.invalid("past_key and past_value come together");
  if (has(inputs, kAttentionPastKey)) {
    if (!inputs[kAttentionPastKey].has_rank) {
      d.past = -1;
    } else if (inputs[kAttentionPastKey].dims.size() != 4) {
      return node.invalid("past_key " + dims_text(inputs[kAttentionPastKey].dims) + " must have 4 dimensions");
    } else {
      d.past = inputs[kAttentionPastKey].dims[2];
    }
  }
  return d;
}

Result<AttentionMask> check_attention(const NodeView& node, std::span<const TypeShape> inputs, const AttentionDims& d) {
  const auto dims_are = [&](std::size_t i, std::initializer_list<std::int64_t> dims) {
    return !has(inputs, i) || std::equal(dims.begin(), dims.end(), inputs[i].dims.begin(), inputs[i].dims.end());
  };
  if (!dims_are(kAttentionPastKey, {d.batch, d.kv_heads, d.past, d.head}) ||
      !dims_are(kAttentionPastValue, {d.batch, d.kv_heads, d.past, d.value_head}) || !dims_are(kAttentionLengths, {d.batch})) {
    return node.invalid("past or nonpad_kv_seqlen do not fit Q, K and V");
  }
  if (has(inputs, kAttentionLengths) && inputs[kAttentionLengths].dtype != DType::i64) return node.invalid("nonpad_kv_seqlen must be i64");
  const std::size_t width = d.packed ? 2 : 3;
  const auto &k = inputs[1].dims, &v = inputs[2].dims;
  if (k[0] != d.batch || v[0] != d.batch || (!d.packed && v[1] != d.kv_heads)) {
    return node.invalid("K " + dims_text(k) + " and V " + dims_text(v) + " do not fit Q " + dims_text(inputs[0].dims));
  }
  if (v[width] != d.value_head * (d.packed ? d.kv_heads : 1)) return node.invalid("the values are not heads of one size");
  AttentionMask found;
  if (!has(inputs, kAttentionMask)) return found;
  const Shape mask = inputs[kAttentionMask].shape();
  const std::int64_t full[4] = {d.batch, d.q_heads, d.queries, d.total()};
  if (mask.rank() < 1 || mask.rank() > 4) return node.invalid("a mask " + mask.to_string());
  found.length = mask[mask.rank() - 1];
  std::int64_t stride = 1;
  for (int i = mask.rank() - 1; i >= 0; --i) {
    const int axis = i + 4 - mask.rank();
    const bool last = axis == 3;
    // Attention hides keys that a short mask does not reach; the sum that forebay.Attention stands for would not broadcast.
    const bool may_be_short = last && node.domain() != "forebay";
    if (mask[i] != 1 && mask[i] != full[axis] && !(may_be_short && mask[i] < full[3]))
      return node.invalid("a mask " + mask.to_string() + " does not fit");
    found.strides[static_cast<std::size_t>(axis)] = mask[i] == 1 && full[axis] != 1 && !(last && full[3] == 1) ? 0 : stride;
    stride *= mask[i];
  }
  if (found.length == 1 && full[3] > 1) found.length = full[3];  // one column for all
  return found;
}

}  // namespace forebay::ops
