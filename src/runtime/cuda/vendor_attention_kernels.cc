// GroupQueryAttention and MultiHeadAttention of com.microsoft, and RotaryEmbedding of both domains, as runtime/ops has them. Heads are read
// where they lie; only what is biased, normalised or rotated is written once more. What the CPU refuses while a pass runs (lengths and
// positions that cannot be) the device finds too late to say: the rows concerned are made not-a-number.
#include <algorithm>
#include <cmath>

#include "runtime/cuda/attention_base.h"
#include "runtime/cuda/vendor_heads.h"
#include "runtime/ops/rotary.h"
#include "runtime/ops/vendor_attention.h"

namespace forebay::cuda {
namespace {

float scale_of(const NodeView& node, std::int64_t head) {
  const float given = node.real("scale", 0);
  return given != 0 ? given : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head)));
}
void set(std::int64_t (&strides)[3], std::int64_t batch, std::int64_t head, std::int64_t row) {
  strides[0] = batch;
  strides[1] = head;
  strides[2] = row;
}
void copy(const std::int64_t (&from)[3], std::int64_t (&to)[3]) {
  std::copy(from, from + 3, to);
}
// An additive mask [batch or 1, heads or 1, rows, length].
void set_mask(AttentionTask& task, std::int64_t batches, std::int64_t heads, std::int64_t rows, std::int64_t length, std::int64_t keys) {
  task.mask_strides[0] = batches > 1 ? heads * rows * length : 0;
  task.mask_strides[1] = heads > 1 ? rows * length : 0;
  task.mask_strides[2] = rows > 1 ? length : 0;
  task.mask_strides[3] = 1;
  task.mask_length = keys;
}

// Bytes handed out one after another.
class Room {
 public:
  std::uint64_t take(std::int64_t bytes) {
    const std::uint64_t at = used_;
    used_ += (static_cast<std::uint64_t>(bytes) + 63) / 64 * 64;
    return at;
  }
  std::uint64_t used() const { return used_; }

 private:
  std::uint64_t used_ = 0;
};

