// The parts of a mixture of experts, which the builder writes for com.microsoft.MoE: which experts a row goes to (forebay.ExpertRoute), the
// product with the matrices of those experts (forebay.ExpertLinear), a gated activation (forebay.SwiGlu), the weighted sum
// (forebay.ExpertCombine). The matrices [experts, out, in] come in slabs of whole experts; a row's products do not depend on where they are
// cut.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

Status need_floats(const InferContext& context, std::initializer_list<std::size_t> which) {
  for (const std::size_t i : which) {
    const TypeShape& input = context.input(i);
    if (!input.present()) return context.node().invalid("input " + std::to_string(i) + " is missing");
    if (!narrow_float(input.dtype))
      return context.node().unsupported("input " + std::to_string(i) + " has type " + std::string(dtype_name(input.dtype)));
  }
  return {};
}

// ---- ExpertRoute: scores [rows, experts] and perhaps weights of all experts to indices and weights [rows, k]
// ---------------------------------------------------------

Status infer_route(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 1, 2));
  FB_TRY(need_floats(context, {0}));
  const TypeShape &scores = context.input(0), &given = context.input(1);
  if (given.present()) FB_TRY(need_floats(context, {1}));
  if (given.known() && scores.known() && given.dims != scores.dims)
    return node.invalid("the experts' weights " + dims_text(given.dims) + " do not fit the scores " + dims_text(scores.dims));
  const std::int64_t k = node.integer("k", 1);
  if (scores.has_rank && scores.dims.size() != 2) return node.invalid("scores " + dims_text(scores.dims) + " must have 2 dimensions");
  if (k < 1 || (scores.has_rank && scores.dims[1] >= 0 && k > scores.dims[1]))
    return node.invalid("k " + std::to_string(k) + " of " + dims_text(scores.dims) + " experts");
  const std::int64_t rows = scores.has_rank ? scores.dims[0] : -1;
  context.set_output(0, DType::i32, {rows, k});
  context.set_output(1, DType::f32, {rows, k});
  return {};
}

class ExpertRoute final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.expert_route"; }

 protected:
  Status setup(const PrepareContext& context) override {
    rows_ = context.inputs[0].dims[0];
    experts_ = context.inputs[0].dims[1];
    k_ = context.outputs[0].dims[1];
    normalize_ = context.node.integer("normalize", 0) != 0;
    return {};
  }
  // The k largest, the first of equals first; not-a-numbers last. Weights are a softmax over all experts, divided by their sum when
  // normalised; or those given.
  Status compute(const KernelCall& call) override {
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float* scores = reinterpret_cast<const float*>(call.inputs[0].data) + row * experts_;
      auto* chosen = reinterpret_cast<std::int32_t*>(call.outputs[0].data) + row * k_;
      float* weights = reinterpret_cast<float*>(call.outputs[1].data) + row * k_;
      for (std::int64_t j = 0; j < k_; ++j) chosen[j] = next(scores, chosen, j);
      float all = 0, sum = 0;
      if (call.inputs.size() > 1 && call.inputs[1].present()) {
        const float* given = reinterpret_cast<const float*>(call.inputs[1].data) + row * experts_;
        for (std::int64_t j = 0; j < k_; ++j) sum += weights[j] = given[chosen[j]];
      } else {
        for (std::int64_t e = 0; e < experts_; ++e) all += std::exp(scores[e] - scores[chosen[0]]);
        for (std::int64_t j = 0; j < k_; ++j) sum += weights[j] = std::exp(scores[chosen[j]] - scores[chosen[0]]) / all;
      }
      for (std::int64_t j = 0; normalize_ && j < k_; ++j) weights[j] /= sum;
    }
    return {};
  }

 private:
  std::int32_t next(const float* scores, const std::int32_t* chosen, std::int64_t count) const {
    std::int64_t best = -1;
    for (std::int64_t e = 0; e < experts_; ++e) {
      if (std::find(chosen, chosen + count, static_cast<std::int32_t>(e)) != chosen + count) continue;
      if (best < 0 || scores[e] > scores[best] || (std::isnan(scores[best]) && !std::isnan(scores[e]))) best = e;
    }
    return static_cast<std::int32_t>(best);
  }
  std::int64_t rows_ = 0, experts_ = 0, k_ = 1;
  bool normalize_ = false;
};

// ---- ExpertLinear: x [rows, in] or [rows, k, in], W [experts, out, in], indices [rows, k], bias [experts, out] to [rows, k, out] --------

