// Search along an axis: ArgMax, ArgMin, TopK, Hardmax. NaN counts as larger than every number.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/half.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

// f(Tag<T>, load): `load` turns a stored T into something that compares.
template <typename F>
void with_values(DType dtype, F&& f) {
  if (dtype == DType::f16) {
    f(Tag<std::uint16_t>{}, [](std::uint16_t x) { return f16_to_f32(x); });
  } else if (dtype == DType::bf16) {
    f(Tag<std::uint16_t>{}, [](std::uint16_t x) { return bf16_to_f32(x); });
  } else {
    dispatch_number(dtype, [&](auto tag) { f(tag, [](typename decltype(tag)::type x) { return x; }); });
  }
}

template <typename V>
bool above(V a, V b) {
  if constexpr (std::is_floating_point_v<V>) {
    if (a != a) return b == b;
  }
  return a > b;
}

struct Lines {  // of the axis, in a dense tensor
  std::int64_t outer = 1, dim = 0, inner = 1;
  void plan(std::span<const std::int64_t> dims, int axis) {
    outer = inner = 1;
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (static_cast<int>(d) < axis) outer *= dims[d];
      if (static_cast<int>(d) > axis) inner *= dims[d];
    }
    dim = dims[static_cast<std::size_t>(axis)];
  }
  std::int64_t count() const { return outer * inner; }
};

// ---- ArgMax, ArgMin -------------------------------------------------------------------------------------------------------------

Status infer_arg(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kNumbers));
  const TypeShape& data = ctx.input(0);
  if (!data.has_rank) {
    ctx.set_output_unranked(0, DType::i64);
    return {};
  }
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(data.dims.size())));
  std::vector<std::int64_t> dims = data.dims;
  const std::int64_t dim = dims[static_cast<std::size_t>(axis)];
  if (dim == 0) return ctx.node().invalid("the axis is empty");
  if (ctx.node().integer("keepdims", 1) != 0) {
    dims[static_cast<std::size_t>(axis)] = 1;
  } else {
    dims.erase(dims.begin() + axis);
  }
  ctx.set_output(0, DType::i64, std::move(dims));
  return {};
}

class ArgKernel final : public NamedKernel {
 public:
  ArgKernel(std::string id, DType dtype, bool largest) : NamedKernel(std::move(id)), dtype_(dtype), largest_(largest) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0), static_cast<int>(dims.size())));
    lines_.plan(dims, axis);
    last_ = context.node.integer("select_last_index", 0) != 0;
    return {};
  }
  Status run(const KernelCall& call) override {
    auto* out = reinterpret_cast<std::int64_t*>(call.outputs[0].data);
    with_values(dtype_, [&](auto tag, auto load) {
      using T = typename decltype(tag)::type;
      const T* in = reinterpret_cast<const T*>(call.inputs[0].data);
      call.pool->parallel_for(lines_.count(), std::max<std::int64_t>(1, 16384 / lines_.dim), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t line = begin; line < end; ++line) out[line] = find(in, line, load);
      });
    });
    return {};
  }

 private:
  template <typename T, typename Load>
  std::int64_t find(const T* in, std::int64_t line, Load load) const {
    const T* x = in + (line / lines_.inner) * lines_.dim * lines_.inner + line % lines_.inner;
    std::int64_t best = 0;
    auto value = load(x[0]);
    for (std::int64_t k = 1; k < lines_.dim; ++k) {
      const auto candidate = load(x[k * lines_.inner]);
      const bool better = largest_ ? above(candidate, value) : above(value, candidate);
      const bool worse = largest_ ? above(value, candidate) : above(candidate, value);
      if (better || (last_ && !worse)) {
        best = k;
        value = candidate;
      }
    }
    return best;
  }
  DType dtype_;
  bool largest_, last_ = false;
  Lines lines_;
};

// ---- TopK -----------------------------------------------------------------------------------------------------------------------

