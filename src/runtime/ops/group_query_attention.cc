// com.microsoft.GroupQueryAttention: causal attention over a cache of keys and values, each sequence of the batch with a length of its own.
//
// The cache. past is [batch, kv_heads, P, size], present [batch, kv_heads, max(P, total_sequence_length), size]: a caller that hands over a
// buffer of full length gets one of the same length back. Sequence b holds seqlens_k[b] + 1 rows after the pass: the new rows are written
// behind its old ones (from row 0 where total_sequence_length is the number of new rows: a first prompt). Every other row of present is the
// row of past, or zero, so it is as if one buffer had been written in place.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/ops/attention_front.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/rotary.h"
#include "runtime/ops/vendor_attention.h"

namespace forebay::ops {
namespace {

using enum GroupQuery::Input;

bool has(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}

Status refuse_rarities(const NodeView& node, std::span<const TypeShape> inputs) {
  if (node.integer("qk_output", 0) != 0) return node.unsupported("qk_output");
  if (node.integer("sliding_window_cache", 0) != 0) return node.unsupported("sliding_window_cache");
  const bool quantised = has(inputs, kKeyScale) || has(inputs, kValueScale) || node.text("k_quant_type", "NONE") != "NONE" ||
                         node.text("v_quant_type", "NONE") != "NONE";
  if (quantised) return node.unsupported("a quantised cache");
  if (node.integer("do_rotary", 0) != 0 && (!has(inputs, kCos) || !has(inputs, kSin)))
    return node.invalid("do_rotary needs cos_cache and sin_cache");
  if (has(inputs, kQueryNorm) != has(inputs, kKeyNorm)) return node.invalid("q_norm_weight and k_norm_weight come together");
  if (node.integer("causal", 1) == 0 && node.integer("local_window_size", -1) > 0) return node.invalid("a local window needs causal");
  return {};
}

Status infer_group_query(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 7, 16));
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    inputs.push_back(context.input(i));
    if (!inputs[i].present()) continue;
    const bool length = i == kLengths || i == kTotal;
    const bool good = length            ? inputs[i].dtype == DType::i32
                      : i == kPositions ? inputs[i].dtype == DType::i64
                                        : narrow_float(inputs[i].dtype);
    if (!good) return node.unsupported("input " + std::to_string(i) + " has type " + std::string(dtype_name(inputs[i].dtype)));
  }
  if (!has(inputs, kQuery) || !has(inputs, kLengths) || !has(inputs, kTotal))
    return node.invalid("query, seqlens_k and total_sequence_length are needed");
  FB_TRY(refuse_rarities(node, inputs));
  if (context.output_count() > 3) return node.unsupported("the output output_qk");
  const DType dtype = inputs[kQuery].dtype;
  const bool ranked = inputs[kQuery].has_rank && (!has(inputs, kKey) || inputs[kKey].has_rank);
  if (!ranked) {
    for (std::size_t i = 0; i < 3; ++i) context.set_output_unranked(i, dtype);
    return {};
  }
  FB_ASSIGN(const GroupQuery g, group_query_dims(node, inputs));
  bool known = false;
  const std::vector<std::int64_t> total = context.integers(kTotal, &known);
  if (known && (total.size() != 1 || total[0] < 0)) return node.invalid("total_sequence_length must be one number");
  const std::int64_t length = known && g.past >= 0 ? std::max(g.past, total[0]) : -1;
  context.set_output(0, dtype, {g.batch, g.queries, g.head < 0 ? -1 : g.head * g.heads});
  context.set_output(1, dtype, {g.batch, g.kv_heads, length, g.head});
  context.set_output(2, dtype, {g.batch, g.kv_heads, length, g.head});
  return {};
}