Status infer_linear(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 3, 4));
  FB_TRY(need_floats(context, {0, 1}));
  const TypeShape &x = context.input(0), &w = context.input(1), &indices = context.input(2), &bias = context.input(3);
  if (indices.dtype != DType::i32) return node.invalid("indices must be i32");
  if (bias.present()) FB_TRY(need_floats(context, {3}));
  if (w.has_rank && w.dims.size() != 3) return node.invalid("experts' weights " + dims_text(w.dims) + " must have 3 dimensions");
  const bool fits =
      !w.has_rank || !bias.has_rank || (bias.dims.size() == 2 && (w.dims[1] < 0 || bias.dims[1] < 0 || bias.dims[1] == w.dims[1]));
  if (!fits) return node.invalid("experts' bias " + dims_text(bias.dims) + " does not fit the weights " + dims_text(w.dims));
  if (x.has_rank && w.has_rank && (x.dims.empty() || (x.dims.back() >= 0 && w.dims[2] >= 0 && x.dims.back() != w.dims[2]))) {
    return node.invalid("experts' weights " + dims_text(w.dims) + " do not fit rows of " + dims_text(x.dims) +
                        "; they are [experts, out, in]");
  }
  const bool known = indices.has_rank && indices.dims.size() == 2;
  context.set_output(0, x.dtype, {known ? indices.dims[0] : -1, known ? indices.dims[1] : -1, w.has_rank ? w.dims[1] : -1});
  return {};
}

plan::Consumption consume_linear(const NodeView&, std::uint32_t input, std::span<const TypeShape>) {
  return input == 1 ? plan::Consumption::by_output : plan::Consumption::whole;
}

class ExpertLinear final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.expert_linear"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto &x = context.inputs[0].dims, &w = context.inputs[1].dims, &y = context.outputs[0].dims;
    experts_ = w[0];
    out_ = w[1];
    in_ = w[2];
    pairs_ = y[0] * y[1];
    const std::int64_t rows = in_ > 0 ? context.inputs[0].shape().elements() / in_ : pairs_;
    if (rows != pairs_ && rows != y[0])
      return context.node.invalid("rows " + dims_text(x) + " and indices " + dims_text(context.inputs[2].dims) + " differ in number");
    per_row_ = rows == pairs_ ? 1 : y[1];
    const bool biased = context.inputs.size() > 3 && context.inputs[3].present();
    if (biased && context.inputs[3].dims != std::vector<std::int64_t>{experts_, out_})
      return context.node.invalid("experts' bias " + dims_text(context.inputs[3].dims));
    return {};
  }
  Status compute(const KernelCall& call) override {
    const auto* indices = reinterpret_cast<const std::int32_t*>(call.inputs[2].data);
    const auto *x = reinterpret_cast<const float*>(call.inputs[0].data), *w = reinterpret_cast<const float*>(call.inputs[1].data);
    const bool biased = call.inputs.size() > 3 && call.inputs[3].present();
    const auto* bias = biased ? reinterpret_cast<const float*>(call.inputs[3].data) : nullptr;
    const std::int64_t first = call.row_begin, last = first + call.inputs[1].shape[0];
    if (call.slab == 0) std::fill_n(reinterpret_cast<float*>(call.outputs[0].data), pairs_ * out_, 0.0f);
    for (std::int64_t pair = 0; pair < pairs_; ++pair) {
      const std::int64_t expert = indices[pair];
      if (expert < first || expert >= last) continue;  // of another slab, or of none
      const float* row = x + pair / per_row_ * in_;
      const float* matrix = w + (expert - first) * out_ * in_;
      float* y = reinterpret_cast<float*>(call.outputs[0].data) + pair * out_;
      call.pool->parallel_for(out_, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, in_)),
                              [&](std::int64_t begin, std::int64_t end) {
                                for (std::int64_t o = begin; o < end; ++o) {
                                  const float* column = matrix + o * in_;
                                  y[o] = lane_sum<float>(in_, [row, column](std::int64_t i) { return row[i] * column[i]; }) +
                                         (bias != nullptr ? bias[expert * out_ + o] : 0.0f);
                                }
                              });
    }
    return {};
  }

 private:
  std::int64_t experts_ = 0, out_ = 0, in_ = 0, pairs_ = 0, per_row_ = 1;
};

// ---- SwiGlu: gate * sigmoid(alpha * gate) * (linear + beta), both clamped by `limit`
// ---------------------------------------------------------

