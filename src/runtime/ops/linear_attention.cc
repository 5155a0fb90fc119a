// Operators with a recurrent state of their own (27): LinearAttention, a sum of outer products carried along the sequence, and
// CausalConvWithState, a depthwise convolution that carries the last rows it read.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

bool has(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}

// Inputs: query key value past_state decay beta. Outputs: Y, present_state.
constexpr std::size_t kPast = 3, kDecay = 4, kBeta = 5;

struct LinearDims {
  std::int64_t batch = -1, length = -1, q_heads = 0, kv_heads = 0, key = -1, value = -1;
  bool gated = false, delta = false;
};

Result<LinearDims> linear_dims(const NodeView& node, std::span<const TypeShape> inputs) {
  LinearDims d;
  const std::string_view rule = node.text("update_rule", "gated_delta");
  if (rule != "linear" && rule != "gated" && rule != "delta" && rule != "gated_delta")
    return node.invalid("update_rule '" + std::string(rule) + "'");
  d.gated = rule.starts_with("gated");
  d.delta = rule.ends_with("delta");
  if (d.gated != has(inputs, kDecay) || d.delta != has(inputs, kBeta))
    return node.invalid("decay and beta are not those of update_rule '" + std::string(rule) + "'");
  d.q_heads = node.integer("q_num_heads", 0);
  d.kv_heads = node.integer("kv_num_heads", 0);
  if (d.q_heads < 1 || d.kv_heads < 1 || d.q_heads % d.kv_heads != 0) return node.invalid("q_num_heads must be a multiple of kv_num_heads");
  const auto &q = inputs[0].dims, &k = inputs[1].dims, &v = inputs[2].dims;
  if (q.size() != 3 || k.size() != 3 || v.size() != 3) return node.invalid("query, key and value must have 3 dimensions");
  const auto fits = [](std::int64_t width, std::int64_t heads) { return width < 0 || width % heads == 0; };
  if (!fits(q[2], d.q_heads) || !fits(k[2], d.kv_heads) || !fits(v[2], d.kv_heads))
    return node.invalid("the heads do not divide query, key or value");
  d.batch = q[0];
  d.length = q[1];
  d.key = q[2] < 0 ? -1 : q[2] / d.q_heads;
  d.value = v[2] < 0 ? -1 : v[2] / d.kv_heads;
  return d;
}

Status infer_linear_attention(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 3, 6));
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    const TypeShape& input = context.input(i);
    inputs.push_back(input);
    if (!input.present()) {
      if (i < kPast) return node.invalid("query, key and value are needed");
      continue;
    }
    FB_TRY(require_float(node, input.dtype, "an input"));
    if (i != kPast) FB_TRY(same_dtype(context, 0, i));
    if ((input.dtype == DType::f64) != (inputs[0].dtype == DType::f64)) return node.unsupported("f64 mixed with narrower types");
  }
  const DType y = inputs[0].dtype, state = has(inputs, kPast) ? inputs[kPast].dtype : y;
  if (!inputs[0].has_rank || !inputs[1].has_rank || !inputs[2].has_rank) {
    context.set_output_unranked(0, y);
    context.set_output_unranked(1, state);
    return {};
  }
  FB_ASSIGN(const LinearDims d, linear_dims(node, inputs));
  context.set_output(0, y, {d.batch, d.length, d.value < 0 ? -1 : d.value * d.q_heads});
  context.set_output(1, state, {d.batch, d.kv_heads, d.key, d.value});
  return {};
}

