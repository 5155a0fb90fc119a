// Attention (23, 24) with past, masks, grouped heads, softcap and its intermediate output, and RotaryEmbedding (23). One row of scores at a time.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/rotary.h"
#include "runtime/ops/softmax_rows.h"

namespace forebay::ops {
namespace {

// Inputs: Q K V mask past_key past_value nonpad_kv_seqlen. Outputs: Y present_key present_value qk.
constexpr std::size_t kMask = 3, kPastKey = 4, kPastValue = 5, kLengths = 6;

struct AttentionDims {
  std::int64_t batch = -1, q_heads = -1, kv_heads = -1, queries = -1, keys = -1, past = 0, head = -1, value_head = -1;
  bool packed = false;  // three dimensions: heads inside of the last
  std::int64_t total() const { return keys < 0 || past < 0 ? -1 : past + keys; }
};

bool has(std::span<const TypeShape> inputs, std::size_t i) { return i < inputs.size() && inputs[i].present(); }
std::int64_t per_head(std::int64_t hidden, std::int64_t heads) { return hidden < 0 || heads <= 0 ? -1 : hidden / heads; }

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
    if (q[3] >= 0 && k[3] >= 0 && q[3] != k[3]) return node.invalid("heads of Q " + dims_text(q) + " and K " + dims_text(k) + " do not have one size");
  }
  const std::size_t length = d.packed ? 1 : 2;
  if (k[length] >= 0 && v[length] >= 0 && k[length] != v[length]) return node.invalid("K " + dims_text(k) + " and V " + dims_text(v) + " differ in length");
  if (d.q_heads >= 0 && d.kv_heads > 0 && d.q_heads % d.kv_heads != 0) {
    return node.invalid(std::to_string(d.q_heads) + " query heads are not a multiple of " + std::to_string(d.kv_heads));
  }
  if (has(inputs, kPastKey) != has(inputs, kPastValue)) return node.invalid("past_key and past_value come together");
  if (has(inputs, kPastKey)) {
    if (!inputs[kPastKey].has_rank) {
      d.past = -1;
    } else if (inputs[kPastKey].dims.size() != 4) {
      return node.invalid("past_key " + dims_text(inputs[kPastKey].dims) + " must have 4 dimensions");
    } else {
      d.past = inputs[kPastKey].dims[2];
    }
  }
  return d;
}

Status infer_attention(InferContext& context) {
  const NodeView& node = context.node();
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  for (std::size_t i = 0; i < 3; ++i) {
    if (!has(inputs, i)) return node.invalid("Q, K and V are needed");
    FB_TRY(require_float(node, inputs[i].dtype, "Q, K or V"));
    if ((inputs[i].dtype == DType::f64) != (inputs[0].dtype == DType::f64)) return node.unsupported("f64 mixed with narrower types");
  }
  if (has(inputs, kMask) && inputs[kMask].dtype != DType::boolean && !kernel_float(inputs[kMask].dtype)) {
    return node.unsupported("a mask of type " + std::string(dtype_name(inputs[kMask].dtype)));
  }
  const DType q = inputs[0].dtype, k = inputs[1].dtype, v = inputs[2].dtype;
  if (!inputs[0].has_rank || !inputs[1].has_rank || !inputs[2].has_rank) {
    context.set_output_unranked(0, q);
    context.set_output_unranked(1, k);
    context.set_output_unranked(2, v);
    context.set_output_unranked(3, q);
    return {};
  }
  FB_ASSIGN(const AttentionDims d, attention_dims(node, inputs));
  const std::int64_t wide = d.q_heads < 0 || d.value_head < 0 ? -1 : d.q_heads * d.value_head;
  context.set_output(0, q, d.packed ? std::vector<std::int64_t>{d.batch, d.queries, wide} : std::vector<std::int64_t>{d.batch, d.q_heads, d.queries, d.value_head});
  context.set_output(1, k, {d.batch, d.kv_heads, d.total(), d.head});
  context.set_output(2, v, {d.batch, d.kv_heads, d.total(), d.value_head});
  context.set_output(3, q, {d.batch, d.q_heads, d.queries, d.total()});
  return {};
}

