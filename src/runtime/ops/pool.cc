// Pools: MaxPool (indices, dilations, ceil_mode), AveragePool, LpPool, the global ones and MaxUnpool. Plain loops over planes, interior rows fast.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/pool_plane.h"
#include "runtime/ops/window.h"

namespace forebay::ops {
namespace {

bool pooled_dtype(const NodeView& node, DType dtype) {
  return kernel_float(dtype) || (node.op() == "MaxPool" && (dtype == DType::i8 || dtype == DType::u8));
}

Status infer_pool(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  if (!x.present()) return node.invalid("an input is needed");
  if (!pooled_dtype(node, x.dtype)) return node.unsupported("input of type " + std::string(dtype_name(x.dtype)));
  const bool indices = context.output_count() > 1 && node.op() == "MaxPool";
  if (!x.has_rank) {
    context.set_output_unranked(0, x.dtype);
    if (indices) context.set_output_unranked(1, DType::i64);
    return {};
  }
  if (x.dims.size() < 3) return node.invalid("the input " + dims_text(x.dims) + " has no spatial axis");
  FB_ASSIGN(const WindowSpec spec, window_spec(node, x.dims.size() - 2, {}));
  std::vector<std::int64_t> dims = {x.dims[0], x.dims[1]};
  for (std::size_t i = 0; i < spec.kernel.size(); ++i) {
    const std::int64_t size = window_output(spec, i, x.dims[i + 2]);
    if (size == 0 && x.dims[i + 2] > 0) return node.invalid("the window is larger than the padded input " + dims_text(x.dims));
    dims.push_back(size);
  }
  if (indices) context.set_output(1, DType::i64, dims);
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

Status infer_global_pool(InferContext& context) {
  const TypeShape& x = context.input(0);
  if (!x.present()) return context.node().invalid("an input is needed");
  FB_TRY(require_float(context.node(), x.dtype, "the input"));
  if (!x.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (x.dims.size() < 2) return context.node().invalid("the input " + dims_text(x.dims) + " has no channels");
  std::vector<std::int64_t> dims(x.dims.size(), 1);
  dims[0] = x.dims[0];
  dims[1] = x.dims[1];
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

class PoolKernel final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.pool"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const auto& x = context.inputs[0].dims;
    FB_ASSIGN(const WindowSpec spec, window_spec(node, x.size() - 2, {}));
    FB_ASSIGN(task_.window, resolve_window(node, spec, std::span(x).subspan(2)));
    task_.count_pads = node.integer("count_include_pad", 0) != 0;
    task_.column_major = node.integer("storage_order", 0) != 0;
    task_.p = static_cast<double>(node.integer("p", 2));
    task_.kind = node.op() == "MaxPool" ? PoolKind::max : node.op() == "AveragePool" ? PoolKind::average : PoolKind::lp;
    planes_ = x[0] * x[1];
    return {};
  }
  Status compute(const KernelCall& call) override {
    const bool indices = call.outputs.size() > 1 && call.outputs[1].present();
    const std::int64_t in = task_.window.in_size(), out = task_.window.out_size();
    const std::int64_t grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, out * task_.window.taps()));
    call.pool->parallel_for(planes_, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        PoolPlane plane;
        plane.dtype = call.inputs[0].dtype;
        const std::int64_t size = dtype_bits(plane.dtype) / 8;
        plane.in = call.inputs[0].data + i * in * size;
        plane.out = call.outputs[0].data + i * out * size;
        plane.indices = indices ? reinterpret_cast<std::int64_t*>(call.outputs[1].data) + i * out : nullptr;
        plane.index_base = i * in;
        pool_plane(task_, plane);
      }
    });
    return {};
  }

 private:
  PoolTask task_;
  std::int64_t planes_ = 0;
};

template <typename T>
T global_value(PoolKind kind, const T* x, std::int64_t count, double p) {
  if (kind == PoolKind::max) {
    T most = count > 0 ? x[0] : -std::numeric_limits<T>::infinity();
    for (std::int64_t i = 1; i < count; ++i) most = x[i] > most || std::isnan(x[i]) ? x[i] : most;
    return most;
  }
  // Eight sums, then pairs: fixed for any machine, and precise enough for whole images in f32.
  double sums[8] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    sums[i & 7] += kind == PoolKind::average ? value : p == 2 ? value * value : std::pow(std::abs(value), p);
  }
  const double sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  if (kind == PoolKind::average) return static_cast<T>(sum / static_cast<double>(count));
  return static_cast<T>(p == 2 ? std::sqrt(sum) : std::pow(sum, 1.0 / p));
}

class GlobalPool final : public FloatKernel {
 public:
  explicit GlobalPool(PoolKind kind) : kind_(kind) {}
  std::string_view id() const override { return "cpu.global_pool"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    planes_ = x.elements(0, 2);
    size_ = x.elements(2, x.rank());
    p_ = static_cast<double>(context.node.integer("p", 2));
    return {};
  }
  Status compute(const KernelCall& call) override {
    const std::int64_t grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, size_));
    call.pool->parallel_for(planes_, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if (call.inputs[0].dtype == DType::f64) {
          const auto* x = reinterpret_cast<const double*>(call.inputs[0].data) + i * size_;
          reinterpret_cast<double*>(call.outputs[0].data)[i] = global_value(kind_, x, size_, p_);
        } else {
          const auto* x = reinterpret_cast<const float*>(call.inputs[0].data) + i * size_;
          reinterpret_cast<float*>(call.outputs[0].data)[i] = global_value(kind_, x, size_, p_);
        }
      }
    });
    return {};
  }

 private:
  PoolKind kind_;
  std::int64_t planes_ = 0, size_ = 0;
  double p_ = 2;
};

