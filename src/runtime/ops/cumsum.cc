// CumSum (and CumProd): along one axis, in order; f16 and bf16 add up in float.
#include <memory>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

Status infer_cumulative(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers));
  FB_TRY(need_input(ctx, 1, kIndices));
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  if (const HostTensor* axis = ctx.value(1); axis != nullptr) {
    if (axis->shape().elements() != 1) return ctx.node().invalid("axis is not a scalar");
    if (ctx.input(0).has_rank) {
      FB_ASSIGN([[maybe_unused]] const int normal,
                normalize_axis(ctx.node(), host_integers(*axis)[0], static_cast<int>(ctx.input(0).dims.size())));
    }
  }
  return {};
}

class CumulativeKernel final : public NamedKernel {
 public:
  CumulativeKernel(std::string id, DType dtype, bool product) : NamedKernel(std::move(id)), dtype_(dtype), product_(product) {}

  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, host_integers(*context.values[1])[0], static_cast<int>(dims.size())));
    lines_ = inner_ = 1;
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (static_cast<int>(d) != axis) lines_ *= dims[d];
      if (static_cast<int>(d) > axis) inner_ *= dims[d];
    }
    dim_ = dims[static_cast<std::size_t>(axis)];
    exclusive_ = context.node.integer("exclusive", 0) != 0;
    reverse_ = context.node.integer("reverse", 0) != 0;
    return {};
  }

  Status run(const KernelCall& call) override {
    if (dim_ == 0) return {};
    call.pool->parallel_for(lines_, std::max<std::int64_t>(1, 4096 / dim_), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t line = begin; line < end; ++line) {
        const std::int64_t base = (line / inner_) * dim_ * inner_ + line % inner_;
        if (is_half(dtype_)) {
          half_line(call, base);
        } else {
          dispatch_number(dtype_, [&](auto tag) { this->line<typename decltype(tag)::type>(call, base); });
        }
      }
    });
    return {};
  }

 private:
  std::int64_t place(std::int64_t base, std::int64_t k) const { return base + (reverse_ ? dim_ - 1 - k : k) * inner_; }

  template <typename T>
  T step(T sum, T value) const {
    if constexpr (std::is_floating_point_v<T>) {
      return product_ ? sum * value : sum + value;
    } else {
      const auto a = static_cast<Wrapping<T>>(sum), b = static_cast<Wrapping<T>>(value);
      return static_cast<T>(product_ ? a * b : a + b);
    }
  }
  template <typename T>
  void line(const KernelCall& call, std::int64_t base) const {
    const T* in = reinterpret_cast<const T*>(call.inputs[0].data);
    T* out = reinterpret_cast<T*>(call.outputs[0].data);
    T sum = product_ ? T{1} : T{0};
    for (std::int64_t k = 0; k < dim_; ++k) {
      const std::int64_t at = place(base, k);
      const T value = in[at];
      if (exclusive_) out[at] = sum;
      sum = step(sum, value);
      if (!exclusive_) out[at] = sum;
    }
  }
  void half_line(const KernelCall& call, std::int64_t base) const {
    float sum = product_ ? 1.0f : 0.0f;
    for (std::int64_t k = 0; k < dim_; ++k) {
      const std::int64_t at = place(base, k) * 2;
      float value = 0;
      load_half(dtype_, call.inputs[0].data + at, &value, 1);
      if (exclusive_) store_half(dtype_, &sum, call.outputs[0].data + at, 1);
      sum = step(sum, value);
      if (!exclusive_) store_half(dtype_, &sum, call.outputs[0].data + at, 1);
    }
  }

  DType dtype_;
  bool product_, exclusive_ = false, reverse_ = false;
  std::int64_t lines_ = 0, inner_ = 1, dim_ = 0;
};

template <bool kProduct>
Result<std::unique_ptr<Kernel>> create_cumulative(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  std::string id = "cpu." + std::string(node.op()) + "." + std::string(dtype_name(inputs[0].dtype));
  return std::unique_ptr<Kernel>(std::make_unique<CumulativeKernel>(std::move(id), inputs[0].dtype, kProduct));
}

constexpr OpSpec kSpecs[] = {
    {.name = "CumSum", .since = 11, .host_inputs = 1u << 1, .infer = infer_cumulative, .create = create_cumulative<false>},
    {.name = "CumProd", .since = 26, .host_inputs = 1u << 1, .infer = infer_cumulative, .create = create_cumulative<true>},
};

}  // namespace

std::span<const OpSpec> cumsum_ops() { return kSpecs; }

}  // namespace forebay::ops