class AttentionKernel final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.attention"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(d_, attention_dims(node, context.inputs));
    scale_ = node.has("scale") ? static_cast<double>(node.real("scale", 1)) : 1.0 / std::sqrt(static_cast<double>(d_.head));
    softcap_ = static_cast<double>(node.real("softcap", 0));
    causal_ = node.integer("is_causal", 0) != 0;
    mode_ = node.integer("qk_matmul_output_mode", 0);
    FB_TRY(check(context));
    set_scratch(float_bytes(d_.total(), 8) * static_cast<std::uint64_t>(context.pool->threads()));
    return {};
  }
  Status compute(const KernelCall& call) override {
    if (call.inputs[0].dtype == DType::f64) {
      go<double>(call);
    } else {
      go<float>(call);
    }
    return {};
  }

 private:
  Status check(const PrepareContext& context) {
    const auto dims_are = [&](std::size_t i, std::initializer_list<std::int64_t> dims) {
      return !has(context.inputs, i) || std::equal(dims.begin(), dims.end(), context.inputs[i].dims.begin(), context.inputs[i].dims.end());
    };
    if (!dims_are(kPastKey, {d_.batch, d_.kv_heads, d_.past, d_.head}) || !dims_are(kPastValue, {d_.batch, d_.kv_heads, d_.past, d_.value_head}) ||
        !dims_are(kLengths, {d_.batch})) {
      return context.node.invalid("past or nonpad_kv_seqlen do not fit Q, K and V");
    }
    if (has(context.inputs, kLengths) && context.inputs[kLengths].dtype != DType::i64) return context.node.invalid("nonpad_kv_seqlen must be i64");
    mask_strides_ = {};
    if (!has(context.inputs, kMask)) return {};
    const Shape mask = context.inputs[kMask].shape();
    const std::int64_t full[4] = {d_.batch, d_.q_heads, d_.queries, d_.total()};
    if (mask.rank() < 1 || mask.rank() > 4) return context.node.invalid("a mask " + mask.to_string());
    mask_length_ = mask[mask.rank() - 1];
    std::int64_t stride = 1;
    for (int i = mask.rank() - 1; i >= 0; --i) {
      const int axis = i + 4 - mask.rank();
      const bool last = axis == 3;
      if (mask[i] != 1 && mask[i] != full[axis] && !(last && mask[i] < full[3])) return context.node.invalid("a mask " + mask.to_string() + " does not fit");
      mask_strides_[static_cast<std::size_t>(axis)] = mask[i] == 1 && full[axis] != 1 && !(last && full[3] == 1) ? 0 : stride;
      stride *= mask[i];
    }
    if (mask_length_ == 1 && full[3] > 1) mask_length_ = full[3];  // one column for all
    return {};
  }

  // Row j of the keys or values of a head: past first, then the new ones in either layout.
  template <typename T>
  const T* row(const KernelCall& call, std::size_t input, std::size_t past, std::int64_t b, std::int64_t h, std::int64_t j, std::int64_t width) const {
    if (j < d_.past) return reinterpret_cast<const T*>(call.inputs[past].data) + ((b * d_.kv_heads + h) * d_.past + j) * width;
    const std::int64_t at = j - d_.past;
    const auto* data = reinterpret_cast<const T*>(call.inputs[input].data);
    return d_.packed ? data + ((b * d_.keys + at) * d_.kv_heads + h) * width : data + ((b * d_.kv_heads + h) * d_.keys + at) * width;
  }

  template <typename T>
  T bias(const KernelCall& call, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    constexpr T kNever = -std::numeric_limits<T>::infinity();
    if (causal_ && j > i + d_.past) return kNever;
    if (call.inputs.size() > kLengths && call.inputs[kLengths].present() && j >= reinterpret_cast<const std::int64_t*>(call.inputs[kLengths].data)[b]) return kNever;
    if (call.inputs.size() <= kMask || !call.inputs[kMask].present()) return T(0);
    if (j >= mask_length_) return kNever;
    const ConstTensorView& mask = call.inputs[kMask];
    const std::int64_t at = b * mask_strides_[0] + h * mask_strides_[1] + i * mask_strides_[2] + j * mask_strides_[3];
    if (mask.dtype == DType::boolean) return reinterpret_cast<const std::uint8_t*>(mask.data)[at] != 0 ? T(0) : kNever;
    return mask.dtype == DType::f64 ? static_cast<T>(reinterpret_cast<const double*>(mask.data)[at]) : static_cast<T>(reinterpret_cast<const float*>(mask.data)[at]);
  }

  template <typename T>
  void one_query(const KernelCall& call, std::int64_t b, std::int64_t h, std::int64_t i, T* scores) const {
    const std::int64_t total = d_.total(), kv_head = h / (d_.q_heads / d_.kv_heads), head = d_.head, width = d_.value_head;
    const auto* q = reinterpret_cast<const T*>(call.inputs[0].data) +
                    (d_.packed ? ((b * d_.queries + i) * d_.q_heads + h) * head : ((b * d_.q_heads + h) * d_.queries + i) * head);
    T* shown = call.outputs.size() > 3 && call.outputs[3].present()
                   ? reinterpret_cast<T*>(call.outputs[3].data) + ((b * d_.q_heads + h) * d_.queries + i) * total
                   : nullptr;
    const auto show = [&](std::int64_t mode) {
      if (shown != nullptr && mode_ == mode) std::copy(scores, scores + total, shown);
    };
    for (std::int64_t j = 0; j < total; ++j) {
      const T* k = row<T>(call, 1, kPastKey, b, kv_head, j, head);
      scores[j] = static_cast<T>(scale_) * lane_sum<T>(head, [q, k](std::int64_t e) { return q[e] * k[e]; });
    }
    show(0);
    if (softcap_ != 0) {
      for (std::int64_t j = 0; j < total; ++j) scores[j] = static_cast<T>(softcap_ * std::tanh(static_cast<double>(scores[j]) / softcap_));
    }
    show(1);
    for (std::int64_t j = 0; j < total; ++j) scores[j] += bias<T>(call, b, h, i, j);
    show(2);
    const T most = total > 0 ? *std::max_element(scores, scores + total) : T(0);
    if (most == -std::numeric_limits<T>::infinity()) {
      std::fill(scores, scores + total, T(0));  // nothing may be attended
    } else {
      softmax_row(scores, total, scores);
    }
    show(3);
    T* y = reinterpret_cast<T*>(call.outputs[0].data) +
           (d_.packed ? ((b * d_.queries + i) * d_.q_heads + h) * width : ((b * d_.q_heads + h) * d_.queries + i) * width);
    std::fill(y, y + width, T(0));
    for (std::int64_t j = 0; j < total; ++j) {
      if (scores[j] == T(0)) continue;
      const T* v = row<T>(call, 2, kPastValue, b, kv_head, j, width);
      for (std::int64_t e = 0; e < width; ++e) y[e] += scores[j] * v[e];
    }
  }

  template <typename T>
  void present(const KernelCall& call, std::size_t output, std::size_t input, std::size_t past, std::int64_t width) const {
    if (output >= call.outputs.size() || !call.outputs[output].present()) return;
    auto* to = reinterpret_cast<T*>(call.outputs[output].data);
    const std::int64_t total = d_.total();
    call.pool->parallel_for(d_.batch * d_.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t bh = begin; bh < end; ++bh) {
        for (std::int64_t j = 0; j < total; ++j) {
          const T* from = row<T>(call, input, past, bh / d_.kv_heads, bh % d_.kv_heads, j, width);
          std::copy(from, from + width, to + (bh * total + j) * width);
        }
      }
    });
  }

  template <typename T>
  void go(const KernelCall& call) const {
    present<T>(call, 1, 1, kPastKey, d_.head);
    present<T>(call, 2, 2, kPastValue, d_.value_head);
    const std::int64_t rows = d_.batch * d_.q_heads * d_.queries, threads = call.pool->threads();
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        T* scores = reinterpret_cast<T*>(call.workspace + static_cast<std::uint64_t>(part) * float_bytes(d_.total(), 8));
        for (std::int64_t i = rows * part / threads; i < rows * (part + 1) / threads; ++i) {
          one_query(call, i / (d_.q_heads * d_.queries), i / d_.queries % d_.q_heads, i % d_.queries, scores);
        }
      }
    });
  }

  AttentionDims d_;
  double scale_ = 1, softcap_ = 0;
  bool causal_ = false;
  std::int64_t mode_ = 0, mask_length_ = 0;
  std::array<std::int64_t, 4> mask_strides_{};
};

Result<std::unique_ptr<Kernel>> create_attention(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<AttentionKernel>());
}

}  // namespace

std::span<const OpSpec> attention_ops() {
  static const OpSpec specs[] = {
      {"", "Attention", 23, 0x7fffffff, kOpNone, 0, infer_attention, nullptr, create_attention},
      {"", "RotaryEmbedding", 23, 0x7fffffff, kOpNone, 0, infer_rotary, nullptr, create_rotary},
      {"com.microsoft", "RotaryEmbedding", 1, 0x7fffffff, kOpNone, 0, infer_rotary, nullptr, create_rotary},
  };
  return specs;
}

}  // namespace forebay::ops