class LinearAttention final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.linear_attention"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(d_, linear_dims(node, context.inputs));
    const float scale = node.real("scale", 0.0f);
    scale_ = scale != 0.0f ? static_cast<double>(scale) : 1.0 / std::sqrt(static_cast<double>(d_.key));
    const auto dims_are = [&](std::size_t i, std::vector<std::int64_t> dims) {
      return !has(context.inputs, i) || context.inputs[i].dims == dims;
    };
    decay_width_ = has(context.inputs, kDecay) && context.inputs[kDecay].dims.size() == 3 ? context.inputs[kDecay].dims[2] : d_.kv_heads;
    beta_width_ = has(context.inputs, kBeta) && context.inputs[kBeta].dims.size() == 3 ? context.inputs[kBeta].dims[2] : d_.kv_heads;
    const bool widths =
        (decay_width_ == d_.kv_heads || decay_width_ == d_.kv_heads * d_.key) && (beta_width_ == d_.kv_heads || beta_width_ == 1);
    if (!widths || !dims_are(1, {d_.batch, d_.length, d_.kv_heads * d_.key}) ||
        !dims_are(2, {d_.batch, d_.length, d_.kv_heads * d_.value}) || !dims_are(kPast, {d_.batch, d_.kv_heads, d_.key, d_.value}) ||
        !dims_are(kDecay, {d_.batch, d_.length, decay_width_}) || !dims_are(kBeta, {d_.batch, d_.length, beta_width_})) {
      return node.invalid("key, value, past_state, decay or beta do not fit the query " + dims_text(context.inputs[0].dims));
    }
    // The state of every head, and one row of values each.
    set_scratch(float_bytes(d_.batch * d_.kv_heads * (d_.key + 1) * d_.value, 8));
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    call.pool->parallel_for(d_.batch * d_.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t bh = begin; bh < end; ++bh) {
        T* state = reinterpret_cast<T*>(call.workspace) + bh * (d_.key + 1) * d_.value;
        const std::int64_t size = d_.key * d_.value;
        if (call.inputs.size() > kPast && call.inputs[kPast].present()) {
          std::copy_n(reinterpret_cast<const T*>(call.inputs[kPast].data) + bh * size, size, state);
        } else {
          std::fill_n(state, size, T(0));
        }
        for (std::int64_t t = 0; t < d_.length; ++t) step(call, bh / d_.kv_heads * d_.length + t, bh % d_.kv_heads, state, state + size);
        if (call.outputs.size() > 1 && call.outputs[1].present())
          std::copy_n(state, size, reinterpret_cast<T*>(call.outputs[1].data) + bh * size);
      }
    });
  }

  // One position of one head: decay, correct, add the outer product, read for every query head of the group.
  template <typename T>
  void step(const KernelCall& call, std::int64_t row, std::int64_t head, T* state, T* value) const {
    const T* k = reinterpret_cast<const T*>(call.inputs[1].data) + (row * d_.kv_heads + head) * d_.key;
    std::copy_n(reinterpret_cast<const T*>(call.inputs[2].data) + (row * d_.kv_heads + head) * d_.value, d_.value, value);
    if (d_.gated) {
      const T* decay = reinterpret_cast<const T*>(call.inputs[kDecay].data) + row * decay_width_;
      for (std::int64_t i = 0; i < d_.key; ++i) {
        const T factor = std::exp(decay_width_ == d_.kv_heads ? decay[head] : decay[head * d_.key + i]);
        for (std::int64_t j = 0; j < d_.value; ++j) state[i * d_.value + j] *= factor;
      }
    }
    if (d_.delta) {
      for (std::int64_t i = 0; i < d_.key; ++i) {
        for (std::int64_t j = 0; j < d_.value; ++j) value[j] -= state[i * d_.value + j] * k[i];
      }
      const T beta = reinterpret_cast<const T*>(call.inputs[kBeta].data)[row * beta_width_ + (beta_width_ == 1 ? 0 : head)];
      for (std::int64_t j = 0; j < d_.value; ++j) value[j] *= beta;
    }
    for (std::int64_t i = 0; i < d_.key; ++i) {
      for (std::int64_t j = 0; j < d_.value; ++j) state[i * d_.value + j] += k[i] * value[j];
    }
    const std::int64_t group = d_.q_heads / d_.kv_heads;
    for (std::int64_t h = head * group; h < (head + 1) * group; ++h) {
      const T* q = reinterpret_cast<const T*>(call.inputs[0].data) + (row * d_.q_heads + h) * d_.key;
      T* y = reinterpret_cast<T*>(call.outputs[0].data) + (row * d_.q_heads + h) * d_.value;
      std::fill_n(y, d_.value, T(0));
      for (std::int64_t i = 0; i < d_.key; ++i) {
        const T factor = static_cast<T>(scale_) * q[i];
        for (std::int64_t j = 0; j < d_.value; ++j) y[j] += factor * state[i * d_.value + j];
      }
    }
  }

  LinearDims d_;
  double scale_ = 1;
  std::int64_t decay_width_ = 0, beta_width_ = 0;
};