Status infer_topk(InferContext& ctx) {
  const bool attribute = ctx.node().version() < 10;
  FB_TRY(need_arity(ctx, attribute ? 1 : 2, attribute ? 1 : 2));
  FB_TRY(need_input(ctx, 0, kNumbers));
  const TypeShape& data = ctx.input(0);
  std::int64_t k = attribute ? ctx.node().integer("k", -1) : -1;
  if (attribute && k < 0) return ctx.node().invalid("k is missing or negative");
  if (!attribute) {
    FB_TRY(need_input(ctx, 1, dtypes(DType::i64)));
    bool known = false;
    const std::vector<std::int64_t> values = ctx.integers(1, &known);
    if (known && values.size() != 1) return ctx.node().invalid("K is not one number");
    if (known && values[0] < 0) return ctx.node().invalid("K is negative");
    if (known) k = values[0];
  }
  if (!data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    ctx.set_output_unranked(1, DType::i64);
    return {};
  }
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", -1), static_cast<int>(data.dims.size())));
  std::vector<std::int64_t> dims = data.dims;
  std::int64_t& dim = dims[static_cast<std::size_t>(axis)];
  if (dim >= 0 && k > dim) return ctx.node().invalid("K is " + std::to_string(k) + ", the axis has " + std::to_string(dim));
  dim = k;
  ctx.set_output(0, data.dtype, dims);
  ctx.set_output(1, DType::i64, std::move(dims));
  return {};
}

class TopKKernel final : public NamedKernel {
 public:
  explicit TopKKernel(DType dtype) : NamedKernel("cpu.TopK." + std::string(dtype_name(dtype))), dtype_(dtype) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", -1), static_cast<int>(dims.size())));
    lines_.plan(dims, axis);
    k_ = context.outputs[0].dims[static_cast<std::size_t>(axis)];
    largest_ = context.node.integer("largest", 1) != 0;
    slots_ = context.pool->threads();
    return {};
  }
  // One list of indices a slot; a slot is a fixed share of the lines.
  std::uint64_t workspace_bytes() const override { return static_cast<std::uint64_t>(slots_) * static_cast<std::uint64_t>(lines_.dim) * 8; }

  Status run(const KernelCall& call) override {
    if (k_ == 0) return {};
    with_values(dtype_, [&](auto tag, auto load) {
      using T = typename decltype(tag)::type;
      call.pool->parallel_for(slots_, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t slot = begin; slot < end; ++slot) {
          auto* order = reinterpret_cast<std::int64_t*>(call.workspace) + slot * lines_.dim;
          const std::int64_t count = lines_.count();
          for (std::int64_t line = count * slot / slots_; line < count * (slot + 1) / slots_; ++line) {
            search<T>(call, line, order, load);
          }
        }
      });
    });
    return {};
  }

 private:
  template <typename T, typename Load>
  void search(const KernelCall& call, std::int64_t line, std::int64_t* order, Load load) const {
    const std::int64_t inner = lines_.inner, at = line % inner;
    const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + (line / inner) * lines_.dim * inner + at;
    for (std::int64_t i = 0; i < lines_.dim; ++i) order[i] = i;
    std::partial_sort(order, order + k_, order + lines_.dim, [&](std::int64_t a, std::int64_t b) {
      const auto u = load(x[a * inner]), v = load(x[b * inner]);
      if (above(u, v)) return largest_;
      if (above(v, u)) return !largest_;
      return a < b;
    });
    const std::int64_t to = (line / inner) * k_ * inner + at;
    for (std::int64_t i = 0; i < k_; ++i) {
      if (call.outputs[0].data != nullptr) reinterpret_cast<T*>(call.outputs[0].data)[to + i * inner] = x[order[i] * inner];
      if (call.outputs.size() > 1 && call.outputs[1].data != nullptr) {
        reinterpret_cast<std::int64_t*>(call.outputs[1].data)[to + i * inner] = order[i];
      }
    }
  }
  DType dtype_;
  bool largest_ = true;
  std::int64_t k_ = 0, slots_ = 1;
  Lines lines_;
};