Result<std::unique_ptr<Kernel>> create_pool(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<PoolKernel>());
}

Result<std::unique_ptr<Kernel>> create_global_pool(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  const PoolKind kind = node.op() == "GlobalMaxPool" ? PoolKind::max : node.op() == "GlobalAveragePool" ? PoolKind::average : PoolKind::lp;
  return std::unique_ptr<Kernel>(std::make_unique<GlobalPool>(kind));
}

Status infer_unpool(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  if (!x.present() || context.input(1).dtype != DType::i64) return node.invalid("an input and i64 indices are needed");
  FB_TRY(require_float(node, x.dtype, "the input"));
  if (!x.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (x.dims.size() < 3) return node.invalid("the input " + dims_text(x.dims) + " has no spatial axis");
  if (context.input(2).present()) {
    bool known = false;
    std::vector<std::int64_t> dims = context.integers(2, &known);
    if (!known) dims.assign(x.dims.size(), -1);
    if (dims.size() != x.dims.size()) return node.invalid("output_shape has " + std::to_string(dims.size()) + " entries");
    context.set_output(0, x.dtype, std::move(dims));
    return {};
  }
  FB_ASSIGN(const WindowSpec spec, window_spec(node, x.dims.size() - 2, {}));
  std::vector<std::int64_t> dims = {x.dims[0], x.dims[1]};
  for (std::size_t i = 0; i < spec.kernel.size(); ++i) {
    const std::int64_t in = x.dims[i + 2];
    dims.push_back(in < 0 ? -1 : (in - 1) * spec.strides[i] + spec.kernel[i] - spec.pads_begin[i] - spec.pads_end[i]);
  }
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

// Indices are those of the pooled tensor; with output_shape they are read in its own unpooled shape and then placed in the larger one.
class Unpool final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.unpool"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    if (context.inputs[1].dims != x) return context.node.invalid("the indices do not have the shape of the input");
    FB_ASSIGN(const WindowSpec spec, window_spec(context.node, x.size() - 2, {}));
    natural_ = {x[0], x[1]};
    for (std::size_t i = 0; i < spec.kernel.size(); ++i) {
      natural_.push_back((x[i + 2] - 1) * spec.strides[i] + spec.kernel[i] - spec.pads_begin[i] - spec.pads_end[i]);
    }
    out_ = context.outputs[0].dims;
    return {};
  }
  Status compute(const KernelCall& call) override {
    return call.inputs[0].dtype == DType::f64 ? place<double>(call) : place<float>(call);
  }

 private:
  template <typename T>
  Status place(const KernelCall& call) const {
    const auto* x = reinterpret_cast<const T*>(call.inputs[0].data);
    const auto* indices = reinterpret_cast<const std::int64_t*>(call.inputs[1].data);
    auto* y = reinterpret_cast<T*>(call.outputs[0].data);
    const std::int64_t total = call.outputs[0].shape.elements();
    std::fill(y, y + total, T(0));
    const std::int64_t limit = Shape(natural_).elements();
    for (std::int64_t i = 0; i < call.inputs[0].shape.elements(); ++i) {
      if (indices[i] < 0 || indices[i] >= limit) {
        return Status(Code::invalid_argument, "MaxUnpool: index " + std::to_string(indices[i]) + " at " + std::to_string(i) + " is outside of the output");
      }
      std::int64_t rest = indices[i], to = 0, stride = 1;
      bool inside = true;
      for (std::size_t axis = natural_.size(); axis-- > 0;) {
        const std::int64_t at = rest % natural_[axis];
        rest /= natural_[axis];
        inside = inside && at < out_[axis];
        to += at * stride;
        stride *= out_[axis];
      }
      if (inside) y[to] = x[i];
    }
    return {};
  }
  std::vector<std::int64_t> natural_, out_;
};

Result<std::unique_ptr<Kernel>> create_unpool(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<Unpool>());
}

}  // namespace

std::span<const OpSpec> pool_ops() {
  constexpr std::int32_t kAll = 0x7fffffff;
  static const OpSpec specs[] = {
      {"", "MaxPool", 1, kAll, kOpNone, 0, infer_pool, nullptr, create_pool},
      {"", "AveragePool", 1, kAll, kOpNone, 0, infer_pool, nullptr, create_pool},
      {"", "LpPool", 2, kAll, kOpNone, 0, infer_pool, nullptr, create_pool},
      {"", "GlobalMaxPool", 1, kAll, kOpNone, 0, infer_global_pool, nullptr, create_global_pool},
      {"", "GlobalAveragePool", 1, kAll, kOpNone, 0, infer_global_pool, nullptr, create_global_pool},
      {"", "GlobalLpPool", 2, kAll, kOpNone, 0, infer_global_pool, nullptr, create_global_pool},
      {"", "MaxUnpool", 9, kAll, kOpNone, 1u << 2, infer_unpool, nullptr, create_unpool},
  };
  return specs;
}

}  // namespace forebay::ops