// ---- CausalConvWithState --------------------------------------------------------------------------------------------------------

// Inputs: X [batch, channels, length], W [channels, 1, k], bias, past_state [batch, channels, k - 1]. Outputs: Y, present_state.
Status infer_causal_conv(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 2, 4));
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    if (!context.input(i).present()) {
      if (i < 2) return node.invalid("an input and a weight are needed");
      continue;
    }
    FB_TRY(require_float(node, context.input(i).dtype, "an input"));
    FB_TRY(same_dtype(context, 0, i));
  }
  const std::string_view activation = node.text("activation", "none");
  if (activation != "none" && activation != "silu" && activation != "swish")
    return node.invalid("activation '" + std::string(activation) + "'");
  const TypeShape &x = context.input(0), &w = context.input(1);
  same_as_input(context, 0, 0);
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(1, x.dtype);
    return {};
  }
  if (x.dims.size() != 3 || w.dims.size() != 3 || w.dims[2] == 0)
    return node.invalid("the input " + dims_text(x.dims) + " and the weight " + dims_text(w.dims));
  context.set_output(1, x.dtype, {x.dims[0], x.dims[1], w.dims[2] < 0 ? -1 : w.dims[2] - 1});
  return {};
}

class CausalConv final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.causal_conv"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto &x = context.inputs[0].dims, &w = context.inputs[1].dims;
    lines_ = x[0] * x[1];
    channels_ = x[1];
    length_ = x[2];
    taps_ = w[2];
    silu_ = context.node.text("activation", "none") != "none";
    const auto dims_are = [&](std::size_t i, std::vector<std::int64_t> dims) {
      return !has(context.inputs, i) || context.inputs[i].dims == dims;
    };
    if (!dims_are(1, {channels_, 1, taps_}) || !dims_are(2, {channels_}) || !dims_are(3, {x[0], channels_, taps_ - 1})) {
      return context.node.invalid("weight, bias or past_state do not fit the input " + dims_text(x));
    }
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    call.pool->parallel_for(lines_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) line<T>(call, i);
    });
  }
  template <typename T>
  void line(const KernelCall& call, std::int64_t i) const {
    const auto given = [&](std::size_t input) { return call.inputs.size() > input && call.inputs[input].present(); };
    const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + i * length_;
    const T* w = reinterpret_cast<const T*>(call.inputs[1].data) + i % channels_ * taps_;
    const T* past = given(3) ? reinterpret_cast<const T*>(call.inputs[3].data) + i * (taps_ - 1) : nullptr;
    const T bias = given(2) ? reinterpret_cast<const T*>(call.inputs[2].data)[i % channels_] : T(0);
    const auto at = [&](std::int64_t t) { return t >= 0 ? x[t] : past != nullptr ? past[taps_ - 1 + t] : T(0); };
    if (call.outputs.size() > 1 && call.outputs[1].present()) {
      T* present = reinterpret_cast<T*>(call.outputs[1].data) + i * (taps_ - 1);
      for (std::int64_t t = 0; t + 1 < taps_; ++t) present[t] = at(length_ - taps_ + 1 + t);
    }
    T* y = reinterpret_cast<T*>(call.outputs[0].data) + i * length_;
    for (std::int64_t t = 0; t < length_; ++t) {
      T sum = bias;
      for (std::int64_t k = 0; k < taps_; ++k) sum += w[k] * at(t - taps_ + 1 + k);
      y[t] = silu_ ? sum / (T(1) + std::exp(-sum)) : sum;
    }
  }
  std::int64_t lines_ = 0, channels_ = 0, length_ = 0, taps_ = 1;
  bool silu_ = false;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "LinearAttention", .since = 27, .infer = infer_linear_attention, .create = create<LinearAttention>},
    {.name = "CausalConvWithState", .since = 27, .infer = infer_causal_conv, .create = create<CausalConv>},
};

}  // namespace

std::span<const OpSpec> linear_attention_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
