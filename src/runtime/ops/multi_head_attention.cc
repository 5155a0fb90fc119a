// com.microsoft.MultiHeadAttention: heads packed in several ways, an input bias, padding masks, a past.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "runtime/ops/attention_front.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/vendor_attention.h"

namespace forebay::ops {
namespace {

using enum MultiHead::Input;
using Form = MultiHead::Form;

bool has(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}
std::int64_t share(std::int64_t size, std::int64_t parts) {
  return size < 0 ? -1 : size / parts;
}

Status infer_multi_head(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 1, 10));
  std::vector<TypeShape> inputs;
  bool ranked = true;
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    inputs.push_back(context.input(i));
    if (!inputs[i].present()) continue;
    if (i == kIndirection) return node.unsupported("cache_indirection (beam search in one buffer)");
    if (i == kPadding || i == kPastLength ? inputs[i].dtype != DType::i32 : !narrow_float(inputs[i].dtype)) {
      return node.unsupported("input " + std::to_string(i) + " has type " + std::string(dtype_name(inputs[i].dtype)));
    }
    ranked = ranked && (inputs[i].has_rank || i == kPastKey || i == kPastValue);
  }
  if (!has(inputs, kQuery)) return node.invalid("a query is needed");
  const DType dtype = inputs[kQuery].dtype;
  if (!ranked) {
    for (std::size_t i = 0; i < 4; ++i) context.set_output_unranked(i, dtype);
    return {};
  }
  std::int64_t past_length = -1;
  if (has(inputs, kPastLength)) {
    bool known = false;
    const std::vector<std::int64_t> values = context.integers(kPastLength, &known);
    if (known && values.size() != 1) return node.invalid("past_sequence_length must be one number");
    if (known) past_length = std::max<std::int64_t>(values[0], 0);
  }
  FB_ASSIGN(const MultiHead m, multi_head_dims(node, inputs, past_length));
  context.set_output(0, dtype, {m.batch, m.queries, m.value_head < 0 ? -1 : m.value_head * m.heads});
  context.set_output(1, dtype, {m.batch, m.heads, m.present_rows(), m.head});
  context.set_output(2, dtype, {m.batch, m.heads, m.present_rows(), m.value_head});
  context.set_output(3, dtype, {m.batch, m.heads, m.queries, m.keys()});
  return {};
}

class MultiHeadAttention final : public AttentionFront {
 public:
  MultiHeadAttention() {
    raw_inputs_ = 1u << kPastKey | 1u << kPastValue;
    raw_outputs_ = 1u << 1 | 1u << 2;
  }
  std::string_view id() const override { return "cpu.multi_head_attention"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(m_, multi_head(context));
    FrontDims dims{m_.batch, m_.heads, m_.heads, m_.queries, m_.keys(), m_.head, m_.value_head};
    const bool added = has(context.inputs, kAdded), late = m_.causal && m_.past > 0;
    if (m_.padding_rank > 0 || added || late) {
      dims.mask_batch = m_.padding_rank > 0 || (added && context.inputs[kAdded].dims[0] > 1) ? m_.batch : 1;
      dims.mask_heads = added ? context.inputs[kAdded].dims[1] : 1;
      dims.mask_rows = added || late || m_.padding_rank == 3 ? m_.queries : 1;
    }
    const auto wanted = [&](std::size_t output) { return context.outputs.size() > output && context.outputs[output].present(); };
    // What lies in the graph's type on its way in or out is read in it.
    const bool cached = m_.past > 0 || wanted(1) || wanted(2);
    const DType cache = cached ? context.inputs[kQuery].dtype : DType::f32;
    for (const std::size_t i : {kPastKey, kPastValue}) {
      if (cached && has(context.inputs, i) && context.inputs[i].dtype != cache)
        return node.unsupported("a past of another type than the query");
    }
    scale_ = node.real("scale", 0.0f);
    scores_ = wanted(3);
    return plan_front(context, dims, {scale_, 0.0f, m_.causal && m_.past == 0, cache, !in_place(wanted(1)), !in_place(wanted(2))});
  }

