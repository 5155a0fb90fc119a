// forebay.RotateHalf, which the builder makes of rotary positions written out: with x = [a, b]
// along the last axis, y = [a cos - b sin, b cos + a sin]. cos and sin broadcast to x; their last
// axis is that of x, or half of it and then serves both halves. With `pairs`, a and b are the even
// and the odd elements.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

Status infer_rotate(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  FB_TRY(require_float(node, x.dtype, "the input"));
  for (std::size_t i = 1; i < 3; ++i) {
    const TypeShape& table = context.input(i);
    FB_TRY(require_float(node, table.dtype, "cos or sin"));
    if ((table.dtype == DType::f64) != (x.dtype == DType::f64))
      return node.unsupported("f64 mixed with narrower types");
    if (table.has_rank && x.has_rank && (table.dims.empty() || table.dims.size() > x.dims.size())) {
      return node.invalid("cos or sin " + dims_text(table.dims) + " does not broadcast to " +
                          dims_text(x.dims));
    }
  }
  if (x.has_rank && (x.dims.empty() || (x.dims.back() >= 0 && x.dims.back() % 2 != 0)))
    return node.invalid("the last axis of " + dims_text(x.dims) + " has no halves");
  same_as_input(context, 0, 0);
  return {};
}

class RotateHalf final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.rotate_half"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    pairs_ = context.node.integer("pairs", 0) != 0;
    width_ = x[x.rank() - 1];
    rows_ = x.elements(0, x.rank() - 1);
    for (std::size_t i = 0; i < 2; ++i) {
      Table& table = tables_[i];
      const Shape own = context.inputs[i + 1].shape();
      const int lead = x.rank() - own.rank();
      table.width = own[own.rank() - 1];
      if (table.width != width_ && table.width * 2 != width_) return misfit(context.node, own, x);
      std::int64_t stride = table.width;
      table.strides = x;
      for (int axis = x.rank() - 2; axis >= 0; --axis) {
        const std::int64_t size = axis >= lead ? own[axis - lead] : 1;
        if (size != 1 && size != x[axis]) return misfit(context.node, own, x);
        table.strides[axis] = size == 1 ? 0 : stride;
        stride *= size;
      }
    }
    dims_ = x;
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  struct Table {
    std::int64_t width = 0;
    Shape strides;  // over the rows of x
  };

  static Status misfit(const NodeView& node, const Shape& table, const Shape& x) {
    return node.invalid("cos or sin " + table.to_string() + " does not fit " + x.to_string());
  }

  std::int64_t offset(const Table& table, std::int64_t row) const {
    std::int64_t at = 0;
    for (int axis = dims_.rank() - 2; axis >= 0; --axis) {
      at += row % dims_[axis] * table.strides[axis];
      row /= dims_[axis];
    }
    return at;
  }

  template <typename T>
  void go(const KernelCall& call) const {
    const std::int64_t grain = std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, width_));
    call.pool->parallel_for(rows_, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + row * width_;
        const T* cos = reinterpret_cast<const T*>(call.inputs[1].data) + offset(tables_[0], row);
        const T* sin = reinterpret_cast<const T*>(call.inputs[2].data) + offset(tables_[1], row);
        T* y = reinterpret_cast<T*>(call.outputs[0].data) + row * width_;
        pairs_ ? turn_pairs(x, cos, sin, y) : turn_halves(x, cos, sin, y);
      }
    });
  }

  template <typename T>
  void turn_halves(const T* a, const T* cos, const T* sin, T* y) const {
    const std::int64_t half = width_ / 2;
    const T *b = a + half, *cos_b = tables_[0].width == width_ ? cos + half : cos,
            *sin_b = tables_[1].width == width_ ? sin + half : sin;
    T* z = y + half;
    for (std::int64_t j = 0; j < half; ++j) y[j] = a[j] * cos[j] - b[j] * sin[j];
    for (std::int64_t j = 0; j < half; ++j) z[j] = b[j] * cos_b[j] + a[j] * sin_b[j];
  }

  template <typename T>
  void turn_pairs(const T* x, const T* cos, const T* sin, T* y) const {
    const std::int64_t c = tables_[0].width == width_ ? 2 : 1,
                       s = tables_[1].width == width_ ? 2 : 1;
    for (std::int64_t j = 0; j < width_ / 2; ++j) {
      const T a = x[2 * j], b = x[2 * j + 1];
      y[2 * j] = a * cos[c * j] - b * sin[s * j];
      y[2 * j + 1] = b * cos[c * j + c - 1] + a * sin[s * j + s - 1];
    }
  }

  Table tables_[2];
  Shape dims_;
  std::int64_t rows_ = 0, width_ = 0;
  bool pairs_ = false;
};

Result<std::unique_ptr<Kernel>> create_rotate(const NodeView&, std::span<const TypeShape>,
                                              std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<RotateHalf>());
}

}  // namespace

std::span<const OpSpec> rotate_half_ops() {
  static const OpSpec specs[] = {
      {"forebay", "RotateHalf", 1, 0x7fffffff, kOpNone, 0, infer_rotate, nullptr, create_rotate}};
  return specs;
}

}  // namespace forebay::ops