class GroupQueryAttention final : public AttentionFront {
 public:
  GroupQueryAttention() {
    raw_inputs_ = 1u << kPastKey | 1u << kPastValue;
    raw_outputs_ = 1u << 1 | 1u << 2;
  }
  std::string_view id() const override { return "cpu.group_query_attention"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(g_, group_query(context));
    name_ = "com.microsoft.GroupQueryAttention '" + std::string(node.name()) + "': ";
    // A sink is one more key of zeros, whose score the mask gives, and a value of zeros.
    FrontDims dims{g_.batch, g_.heads, g_.kv_heads, g_.queries, g_.total + (g_.sink ? 1 : 0), g_.head, g_.head};
    const bool added = has(context.inputs, kAdded), windowed = g_.window > 0 && g_.window < g_.total;
    if (!g_.prompt || !g_.causal || windowed || added || g_.sink) {
      dims.mask_batch = g_.prompt && g_.causal && !added ? 1 : g_.batch;
      dims.mask_heads = (added && context.inputs[kAdded].dims[1] > 1) || has(context.inputs, kSink) ? g_.heads : 1;
      dims.mask_rows = g_.queries;
    }
    const bool gathers = g_.length != g_.total || g_.sink;
    const auto lost = [&](std::size_t output) {  // room for a present that nobody wants
      return context.outputs.size() > output && context.outputs[output].present()
                 ? 0
                 : float_bytes(g_.batch * g_.kv_heads * g_.length * g_.head, static_cast<std::uint64_t>(dtype_bits(cache_)) / 8);
    };
    cache_ = context.inputs[kQuery].dtype;
    for (const std::size_t i : {kPastKey, kPastValue}) {
      if (has(context.inputs, i) && context.inputs[i].dtype != cache_) return node.unsupported("a past of another type than the query");
    }
    keys_at_ = float_bytes(g_.batch * g_.kv_heads * g_.queries * g_.head);
    values_at_ = keys_at_ + lost(1);
    return plan_front(context, dims, {node.real("scale", 0.0f), node.real("softcap", 0.0f), dims.mask_batch == 0, cache_, gathers, gathers},
                      values_at_ + lost(2));
  }

  Status compute(const KernelCall& call) override {
    for (std::int64_t b = 0; b < g_.batch; ++b) FB_TRY(check_sequence(call, b));
    const Buffers own = buffers(call);
    const std::int64_t wide = (g_.heads + (g_.packed ? 2 * g_.kv_heads : 0)) * g_.head, kv = g_.kv_heads * g_.head;
    const float* query = in(call, kQuery);
    const HeadRows q = packed_rows(query, g_.queries, wide, g_.head);
    const HeadRows k = g_.packed ? packed_rows(query + g_.heads * g_.head, g_.queries, wide, g_.head)
                                 : packed_rows(in(call, kKey), g_.queries, kv, g_.head);
    const HeadRows v = g_.packed ? packed_rows(query + g_.heads * g_.head + kv, g_.queries, wide, g_.head)
                                 : packed_rows(in(call, kValue), g_.queries, kv, g_.head);
    gather_rows(*call.pool, q, g_.batch, g_.heads, g_.queries, g_.head, own.q, g_.queries, 0);
    turn(call, kQueryNorm, g_.heads, own.q);
    auto* fresh = reinterpret_cast<float*>(extra_scratch(call));
    gather_rows(*call.pool, k, g_.batch, g_.kv_heads, g_.queries, g_.head, fresh, g_.queries, 0);
    turn(call, kKeyNorm, g_.kv_heads, fresh);
    const std::byte* keys = write_cache(call, 1, plain_rows(fresh, g_.kv_heads, g_.queries, g_.head), kPastKey);
    const std::byte* values = write_cache(call, 2, v, kPastValue);
    if (dims_.mask_batch > 0) write_mask(call, own.mask);
    return attend(call, seen_rows(call, keys, own.k), seen_rows(call, values, own.v));
  }

 private:
  // Rows of sequence b after this pass, and before it.
  std::int64_t rows_after(const KernelCall& call, std::int64_t b) const {
    return std::int64_t{reinterpret_cast<const std::int32_t*>(call.inputs[kLengths].data)[b]} + 1;
  }
  std::int64_t rows_before(const KernelCall& call, std::int64_t b) const { return g_.prompt ? 0 : rows_after(call, b) - g_.queries; }

  std::int64_t position(const KernelCall& call, std::int64_t b, std::int64_t i) const {
    const bool given = call.inputs.size() > kPositions && call.inputs[kPositions].present();
    const auto* ids = given ? reinterpret_cast<const std::int64_t*>(call.inputs[kPositions].data) : nullptr;
    if (g_.prompt) return (given ? ids[0] : 0) + i;
    return given ? ids[b * g_.queries + i] : rows_before(call, b) + i;
  }

  Status check_sequence(const KernelCall& call, std::int64_t b) const {
    const std::int64_t after = rows_after(call, b), before = rows_before(call, b);
    if (after < 1 || after > g_.total || before < 0 || before > g_.past) {
      return Status(Code::invalid_argument, name_ + "seqlens_k[" + std::to_string(b) + "] is " + std::to_string(after - 1) +
                                                ", but there are " + std::to_string(g_.queries) + " new positions, a past of " +
                                                std::to_string(g_.past) + " and a total_sequence_length of " + std::to_string(g_.total));
    }
    for (std::int64_t i = 0; g_.rotary && i < g_.queries; ++i) {
      if (const std::int64_t at = position(call, b, i); at < 0 || at >= g_.positions) {
        return Status(Code::invalid_argument,
                      name_ + "position " + std::to_string(at) + " is outside of the cache of " + std::to_string(g_.positions));
      }
    }
    return {};
  }