  Status compute(const KernelCall& call) override {
    const Buffers own = buffers(call);
    const std::int64_t heads = m_.heads, wide = heads * m_.head;
    HeadRows q = packed_rows(in(call, kQuery), m_.queries, wide, m_.head), k, v;
    switch (m_.form) {
      case Form::packed_qkv:
        q = {in(call, kQuery), m_.queries * wide * 3, m_.head * 3, wide * 3, nullptr};
        k = v = q;
        k.data += m_.head;
        v.data += 2 * m_.head;
        break;
      case Form::packed_kv:
        k = v = {in(call, kKey), m_.fresh * wide * 2, m_.head * 2, wide * 2, nullptr};
        v.data += m_.head;
        break;
      case Form::by_head:
        k = plain_rows(in(call, kKey), heads, m_.fresh, m_.head);
        v = plain_rows(in(call, kValue), heads, m_.fresh, m_.value_head);
        break;
      case Form::apart:
        k = packed_rows(in(call, kKey), m_.fresh, wide, m_.head);
        v = packed_rows(in(call, kValue), m_.fresh, heads * m_.value_head, m_.value_head);
        break;
    }
    if (const float* bias = in(call, kBias); bias != nullptr) {
      q.bias = bias;
      // Keys that come by head are those of an encoder: projected, bias and all, before.
      if (m_.form != Form::by_head) {
        k.bias = bias + wide;
        v.bias = bias + 2 * wide;
      }
    }
    gather_rows(*call.pool, q, m_.batch, heads, m_.queries, m_.head, own.q, m_.queries, 0);
    const std::byte* keys = gather_cache(call, 1, k, kPastKey, m_.head, own.k);
    const std::byte* values = gather_cache(call, 2, v, kPastValue, m_.value_head, own.v);
    if (dims_.mask_batch > 0) write_mask(call, own.mask);
    if (scores_) write_scores(call, own, keys);
    return attend(call, keys, values);
  }

 private:
  // Can attention read the present as it lies? Not with rows behind the keys.
  bool in_place(bool present) const { return present && m_.present_rows() == m_.keys(); }

  // Past rows and new rows, one after the other: in the output where it is wanted. A buffer's rows behind them stay as they are.
  const std::byte* gather_cache(const KernelCall& call, std::size_t output, const HeadRows& fresh, std::size_t past, std::int64_t size,
                                std::byte* scratch) const {
    const bool wanted = call.outputs.size() > output && call.outputs[output].present();
    const std::int64_t units = m_.batch * m_.heads, row_bytes = size * dtype_bits(cache_) / 8;
    const auto join = [&](std::byte* to, std::int64_t length) {
      if (m_.past_rows() > 0)
        copy_heads(*call.pool, call.inputs[past].data, units, m_.past_rows(), std::min(m_.past_rows(), length), row_bytes, to, length);
      write_rows(*call.pool, fresh, m_.batch, m_.heads, m_.fresh, size, cache_, to, length, m_.past);
      return to;
    };
    std::byte* present = wanted ? join(call.outputs[output].data, m_.present_rows()) : nullptr;
    return in_place(wanted) ? present : join(scratch, m_.keys());
  }