class GroupQueryKernel final : public AttentionBase {
 public:
  using In = ops::GroupQuery;
  GroupQueryKernel(DType type, StatePtr state) : AttentionBase("cuda.group_query_attention", std::move(state)), type_(type) {}

  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(g_, ops::group_query(context));
    task_ = AttentionTask();
    task_.type = type_;
    task_.batch = g_.batch;
    task_.q_heads = g_.heads;
    task_.kv_heads = g_.kv_heads;
    task_.queries = g_.queries;
    task_.keys = g_.total;
    task_.head = task_.value_head = g_.head;
    task_.scale = scale_of(context.node, g_.head);
    task_.softcap = context.node.real("softcap", 0);
    task_.causal = g_.causal;
    task_.window = g_.causal && g_.window > 0 && g_.window < g_.total ? g_.window : 0;
    task_.sink_of_zero = g_.sink;
    if (!g_.added_dims.empty()) set_mask(task_, g_.added_dims[0], g_.added_dims[1], g_.queries, g_.added_dims[3], g_.total);
    wide_ = (g_.heads + (g_.packed ? 2 * g_.kv_heads : 0)) * g_.head;
    turned_ = g_.rotary || g_.norm;
    set(task_.q_strides, g_.queries * wide_, g_.head, wide_);
    if (turned_) set_strides(task_.q_strides, true, g_.heads, g_.queries, g_.head);
    set_strides(task_.k_strides, false, g_.kv_heads, g_.length, g_.head);
    copy(task_.k_strides, task_.v_strides);
    set_strides(task_.y_strides, true, g_.heads, g_.queries, g_.head);
    Room room;
    const std::int64_t cache = g_.batch * g_.kv_heads * g_.length * g_.head * element_bytes();
    sequences_at_ = room.take(3 * g_.batch * static_cast<std::int64_t>(sizeof(std::int64_t)));
    q_at_ = room.take(turned_ ? g_.batch * g_.queries * g_.heads * g_.head * element_bytes() : 0);
    for (std::size_t o = 1; o < 3; ++o) {
      const bool wanted = o < context.outputs.size() && context.outputs[o].present();
      cache_at_[o - 1] = room.take(wanted ? 0 : cache);
    }
    return plan(context.node, room.used());
  }

  Status run(const KernelCall& call) override {
    const std::byte* const query = input_of(call, In::kQuery);
    const std::int64_t size = element_bytes();
    SequencesTask sequences;
    sequences.last = reinterpret_cast<const std::int32_t*>(input_of(call, In::kLengths));
    sequences.befores = reinterpret_cast<std::int64_t*>(call.workspace + sequences_at_);
    sequences.afters = sequences.befores + g_.batch;
    sequences.valid = sequences.afters + g_.batch;
    sequences.batch = g_.batch;
    sequences.queries = g_.queries;
    sequences.past = g_.past;
    sequences.total = g_.total;
    sequences.prompt = g_.prompt;
    FB_TRY(check(launch_sequences(sequences, queue_stream())));
    AttentionTask task = task_;
    task.q = query;
    if (turned_) {
      HeadsTask heads = heads_of(call, sequences, g_.heads, query, wide_, In::kQueryNorm);
      heads.y = call.workspace + q_at_;
      copy(task.q_strides, heads.y_strides);
      FB_TRY(check(launch_heads(heads, queue_stream())));
      task.q = call.workspace + q_at_;
    }
    const std::byte* const key = g_.packed ? query + g_.heads * g_.head * size : input_of(call, In::kKey);
    const std::byte* const value = g_.packed ? key + g_.kv_heads * g_.head * size : input_of(call, In::kValue);
    FB_TRY(write_cache(call, sequences, 0, key, true, &task.k));
    FB_TRY(write_cache(call, sequences, 1, value, false, &task.v));
    task.mask = input_of(call, In::kAdded);
    task.mask_type = type_;
    task.lengths = sequences.afters;
    task.befores = sequences.befores;
    task.sinks = input_of(call, In::kSink);
    task.y = call.outputs[0].data;
    return attend(task, call);
  }

 private:
  // The rows of heads that are new; normalised and rotated as asked.
  HeadsTask heads_of(const KernelCall& call, const SequencesTask& sequences, std::int64_t heads, const std::byte* x, std::int64_t width,
                     std::size_t norm) const {
    HeadsTask task;
    task.type = type_;
    task.x = x;
    task.batch = g_.batch;
    task.heads = heads;
    task.rows = g_.queries;
    task.size = g_.head;
    set(task.x_strides, g_.queries * width, g_.head, width);
    task.befores = sequences.befores;
    task.valid = sequences.valid;
    if (g_.norm) task.norm = input_of(call, norm);
    task.epsilon = g_.norm_epsilon;
    if (!g_.rotary) return task;
    task.cos = input_of(call, In::kCos);
    task.sin = input_of(call, In::kSin);
    task.half = g_.half;
    task.table_rows = g_.positions;
    task.interleaved = g_.interleaved;
    task.ids = reinterpret_cast<const std::int64_t*>(input_of(call, In::kPositions));
    task.positions = g_.prompt ? Positions::offset : task.ids != nullptr ? Positions::each : Positions::behind;
    return task;
  }

  // present: the rows of the past, zeros behind them, the new rows in their places.
  Status write_cache(const KernelCall& call, const SequencesTask& sequences, std::size_t which, const std::byte* x, bool keys,
                     const void** made) const {
    const std::int64_t size = element_bytes(), row = g_.head * size;
    const std::byte* const past = input_of(call, In::kPastKey + which);
    std::byte* const to = output_of(call, 1 + which) != nullptr ? output_of(call, 1 + which) : call.workspace + cache_at_[which];
    *made = to;
    std::int64_t old[3];
    set_strides(old, false, g_.kv_heads, g_.past, g_.head);
    if (g_.past > 0 && past != to) FB_TRY(copy_heads(to, task_.k_strides, past, old, g_.kv_heads, g_.past, g_.head));
    if (g_.length > g_.past) {
      FB_TRY(check(cudaMemset2DAsync(to + g_.past * row, static_cast<std::size_t>(g_.length * row), 0,
                                     static_cast<std::size_t>((g_.length - g_.past) * row),
                                     static_cast<std::size_t>(g_.batch * g_.kv_heads), queue_stream())));
    }
    HeadsTask heads = heads_of(call, sequences, g_.kv_heads, x, g_.packed ? wide_ : g_.kv_heads * g_.head, In::kKeyNorm);
    if (!keys) {
      heads.norm = nullptr;
      heads.half = 0;
    }
    heads.y = to;
    heads.behind = true;
    copy(task_.k_strides, heads.y_strides);
    return check(launch_heads(heads, queue_stream()));
  }

  const DType type_;
  ops::GroupQuery g_;
  std::int64_t wide_ = 0;
  bool turned_ = false;
  std::uint64_t sequences_at_ = 0, q_at_ = 0, cache_at_[2] = {};
};