  // The new rows of queries or keys, in place: normalised and rotated as asked.
  void turn(const KernelCall& call, std::size_t norm, std::int64_t heads, float* data) const {
    if (!g_.norm && !g_.rotary) return;
    const float *weight = g_.norm ? in(call, norm) : nullptr, *cos = in(call, kCos), *sin = in(call, kSin);
    call.pool->parallel_for(g_.batch * heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t unit = begin; unit < end; ++unit) {
        const std::int64_t b = unit / heads;
        for (std::int64_t i = 0; i < g_.queries; ++i) {
          float* x = data + (unit * g_.queries + i) * g_.head;
          if (weight != nullptr) {
            const float mean = lane_sum<float>(g_.head, [x](std::int64_t e) { return x[e] * x[e]; }) / static_cast<float>(g_.head);
            const float inverse = 1.0f / std::sqrt(mean + g_.norm_epsilon);
            for (std::int64_t e = 0; e < g_.head; ++e) x[e] = x[e] * inverse * weight[e];
          }
          if (!g_.rotary) continue;
          const std::int64_t at = position(call, b, i) * g_.half;
          rotate_head(x, cos + at, sin + at, x, g_.half, g_.interleaved);
        }
      }
    });
  }

  // present, in the output where it is wanted: the past, with the new rows written in.
  const std::byte* write_cache(const KernelCall& call, std::size_t output, const HeadRows& fresh, std::size_t past) const {
    const bool wanted = call.outputs.size() > output && call.outputs[output].present();
    std::byte* to = wanted ? call.outputs[output].data : extra_scratch(call) + (output == 1 ? keys_at_ : values_at_);
    const std::int64_t row = g_.head * dtype_bits(cache_) / 8;
    if (g_.past > 0) copy_heads(*call.pool, call.inputs[past].data, g_.batch * g_.kv_heads, g_.past, g_.past, row, to, g_.length);
    for (std::int64_t unit = 0; unit < g_.batch * g_.kv_heads; ++unit)
      std::fill(to + (unit * g_.length + g_.past) * row, to + (unit + 1) * g_.length * row, std::byte{0});
    for (std::int64_t b = 0; b < g_.batch; ++b) {
      HeadRows one = fresh;
      one.data = fresh.at(b, 0, 0);
      write_rows(*call.pool, one, 1, g_.kv_heads, g_.queries, g_.head, cache_, to + b * g_.kv_heads * g_.length * row, g_.length,
                 rows_before(call, b));
    }
    return to;
  }

  // The rows that may be seen, one head after the other: the cache itself unless it is longer, or a sink follows.
  const std::byte* seen_rows(const KernelCall& call, const std::byte* cache, std::byte* scratch) const {
    if (g_.length == g_.total && !g_.sink) return cache;
    const std::int64_t heads = g_.batch * g_.kv_heads, row = g_.head * dtype_bits(cache_) / 8;
    copy_heads(*call.pool, cache, heads, g_.length, g_.total, row, scratch, dims_.keys);
    for (std::int64_t unit = 0; g_.sink && unit < heads; ++unit)
      std::fill_n(scratch + (unit * dims_.keys + g_.total) * row, row, std::byte{0});
    return scratch;
  }

  void write_mask(const KernelCall& call, float* mask) const {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    const std::int64_t heads = dims_.mask_heads, keys = dims_.keys;
    const float *added = in(call, kAdded), *sink = in(call, kSink);
    call.pool->parallel_for(dims_.mask_batch * heads * g_.queries, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t b = r / (heads * g_.queries), h = r / g_.queries % heads, i = r % g_.queries;
        const std::int64_t last = g_.causal ? rows_before(call, b) + i + 1 : rows_after(call, b),
                           first = g_.causal && g_.window > 0 ? std::max<std::int64_t>(0, last - g_.window) : 0;
        const float* more = nullptr;
        if (added != nullptr)
          more = added + (((g_.added_dims[0] == 1 ? 0 : b) * g_.added_dims[1] + (g_.added_dims[1] == 1 ? 0 : h)) * g_.queries + i) *
                             g_.added_dims[3];
        float* row = mask + r * keys;
        for (std::int64_t j = 0; j < g_.total; ++j) row[j] = j < first || j >= last ? kNever : more != nullptr ? more[j] : 0.0f;
        if (g_.sink) row[g_.total] = sink != nullptr ? sink[h] : 0.0f;
      }
    });
  }

  GroupQuery g_;
  std::uint64_t keys_at_ = 0, values_at_ = 0;  // of presents that nobody wants, behind the new keys in the extra scratch
  std::string name_;
};

Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<GroupQueryAttention>());
}