  // The output qk: scaled scores with all masks, as the softmax gets them.
  void write_scores(const KernelCall& call, const Buffers& own, const std::byte* keys) const {
    const std::int64_t length = m_.keys(), rows = m_.queries, size = m_.head;
    const float scale = scale_ != 0 ? scale_ : static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
    auto* to = reinterpret_cast<float*>(call.outputs[3].data);
    call.pool->parallel_for(m_.batch * m_.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> key(static_cast<std::size_t>(size));
      for (std::int64_t unit = begin; unit < end; ++unit) {
        const std::int64_t b = dims_.mask_batch > 1 ? unit / m_.heads : 0, h = dims_.mask_heads > 1 ? unit % m_.heads : 0;
        for (std::int64_t j = 0; j < length; ++j) {
          copy_floats(cache_, keys + (unit * length + j) * size * dtype_bits(cache_) / 8, size, DType::f32,
                      reinterpret_cast<std::byte*>(key.data()));
          for (std::int64_t i = 0; i < rows; ++i) {
            const float* q = own.q + (unit * rows + i) * size;
            float score = scale * lane_sum<float>(size, [&](std::int64_t e) { return q[e] * key[static_cast<std::size_t>(e)]; });
            const std::int64_t row = dims_.mask_rows > 1 ? i : 0;
            if (dims_.mask_batch > 0) score += own.mask[((b * dims_.mask_heads + h) * dims_.mask_rows + row) * length + j];
            if (m_.causal && j > i + m_.past) score = std::numeric_limits<float>::lowest();
            to[(unit * rows + i) * length + j] = score;
          }
        }
      }
    });
  }

  float padding(const KernelCall& call, std::int64_t b, std::int64_t i, std::int64_t j) const {
    if (m_.padding_rank == 0) return 0;
    const auto* mask = reinterpret_cast<const std::int32_t*>(call.inputs[kPadding].data);
    if (m_.padding_rank == 1) return j < mask[b] ? 0 : m_.fill;
    return mask[(m_.padding_rank == 2 ? b : b * m_.queries + i) * m_.keys() + j] > 0 ? 0 : m_.fill;
  }

  void write_mask(const KernelCall& call, float* mask) const {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    const std::int64_t length = m_.keys(), heads = dims_.mask_heads, rows = dims_.mask_rows;
    const float* added = in(call, kAdded);
    call.pool->parallel_for(dims_.mask_batch * heads * rows, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t b = r / (heads * rows), h = r / rows % heads, i = r % rows;
        const float* more = added != nullptr ? added + (((m_.added_batch == 1 ? 0 : b) * heads + h) * rows + i) * length : nullptr;
        for (std::int64_t j = 0; j < length; ++j) {
          const bool later = m_.causal && m_.past > 0 && j > i + m_.past;
          mask[r * length + j] = later ? kNever : padding(call, b, i, j) + (more != nullptr ? more[j] : 0.0f);
        }
      }
    });
  }

  MultiHead m_;
  float scale_ = 0;
  bool scores_ = false;  // the output qk is wanted
};

Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<MultiHeadAttention>());
}

constexpr OpSpec kSpecs[] = {
    {.domain = "com.microsoft",
     .name = "MultiHeadAttention",
     .host_inputs = 1u << kPastLength,
     .infer = infer_multi_head,
     .create = create},
};

}  // namespace

Result<MultiHead> multi_head_dims(const NodeView& node, std::span<const TypeShape> inputs, std::int64_t past_length) {
  MultiHead m;
  m.heads = node.integer("num_heads", 0);
  if (m.heads < 1) return node.invalid("num_heads is needed");
  const auto& q = inputs[kQuery].dims;
  if (q.size() == 5) {
    m.form = Form::packed_qkv;
    if (has(inputs, kKey) || has(inputs, kValue)) return node.invalid("a packed query comes with no key and value");
    if (q[2] != m.heads || q[3] != 3)
      return node.invalid("a packed query " + dims_text(q) + " must be [batch, length, num_heads, 3, size]");
    m.fresh = q[1];
    m.head = m.value_head = q[4];
  } else {
    if (q.size() != 3 || !has(inputs, kKey)) return node.invalid("query " + dims_text(q) + " must have 3 dimensions and come with a key");
    const auto& k = inputs[kKey].dims;
    m.head = m.value_head = share(q[2], m.heads);
    if (q[2] >= 0 && q[2] % m.heads != 0) return node.invalid("num_heads does not divide the query " + dims_text(q));
    m.form = k.size() == 5 ? Form::packed_kv : k.size() == 4 ? Form::by_head : Form::apart;
    if (k.size() < 3 || k.size() > 5 || (k.size() != 5) != has(inputs, kValue))
      return node.invalid("key " + dims_text(k) + " and value do not fit each other");
    m.fresh = k.size() == 4 ? k[2] : k[1];
    if (k.size() == 5 && (k[2] != m.heads || k[3] != 2))
      return node.invalid("packed keys " + dims_text(k) + " must be [batch, length, num_heads, 2, size]");
    if (has(inputs, kValue) && inputs[kValue].has_rank) {
      const auto& v = inputs[kValue].dims;
      if (v.size() != k.size()) return node.invalid("value " + dims_text(v) + " does not fit the key " + dims_text(k));
      m.value_head = v.size() == 4 ? v[3] : share(v[2], m.heads);
    }
  }
  m.batch = q[0];
  m.queries = q[1];
  if (has(inputs, kPastKey) != has(inputs, kPastValue)) return node.invalid("past_key and past_value come together");
  if (has(inputs, kPastKey)) m.past = inputs[kPastKey].has_rank && inputs[kPastKey].dims.size() == 4 ? inputs[kPastKey].dims[2] : -1;
  if (has(inputs, kPastLength)) {
    if (!has(inputs, kPastKey)) return node.invalid("past_sequence_length comes with past_key and past_value");
    m.buffer = std::exchange(m.past, past_length);
    if (m.buffer >= 0 && m.keys() > m.buffer)
      return node.invalid(std::to_string(m.keys()) + " rows do not fit the buffer of " + std::to_string(m.buffer) + " rows in past_key");
  }
  return m;
}