class MultiHeadKernel final : public AttentionBase {
 public:
  using In = ops::MultiHead;
  MultiHeadKernel(DType type, StatePtr state) : AttentionBase("cuda.multi_head_attention", std::move(state)), type_(type) {}

  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(m_, ops::multi_head(context));
    task_ = AttentionTask();
    task_.type = type_;
    task_.batch = m_.batch;
    task_.q_heads = task_.kv_heads = m_.heads;
    task_.queries = m_.queries;
    task_.keys = m_.fresh;
    task_.past = m_.past;
    task_.head = m_.head;
    task_.value_head = m_.value_head;
    task_.scale = scale_of(context.node, m_.head);
    task_.causal = m_.causal;
    lay_out();
    const auto there = [&](std::size_t i) { return i < context.inputs.size() && context.inputs[i].present(); };
    biased_ = there(In::kBias);
    added_ = there(In::kAdded);
    mask_heads_ = added_ ? context.inputs[In::kAdded].dims[1] : 1;
    mask_batches_ = m_.padding_rank > 0 || (added_ && m_.added_batch > 1) ? m_.batch : 1;
    mask_rows_ = added_ || m_.padding_rank == 3 ? m_.queries : 1;
    if (added_ || m_.padding_rank > 0) set_mask(task_, mask_batches_, mask_heads_, mask_rows_, m_.keys(), m_.keys());
    Room room;
    const std::int64_t rows = m_.batch * m_.heads * element_bytes(), floats = mask_batches_ * mask_heads_ * mask_rows_ * m_.keys() * 4;
    mask_at_ = room.take(m_.padding_rank > 0 ? floats : 0);
    q_at_ = room.take(biased_ ? rows * m_.queries * m_.head : 0);
    k_at_ = room.take(biased_ ? rows * m_.fresh * m_.head : 0);
    v_at_ = room.take(biased_ ? rows * m_.fresh * m_.value_head : 0);
    if (biased_) {
      copy(task_.q_strides, q_given_);
      copy(task_.k_strides, k_given_);
      copy(task_.v_strides, v_given_);
      set_strides(task_.q_strides, true, m_.heads, m_.queries, m_.head);
      if (m_.form != In::Form::by_head) {
        set_strides(task_.k_strides, true, m_.heads, m_.fresh, m_.head);
        set_strides(task_.v_strides, true, m_.heads, m_.fresh, m_.value_head);
      }
    }
    return plan(context.node, room.used());
  }

  Status run(const KernelCall& call) override {
    AttentionTask task = task_;
    const std::int64_t size = element_bytes();
    const std::byte *q = input_of(call, In::kQuery), *k = input_of(call, In::kKey), *v = input_of(call, In::kValue);
    if (m_.form == In::Form::packed_qkv) {
      k = q + m_.head * size;
      v = k + m_.head * size;
    } else if (m_.form == In::Form::packed_kv) {
      v = k + m_.head * size;
    }
    if (biased_) {
      const std::byte* const bias = input_of(call, In::kBias);
      FB_TRY(add_bias(call, q_at_, m_.queries, m_.head, q_given_, task.q_strides, bias, &q));
      if (m_.form != In::Form::by_head) {  // those of an encoder were projected, bias and all, before
        FB_TRY(add_bias(call, k_at_, m_.fresh, m_.head, k_given_, task.k_strides, bias + m_.heads * m_.head * size, &k));
        FB_TRY(add_bias(call, v_at_, m_.fresh, m_.value_head, v_given_, task.v_strides, bias + 2 * m_.heads * m_.head * size, &v));
      }
    }
    const std::byte *past_key = input_of(call, In::kPastKey), *past_value = input_of(call, In::kPastValue);
    FB_TRY(append(output_of(call, 1), k, past_key, task.k_strides, m_.head));
    FB_TRY(append(output_of(call, 2), v, past_value, task.v_strides, m_.value_head));
    task.q = q;
    task.k = k;
    task.v = v;
    task.past_key = past_key;
    task.past_value = past_value;
    task.y = call.outputs[0].data;
    task.mask = input_of(call, In::kAdded);
    task.mask_type = type_;
    if (m_.padding_rank > 0) FB_TRY(write_mask(call, &task));
    return attend(task, call);
  }

 private:
  void lay_out() {
    const std::int64_t head = m_.head, wide = m_.heads * head;
    set(task_.q_strides, m_.queries * wide, head, wide);
    set_strides(task_.y_strides, true, m_.heads, m_.queries, m_.value_head);
    switch (m_.form) {
      case In::Form::packed_qkv:
        set(task_.q_strides, m_.queries * wide * 3, head * 3, wide * 3);
        copy(task_.q_strides, task_.k_strides);
        copy(task_.q_strides, task_.v_strides);
        break;
      case In::Form::packed_kv:
        set(task_.k_strides, m_.fresh * wide * 2, head * 2, wide * 2);
        copy(task_.k_strides, task_.v_strides);
        break;
      case In::Form::by_head:
      case In::Form::apart:
        set_strides(task_.k_strides, m_.form == In::Form::apart, m_.heads, m_.fresh, head);
        set_strides(task_.v_strides, m_.form == In::Form::apart, m_.heads, m_.fresh, m_.value_head);
        break;
    }
  }

  Status add_bias(const KernelCall& call, std::uint64_t at, std::int64_t rows, std::int64_t size, const std::int64_t (&from)[3],
                  const std::int64_t (&to)[3], const std::byte* bias, const std::byte** x) const {
    HeadsTask task;
    task.type = type_;
    task.x = *x;
    task.bias = bias;
    task.y = call.workspace + at;
    task.batch = m_.batch;
    task.heads = m_.heads;
    task.rows = rows;
    task.size = size;
    copy(from, task.x_strides);
    copy(to, task.y_strides);
    *x = call.workspace + at;
    return check(launch_heads(task, queue_stream()));
  }

  Status write_mask(const KernelCall& call, AttentionTask* task) const {
    PaddingTask padding;
    padding.type = type_;
    padding.padding = reinterpret_cast<const std::int32_t*>(input_of(call, In::kPadding));
    padding.added = input_of(call, In::kAdded);
    padding.mask = reinterpret_cast<float*>(call.workspace + mask_at_);
    padding.padding_rank = static_cast<int>(m_.padding_rank);
    padding.batches = mask_batches_;
    padding.heads = mask_heads_;
    padding.rows = mask_rows_;
    padding.keys = m_.keys();
    padding.added_batches = m_.added_batch;
    padding.fill = m_.fill;
    task->mask = padding.mask;
    task->mask_type = DType::f32;
    return check(launch_padding(padding, queue_stream()));
  }

  const DType type_;
  ops::MultiHead m_;
  bool biased_ = false, added_ = false;
  std::int64_t mask_batches_ = 1, mask_heads_ = 1, mask_rows_ = 1;
  std::int64_t q_given_[3] = {}, k_given_[3] = {}, v_given_[3] = {};
  std::uint64_t mask_at_ = 0, q_at_ = 0, k_at_ = 0, v_at_ = 0;
};