constexpr OpSpec kSpecs[] = {
    {.domain = "com.microsoft", .name = "GroupQueryAttention", .host_inputs = 1u << kTotal, .infer = infer_group_query, .create = create},
};

}  // namespace

Result<GroupQuery> group_query_dims(const NodeView& node, std::span<const TypeShape> inputs) {
  GroupQuery g;
  g.heads = node.integer("num_heads", 0);
  g.kv_heads = node.integer("kv_num_heads", 0);
  if (g.heads < 1 || g.kv_heads < 1 || g.heads % g.kv_heads != 0) return node.invalid("num_heads must be a multiple of kv_num_heads");
  g.packed = !has(inputs, kKey);
  if (g.packed == has(inputs, kValue)) return node.invalid("key and value come together");
  const auto& q = inputs[kQuery].dims;
  if (q.size() != 3) return node.invalid("query " + dims_text(q) + " must have 3 dimensions");
  const std::int64_t all = g.heads + (g.packed ? 2 * g.kv_heads : 0);
  if (q[2] >= 0 && q[2] % all != 0) return node.invalid("the heads do not divide the query " + dims_text(q));
  g.batch = q[0];
  g.queries = q[1];
  g.head = q[2] < 0 ? -1 : q[2] / all;
  if (has(inputs, kPastKey) != has(inputs, kPastValue)) return node.invalid("past_key and past_value come together");
  if (has(inputs, kPastKey)) g.past = inputs[kPastKey].has_rank && inputs[kPastKey].dims.size() == 4 ? inputs[kPastKey].dims[2] : -1;
  return g;
}

Result<GroupQuery> group_query(const PrepareContext& context) {
  const NodeView& node = context.node;
  FB_ASSIGN(GroupQuery g, group_query_dims(node, context.inputs));
  g.total = host_integers(*context.values[kTotal])[0];
  g.length = std::max(g.past, g.total);
  g.prompt = g.total == g.queries;
  g.causal = node.integer("causal", 1) != 0;
  g.window = node.integer("local_window_size", -1);
  g.rotary = node.integer("do_rotary", 0) != 0;
  g.interleaved = node.integer("rotary_interleaved", 0) != 0;
  g.norm = has(context.inputs, kQueryNorm);
  g.norm_epsilon = node.real("qk_norm_epsilon", 1e-6f);
  g.sink = has(context.inputs, kSink) || node.integer("smooth_softmax", 0) == 1;
  const auto dims_are = [&](std::size_t i, std::vector<std::int64_t> dims) {
    return !has(context.inputs, i) || context.inputs[i].dims == dims;
  };
  const std::int64_t kv = g.kv_heads * g.head;
  const bool fits = dims_are(kKey, {g.batch, g.queries, kv}) && dims_are(kValue, {g.batch, g.queries, kv}) &&
                    dims_are(kPastKey, {g.batch, g.kv_heads, g.past, g.head}) &&
                    dims_are(kPastValue, {g.batch, g.kv_heads, g.past, g.head}) && dims_are(kSink, {g.heads}) &&
                    dims_are(kQueryNorm, {g.head}) && dims_are(kKeyNorm, {g.head}) &&
                    context.inputs[kLengths].shape().elements() == g.batch;
  if (!fits)
    return node.invalid("key, value, past, seqlens_k, head_sink or norm weights do not fit the query " +
                        dims_text(context.inputs[kQuery].dims));
  if (g.total < g.queries)
    return node.invalid("total_sequence_length " + std::to_string(g.total) + " is below the " + std::to_string(g.queries) +
                        " new positions");
  if (g.rotary) {
    const auto &cos = context.inputs[kCos].dims, &sin = context.inputs[kSin].dims;
    if (cos.size() != 2 || cos != sin || 2 * cos[1] > g.head)
      return node.invalid("cos_cache " + dims_text(cos) + " and sin_cache " + dims_text(sin) + " do not fit heads of " +
                          std::to_string(g.head));
    g.positions = cos[0];
    g.half = cos[1];
    // Of a first prompt only the first number counts.
    const std::int64_t ids = has(context.inputs, kPositions) ? context.inputs[kPositions].shape().elements() : 0;
    if (has(context.inputs, kPositions) && ids != g.batch * g.queries && (!g.prompt || ids < 1)) {
      return node.invalid("position_ids must be one for each position");
    }
  }
  if (has(context.inputs, kAdded)) {
    const auto& added = context.inputs[kAdded].dims;
    const bool good = added.size() == 4 && (added[0] == 1 || added[0] == g.batch) && (added[1] == 1 || added[1] == g.heads) &&
                      added[2] == g.queries && added[3] >= g.total;
    if (!good) return node.invalid("attention_bias " + dims_text(added) + " does not fit");
    g.added_dims = added;
  }
  return g;
}

std::span<const OpSpec> group_query_attention_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