// ---- Hardmax --------------------------------------------------------------------------------------------------------------------

// From opset 13 along one axis; before, over everything from the axis on.
Status infer_hardmax(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kFloats));
  const TypeShape& data = ctx.input(0);
  if (data.has_rank) {
    const std::int64_t standard = ctx.node().version() < 13 ? 1 : -1;
    FB_ASSIGN([[maybe_unused]] const int axis,
              normalize_axis(ctx.node(), ctx.node().integer("axis", standard), static_cast<int>(data.dims.size())));
  }
  set_like(ctx, 0, 0, data.dtype);
  return {};
}

class HardmaxKernel final : public NamedKernel {
 public:
  explicit HardmaxKernel(DType dtype) : NamedKernel("cpu.Hardmax." + std::string(dtype_name(dtype))), dtype_(dtype) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    const bool flat = context.node.version() < 13;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", flat ? 1 : -1), static_cast<int>(dims.size())));
    lines_.plan(dims, axis);
    if (flat) {
      lines_.dim *= lines_.inner;
      lines_.inner = 1;
    }
    return {};
  }
  Status run(const KernelCall& call) override {
    if (lines_.dim == 0) return {};
    alignas(8) std::byte one[8] = {};
    if (dtype_ == DType::f64) {
      *reinterpret_cast<double*>(one) = 1.0;
    } else if (is_half(dtype_)) {
      const float value = 1.0f;
      store_half(dtype_, &value, one, 1);
    } else {
      *reinterpret_cast<float*>(one) = 1.0f;
    }
    with_values(dtype_, [&](auto tag, auto load) {
      using T = typename decltype(tag)::type;
      const T* in = reinterpret_cast<const T*>(call.inputs[0].data);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      for (std::int64_t line = 0; line < lines_.count(); ++line) {
        const std::int64_t base = (line / lines_.inner) * lines_.dim * lines_.inner + line % lines_.inner;
        std::int64_t best = 0;
        for (std::int64_t k = 1; k < lines_.dim; ++k) {
          if (above(load(in[base + k * lines_.inner]), load(in[base + best * lines_.inner]))) best = k;
        }
        for (std::int64_t k = 0; k < lines_.dim; ++k) out[base + k * lines_.inner] = k == best ? *reinterpret_cast<const T*>(one) : T{0};
      }
    });
    return {};
  }

 private:
  DType dtype_;
  Lines lines_;
};

using Types = std::span<const TypeShape>;
using Made = Result<std::unique_ptr<Kernel>>;
template <bool kLargest>
Made create_arg(const NodeView& node, Types in, Types) {
  std::string id = "cpu." + std::string(node.op()) + "." + std::string(dtype_name(in[0].dtype));
  return std::unique_ptr<Kernel>(std::make_unique<ArgKernel>(std::move(id), in[0].dtype, kLargest));
}
Made create_topk(const NodeView&, Types in, Types) { return std::unique_ptr<Kernel>(std::make_unique<TopKKernel>(in[0].dtype)); }
Made create_hardmax(const NodeView&, Types in, Types) { return std::unique_ptr<Kernel>(std::make_unique<HardmaxKernel>(in[0].dtype)); }

constexpr OpSpec kSpecs[] = {
    {.name = "ArgMax", .infer = infer_arg, .create = create_arg<true>},
    {.name = "ArgMin", .infer = infer_arg, .create = create_arg<false>},
    {.name = "TopK", .until = 9, .infer = infer_topk, .create = create_topk},
    {.name = "TopK", .since = 10, .host_inputs = 1u << 1, .infer = infer_topk, .create = create_topk},
    {.name = "Hardmax", .infer = infer_hardmax, .create = create_hardmax},
};

}  // namespace

std::span<const OpSpec> arg_topk_ops() { return kSpecs; }

}  // namespace forebay::ops