Result<MultiHead> multi_head(const PrepareContext& context) {
  const NodeView& node = context.node;
  const std::int64_t past_length = has(context.inputs, kPastLength) ? host_integers(*context.values[kPastLength])[0] : 0;
  if (past_length < 0) return node.invalid("past_sequence_length is " + std::to_string(past_length));
  FB_ASSIGN(MultiHead m, multi_head_dims(node, context.inputs, past_length));
  m.causal = node.integer("unidirectional", 0) != 0;
  m.fill = node.real("mask_filter_value", -10000.0f);
  m.padding_rank = has(context.inputs, kPadding) ? context.inputs[kPadding].dims.size() : 0;
  const auto dims_are = [&](std::size_t i, std::vector<std::int64_t> dims) {
    return !has(context.inputs, i) || context.inputs[i].dims == dims;
  };
  const std::int64_t wide = m.heads * m.head, all = m.keys();
  bool fits = dims_are(kPastKey, {m.batch, m.heads, m.past_rows(), m.head}) &&
              dims_are(kPastValue, {m.batch, m.heads, m.past_rows(), m.value_head}) && dims_are(kBias, {2 * wide + m.heads * m.value_head});
  if (m.form == Form::apart)
    fits = fits && dims_are(kKey, {m.batch, m.fresh, wide}) && dims_are(kValue, {m.batch, m.fresh, m.heads * m.value_head});
  if (m.form == Form::by_head)
    fits = fits && dims_are(kKey, {m.batch, m.heads, m.fresh, m.head}) && dims_are(kValue, {m.batch, m.heads, m.fresh, m.value_head});
  if (m.form == Form::packed_kv) fits = fits && dims_are(kKey, {m.batch, m.fresh, m.heads, 2, m.head});
  if (!fits) return context.node.invalid("key, value, bias or past do not fit the query " + dims_text(context.inputs[kQuery].dims));
  if (has(context.inputs, kPadding)) {
    const auto& padding = context.inputs[kPadding].dims;
    if (padding.size() > 3) return context.node.unsupported("a key_padding_mask " + dims_text(padding));
    // Lengths, and behind them, for kernels that drop the padding, where each sequence's queries and keys begin.
    const bool good = dims_are(kPadding, {m.batch}) || dims_are(kPadding, {3 * m.batch + 2}) || dims_are(kPadding, {m.batch, all}) ||
                      dims_are(kPadding, {m.batch, m.queries, all});
    if (!good) return context.node.invalid("key_padding_mask " + dims_text(padding) + " does not fit " + std::to_string(all) + " keys");
  }
  if (has(context.inputs, kAdded)) {
    const auto& added = context.inputs[kAdded].dims;
    const bool good = added.size() == 4 && (added[0] == 1 || added[0] == m.batch) && (added[1] == 1 || added[1] == m.heads) &&
                      added[2] == m.queries && added[3] == all;
    if (!good) return context.node.invalid("attention_bias " + dims_text(added) + " does not fit");
  }
  if (has(context.inputs, kAdded)) m.added_batch = context.inputs[kAdded].dims[0];
  return m;
}

std::span<const OpSpec> multi_head_attention_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