// form 0: gate and linear are two inputs; 1: they alternate in the rows of one; 2: one after the other in its rows.
Status infer_swiglu(InferContext& context) {
  const NodeView& node = context.node();
  const std::int64_t form = node.integer("form", 0);
  FB_TRY(need_arity(context, form == 0 ? 2 : 1, form == 0 ? 2 : 1));
  FB_TRY(need_floats(context, {0}));
  const TypeShape& x = context.input(0);
  if (form == 0) FB_TRY(same_dtype(context, 0, 1));
  if (!x.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (form == 0 && context.input(1).known() && x.known() && context.input(1).dims != x.dims)
    return node.invalid("gate and linear differ in shape");
  std::vector<std::int64_t> dims = x.dims;
  if (form != 0 && (dims.empty() || dims.back() % 2 == 1)) return node.invalid("rows " + dims_text(dims) + " of pairs");
  if (form != 0 && dims.back() > 0) dims.back() /= 2;
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

class SwiGlu final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.swiglu"; }

 protected:
  Status setup(const PrepareContext& context) override {
    form_ = context.node.integer("form", 0);
    alpha_ = context.node.real("alpha", 1.0f);
    beta_ = context.node.real("beta", 0.0f);
    limit_ = context.node.real("limit", std::numeric_limits<float>::infinity());
    width_ = std::max<std::int64_t>(1, context.outputs[0].dims.empty() ? 1 : context.outputs[0].dims.back());
    return {};
  }
  Status compute(const KernelCall& call) override {
    const auto* x = reinterpret_cast<const float*>(call.inputs[0].data);
    const auto* second = form_ == 0 ? reinterpret_cast<const float*>(call.inputs[1].data) : nullptr;
    auto* y = reinterpret_cast<float*>(call.outputs[0].data);
    call.pool->parallel_for(call.outputs[0].shape.elements(), 2048, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = i / width_ * 2 * width_, at = i % width_;
        const float gate = std::min(form_ == 0 ? x[i] : form_ == 1 ? x[row + 2 * at] : x[row + at], limit_);
        const float linear = std::clamp(form_ == 0 ? second[i] : form_ == 1 ? x[row + 2 * at + 1] : x[row + width_ + at], -limit_, limit_);
        y[i] = gate / (1.0f + std::exp(-alpha_ * gate)) * (linear + beta_);
      }
    });
    return {};
  }

 private:
  std::int64_t form_ = 0, width_ = 1;
  float alpha_ = 1, beta_ = 0, limit_ = 0;
};

// ---- ExpertCombine: y [rows, k, out], weights [rows, k], and what gives the shape of the sum
// -------------------------------------------------

Status infer_combine(InferContext& context) {
  FB_TRY(need_arity(context, 3, 3));
  FB_TRY(need_floats(context, {0, 1, 2}));
  same_as_input(context, 0, 2);
  return {};
}

class ExpertCombine final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.expert_combine"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto &y = context.inputs[0].dims, &weights = context.inputs[1].dims, &sum = context.outputs[0].dims;
    const bool fits = y.size() == 3 && weights.size() == 2 && weights[0] == y[0] && weights[1] == y[1] && !sum.empty() &&
                      sum.back() == y[2] && context.outputs[0].shape().elements() == y[0] * y[2];
    if (!fits) return context.node.invalid("the experts' results " + dims_text(y) + " do not fit the input " + dims_text(sum));
    rows_ = y[0];
    k_ = y[1];
    out_ = y[2];
    return {};
  }
  Status compute(const KernelCall& call) override {
    call.pool->parallel_for(rows_, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const auto* y = reinterpret_cast<const float*>(call.inputs[0].data) + row * k_ * out_;
        const auto* weights = reinterpret_cast<const float*>(call.inputs[1].data) + row * k_;
        auto* sum = reinterpret_cast<float*>(call.outputs[0].data) + row * out_;
        std::fill_n(sum, out_, 0.0f);
        for (std::int64_t j = 0; j < k_; ++j) {
          for (std::int64_t o = 0; o < out_; ++o) sum[o] += weights[j] * y[j * out_ + o];
        }
      }
    });
    return {};
  }

 private:
  std::int64_t rows_ = 0, k_ = 1, out_ = 0;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

constexpr OpSpec kSpecs[] = {
    {.domain = "forebay", .name = "ExpertRoute", .infer = infer_route, .create = create<ExpertRoute>},
    {.domain = "forebay", .name = "ExpertLinear", .infer = infer_linear, .consume = consume_linear, .create = create<ExpertLinear>},
    {.domain = "forebay", .name = "SwiGlu", .infer = infer_swiglu, .create = create<SwiGlu>},
    {.domain = "forebay", .name = "ExpertCombine", .infer = infer_combine, .create = create<ExpertCombine>},
};

}  // namespace

std::span<const OpSpec> expert_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
