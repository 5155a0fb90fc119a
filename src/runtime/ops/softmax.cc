// Softmax and LogSoftmax. Until opset 12 all axes from `axis` on are one; from 13 one axis is normalised.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/softmax_rows.h"
#include "runtime/ops/vector_loops.h"

namespace forebay::ops {
namespace {

constexpr std::int64_t kColumns = 64;  // columns handled together when the axis is not the last

template <typename T>
constexpr bool kDouble = sizeof(T) == 8;

template <typename T>
void exp_in_place(T* values, std::int64_t count) {
  vector_loops().unary(FloatUnary::exp, kDouble<T>)(values, nullptr, values, count, {});
}

template <typename T>
void row(const T* x, std::int64_t count, bool log, T* y) {
  T most = -std::numeric_limits<T>::infinity();
  for (std::int64_t i = 0; i < count; ++i) most = x[i] > most ? x[i] : most;
  for (std::int64_t i = 0; i < count; ++i) y[i] = x[i] - most;
  exp_in_place(y, count);
  const T sum = lane_sum<T>(count, [y](std::int64_t i) { return y[i]; });
  if (log) {
    const T shift = std::log(sum);
    for (std::int64_t i = 0; i < count; ++i) y[i] = (x[i] - most) - shift;
  } else {
    const T scale = T(1) / sum;
    for (std::int64_t i = 0; i < count; ++i) y[i] *= scale;
  }
}

// `axis` rows of `count` neighbouring columns, rows `stride` apart.
template <typename T>
void columns(const T* x, std::int64_t axis, std::int64_t stride, std::int64_t count, bool log, T* y) {
  T most[kColumns], sum[kColumns];
  std::fill(most, most + count, -std::numeric_limits<T>::infinity());
  std::fill(sum, sum + count, T(0));
  for (std::int64_t a = 0; a < axis; ++a) {
    for (std::int64_t j = 0; j < count; ++j) most[j] = x[a * stride + j] > most[j] ? x[a * stride + j] : most[j];
  }
  for (std::int64_t a = 0; a < axis; ++a) {
    T* out = y + a * stride;
    for (std::int64_t j = 0; j < count; ++j) out[j] = x[a * stride + j] - most[j];
    exp_in_place(out, count);
    for (std::int64_t j = 0; j < count; ++j) sum[j] += out[j];
  }
  for (std::int64_t j = 0; j < count; ++j) sum[j] = log ? std::log(sum[j]) : T(1) / sum[j];
  for (std::int64_t a = 0; a < axis; ++a) {
    T* out = y + a * stride;
    for (std::int64_t j = 0; j < count; ++j) out[j] = log ? (x[a * stride + j] - most[j]) - sum[j] : out[j] * sum[j];
  }
}

class SoftmaxKernel final : public FloatKernel {
 public:
  explicit SoftmaxKernel(bool log) : log_(log) {}
  std::string_view id() const override { return "cpu.softmax"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    const bool old = context.node.version() < 13;
    if (x.rank() == 0) {
      outer_ = axis_ = inner_ = 1;
      return {};
    }
    const std::int64_t asked = context.node.integer("axis", old ? 1 : -1);
    if (old && asked == x.rank()) {  // everything is batch
      outer_ = x.elements();
      axis_ = inner_ = 1;
      return {};
    }
    FB_ASSIGN(const int axis, normalize_axis(context.node, asked, x.rank()));
    outer_ = x.elements(0, axis);
    axis_ = old ? x.elements(axis, x.rank()) : x[axis];
    inner_ = old ? 1 : x.elements(axis + 1, x.rank());
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const auto* x = reinterpret_cast<const T*>(call.inputs[0].data);
    auto* y = reinterpret_cast<T*>(call.outputs[0].data);
    if (axis_ == 0 || outer_ == 0 || inner_ == 0) return;
    const std::int64_t pieces = inner_ == 1 ? 1 : (inner_ + kColumns - 1) / kColumns;
    const std::int64_t grain = std::max<std::int64_t>(1, 4096 / (axis_ * std::min(inner_, kColumns)));
    call.pool->parallel_for(outer_ * pieces, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t first = i % pieces * kColumns, at = i / pieces * axis_ * inner_ + first;
        if (inner_ == 1) {
          row(x + at, axis_, log_, y + at);
        } else {
          columns(x + at, axis_, inner_, std::min(kColumns, inner_ - first), log_, y + at);
        }
      }
    });
  }
  bool log_;
  std::int64_t outer_ = 0, axis_ = 0, inner_ = 1;
};

Status infer_softmax(InferContext& context) {
  const TypeShape& x = context.input(0);
  if (!x.present()) return context.node().invalid("an input is needed");
  FB_TRY(require_float(context.node(), x.dtype, "the input"));
  if (x.has_rank && !x.dims.empty()) {
    const bool old = context.node().version() < 13;
    const auto rank = static_cast<int>(x.dims.size());
    const std::int64_t asked = context.node().integer("axis", old ? 1 : -1);
    if (!(old && asked == rank)) FB_TRY(normalize_axis(context.node(), asked, rank).status());
  }
  same_as_input(context, 0, 0);
  return {};
}

Result<std::unique_ptr<Kernel>> create_softmax(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<SoftmaxKernel>(node.op() == "LogSoftmax"));
}

}  // namespace

void softmax_row(const float* x, std::int64_t count, float* y) { row(x, count, false, y); }
void softmax_row(const double* x, std::int64_t count, double* y) { row(x, count, false, y); }

std::span<const OpSpec> softmax_ops() {
  static const OpSpec specs[] = {
      {"", "Softmax", 1, 0x7fffffff, kOpNone, 0, infer_softmax, nullptr, create_softmax},
      {"", "LogSoftmax", 1, 0x7fffffff, kOpNone, 0, infer_softmax, nullptr, create_softmax},
  };
  return specs;
}

}  // namespace forebay::ops