class RotaryKernel final : public CudaKernel {
 public:
  RotaryKernel(DType type, StatePtr state) : CudaKernel("cuda.rotary", std::move(state)), type_(type) {}
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(d_, ops::rotary_dims(context));
    task_ = HeadsTask();
    task_.type = type_;
    task_.batch = d_.batch;
    task_.heads = d_.heads;
    task_.rows = d_.sequence;
    task_.size = d_.head;
    const std::int64_t all = d_.heads * d_.sequence * d_.head;
    if (d_.packed) {
      set(task_.x_strides, all, d_.head, d_.heads * d_.head);
    } else {
      set(task_.x_strides, all, d_.sequence * d_.head, d_.head);
    }
    copy(task_.x_strides, task_.y_strides);
    task_.half = d_.rotated / 2;
    task_.table_rows = d_.with_ids ? d_.positions : d_.batch * d_.sequence;
    task_.interleaved = d_.interleaved;
    task_.positions = !d_.with_ids ? Positions::counted : d_.offset ? Positions::offset : Positions::each;
    return {};
  }
  Status run(const KernelCall& call) override {
    HeadsTask task = task_;
    task.x = input_of(call, 0);
    task.cos = input_of(call, d_.cos);
    task.sin = input_of(call, d_.sin);
    task.ids = d_.with_ids ? reinterpret_cast<const std::int64_t*>(input_of(call, d_.ids)) : nullptr;
    task.y = call.outputs[0].data;
    return check(launch_heads(task, queue_stream()));
  }

 private:
  const DType type_;
  ops::RotaryDims d_;
  HeadsTask task_;
};

// All floats of one type: the host widens where they differ.
template <typename K>
KernelPtr make(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const DType type = inputs[0].dtype;
  if (!float_type(type)) return nullptr;
  for (const TypeShape& input : inputs) {
    if (input.present() && input.dtype != type && input.dtype != DType::i32 && input.dtype != DType::i64) return nullptr;
  }
  return std::make_unique<K>(type, state);
}

// Caches of a fixed length and the scores as an output are the host's.
KernelPtr make_multi_head(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs,
                          const StatePtr& state) {
  using In = ops::MultiHead;
  const bool buffer = inputs.size() > In::kPastLength && inputs[In::kPastLength].present();
  const bool scores = outputs.size() > 3 && outputs[3].present();
  return buffer || scores ? nullptr : make<MultiHeadKernel>(node, inputs, outputs, state);
}

}  // namespace

std::span<const TableEntry> vendor_attention_table() {
  static constexpr TableEntry kTable[] = {{"com.microsoft", "GroupQueryAttention", make<GroupQueryKernel>},
                                          {"com.microsoft", "MultiHeadAttention", make_multi_head},
                                          {"com.microsoft", "RotaryEmbedding", make<RotaryKernel>},
                                          {"", "RotaryEmbedding", make<RotaryKernel>}};
  return kTable;
}

}  // namespace forebay::cuda
