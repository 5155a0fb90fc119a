// CenterCropPad (18): the middle of a tensor, cut or surrounded by zeros axis by axis. And Det: determinants.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/strided_copy.h"

namespace forebay::ops {
namespace {

Status infer_center_crop(InferContext& ctx) {
  const NodeView& node = ctx.node();
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  bool known = false;
  const std::vector<std::int64_t> shape = ctx.integers(1, &known);
  if (!data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  FB_ASSIGN(std::vector<int> axes, normalize_axes(node, node.integers("axes"), static_cast<int>(data.dims.size())));
  if (!node.has("axes")) {
    for (std::size_t i = 0; i < data.dims.size(); ++i) axes.push_back(static_cast<int>(i));
  }
  if (known && shape.size() != axes.size())
    return node.invalid("shape has " + std::to_string(shape.size()) + " entries for " + std::to_string(axes.size()) + " axes");
  std::vector<std::int64_t> dims = data.dims;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (known && shape[i] < 0) return node.invalid("shape " + dims_text(shape));
    dims[static_cast<std::size_t>(axes[i])] = known ? shape[i] : -1;
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

class CenterCropKernel final : public NamedKernel {
 public:
  explicit CenterCropKernel(int bytes) : NamedKernel("cpu.CenterCropPad." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto &in = context.inputs[0].dims, &out = context.outputs[0].dims;
    const auto in_strides = dense_strides(in), out_strides = dense_strides(out);
    std::vector<std::int64_t> dims;
    std::int64_t from = 0, to = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      dims.push_back(std::min(in[i], out[i]));
      from += std::max<std::int64_t>(0, in[i] - out[i]) / 2 * in_strides[i];
      to += std::max<std::int64_t>(0, out[i] - in[i]) / 2 * out_strides[i];
    }
    copy_.plan(bytes_, dims, std::span(in_strides).first(dims.size()), std::span(out_strides).first(dims.size()), from, to);
    return {};
  }
  Status run(const KernelCall& call) override {
    const auto size = static_cast<std::size_t>(call.outputs[0].shape.elements() * bytes_);
    if (size > 0) std::memset(call.outputs[0].data, 0, size);
    copy_.run(call.inputs[0].data, call.outputs[0].data, *call.pool);
    return {};
  }

 private:
  int bytes_;
  StridedCopy copy_;
};

Result<std::unique_ptr<Kernel>> create_center_crop(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<CenterCropKernel>(element_bytes(inputs[0].dtype)));
}

Status infer_det(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kFloats));
  const TypeShape& x = ctx.input(0);
  if (!x.has_rank) {
    ctx.set_output_unranked(0, x.dtype);
    return {};
  }
  const std::size_t rank = x.dims.size();
  if (rank < 2 || (x.dims[rank - 1] >= 0 && x.dims[rank - 2] >= 0 && x.dims[rank - 1] != x.dims[rank - 2])) {
    return ctx.node().invalid("the input " + dims_text(x.dims) + " holds no square matrices");
  }
  ctx.set_output(0, x.dtype, {x.dims.begin(), x.dims.end() - 2});
  return {};
}

// Elimination with the largest pivot of each column; in double, for the sake of what nearly cancels.
class DetKernel final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.det"; }

 protected:
  Status setup(const PrepareContext& context) override {
    size_ = context.inputs[0].dims.back();
    set_scratch(float_bytes(size_ * size_, sizeof(double)));
    return {};
  }
  Status compute(const KernelCall& call) override {
    auto* matrix = reinterpret_cast<double*>(call.workspace);
    for (std::int64_t i = 0; i < call.outputs[0].shape.elements(); ++i) {
      const std::int64_t from = i * size_ * size_;
      if (call.inputs[0].dtype == DType::f64) {
        std::copy_n(reinterpret_cast<const double*>(call.inputs[0].data) + from, size_ * size_, matrix);
        reinterpret_cast<double*>(call.outputs[0].data)[i] = determinant(matrix);
      } else {
        std::copy_n(reinterpret_cast<const float*>(call.inputs[0].data) + from, size_ * size_, matrix);
        reinterpret_cast<float*>(call.outputs[0].data)[i] = static_cast<float>(determinant(matrix));
      }
    }
    return {};
  }

 private:
  double determinant(double* m) const {
    double product = 1;
    for (std::int64_t column = 0; column < size_; ++column) {
      std::int64_t pivot = column;
      for (std::int64_t row = column + 1; row < size_; ++row) {
        if (std::abs(m[row * size_ + column]) > std::abs(m[pivot * size_ + column])) pivot = row;
      }
      if (m[pivot * size_ + column] == 0) return 0;
      if (pivot != column) {
        std::swap_ranges(m + pivot * size_, m + (pivot + 1) * size_, m + column * size_);
        product = -product;
      }
      product *= m[column * size_ + column];
      for (std::int64_t row = column + 1; row < size_; ++row) {
        const double factor = m[row * size_ + column] / m[column * size_ + column];
        for (std::int64_t k = column; k < size_; ++k) m[row * size_ + k] -= factor * m[column * size_ + k];
      }
    }
    return product;
  }
  std::int64_t size_ = 0;
};

Result<std::unique_ptr<Kernel>> create_det(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<DetKernel>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "CenterCropPad", .since = 18, .host_inputs = 1u << 1, .infer = infer_center_crop, .create = create_center_crop},
    {.name = "Det", .since = 11, .infer = infer_det, .create = create_det},
};

}  // namespace

std::span<const OpSpec> center_crop_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
