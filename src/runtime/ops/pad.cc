// Pad: constant, reflect, edge, wrap; negative pads crop. Where each output index comes from is worked out once for each axis.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/pad_places.h"
#include "runtime/ops/strided_copy.h"
#include "runtime/ops/subbyte.h"

namespace forebay::ops {
namespace {

// begin and end of every axis from the list that covers `axes` (empty: all).
Result<std::vector<std::int64_t>> spread_pads(const NodeView& node, std::span<const std::int64_t> pads, const std::vector<int>& axes,
                                              std::size_t rank) {
  if (pads.size() != 2 * axes.size()) {
    return node.invalid("pads has " + std::to_string(pads.size()) + " entries where " + std::to_string(2 * axes.size()) + " belong");
  }
  std::vector<std::int64_t> full(2 * rank, 0);
  for (std::size_t i = 0; i < axes.size(); ++i) {
    full[static_cast<std::size_t>(axes[i])] = pads[i];
    full[static_cast<std::size_t>(axes[i]) + rank] = pads[i + axes.size()];
  }
  return full;
}

Result<std::vector<int>> padded_axes(const NodeView& node, const std::vector<std::int64_t>* given, std::size_t rank) {
  if (given != nullptr) return normalize_axes(node, *given, static_cast<int>(rank));
  std::vector<int> axes(rank);
  for (std::size_t i = 0; i < rank; ++i) axes[i] = static_cast<int>(i);
  return axes;
}

Status infer_pad(InferContext& ctx) {
  const NodeView& node = ctx.node();
  FB_TRY(need_arity(ctx, 1, 4));
  FB_TRY(need_input(ctx, 0, kAny));
  const TypeShape& data = ctx.input(0);
  const std::string_view mode = node.text("mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap") {
    return node.invalid("mode '" + std::string(mode) + "' is none of constant, reflect, edge, wrap");
  }
  if (ctx.input(2).present()) FB_TRY(same_dtype(ctx, 0, 2));
  if (!data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  bool pads_known = true, axes_known = true;
  std::vector<std::int64_t> pads, axes;
  if (node.version() < 11) {
    const auto attribute = node.integers("pads");
    pads.assign(attribute.begin(), attribute.end());
  } else {
    FB_TRY(need_input(ctx, 1, kIndices));
    pads = ctx.integers(1, &pads_known);
    if (ctx.input(3).present()) {
      FB_TRY(need_input(ctx, 3, kIndices));
      axes = ctx.integers(3, &axes_known);
    }
  }
  std::vector<std::int64_t> dims = data.dims;
  if (!pads_known || !axes_known) {
    ctx.set_output(0, data.dtype, std::vector<std::int64_t>(dims.size(), -1));
    return {};
  }
  FB_ASSIGN(const std::vector<int> normal, padded_axes(node, ctx.input(3).present() ? &axes : nullptr, dims.size()));
  FB_ASSIGN(const std::vector<std::int64_t> full, spread_pads(node, pads, normal, dims.size()));
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const std::int64_t begin = full[i], end = full[i + dims.size()];
    if (dims[i] < 0) {
      continue;
    }
    std::int64_t made = 0;
    if (__builtin_add_overflow(dims[i], begin, &made) || __builtin_add_overflow(made, end, &made) || made < 0) {
      return node.invalid("pads " + std::to_string(begin) + " and " + std::to_string(end) + " do not fit axis " + std::to_string(i) +
                          " of size " + std::to_string(dims[i]));
    }
    if (mode != "constant" && data.dims[i] == 0 && made > 0) return node.invalid("an empty axis cannot be padded by " + std::string(mode));
    dims[i] = made;
  }
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (data.dims[i] < 0 && (full[i] != 0 || full[i + dims.size()] != 0)) dims[i] = -1;
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

enum class Mode : std::uint8_t { constant, reflect, edge, wrap };

// Index in the input of output index `at` (pads taken off), or -1 for the constant.
std::int64_t source_index(Mode mode, std::int64_t at, std::int64_t dim) {
  if (at >= 0 && at < dim) return at;
  switch (mode) {
    case Mode::constant: return -1;
    case Mode::edge: return at < 0 ? 0 : dim - 1;
    case Mode::wrap: {
      const std::int64_t r = at % dim;
      return r < 0 ? r + dim : r;
    }
    case Mode::reflect: {
      if (dim == 1) return 0;
      const std::int64_t period = 2 * (dim - 1);
      std::int64_t r = at % period;
      if (r < 0) r += period;
      return r < dim ? r : period - r;
    }
  }
  return -1;
}

Result<std::vector<std::int64_t>> full_pads(const PrepareContext& context) {
  const NodeView& node = context.node;
  const std::size_t rank = context.inputs[0].dims.size();
  std::vector<std::int64_t> pads;
  if (node.version() < 11) {
    const auto attribute = node.integers("pads");
    pads.assign(attribute.begin(), attribute.end());
  } else {
    pads = host_integers(*context.values[1]);
  }
  std::vector<std::int64_t> axes;
  const bool has_axes = context.values.size() > 3 && context.values[3] != nullptr && node.version() >= 11;
  if (has_axes) axes = host_integers(*context.values[3]);
  FB_ASSIGN(const std::vector<int> normal, padded_axes(node, has_axes ? &axes : nullptr, rank));
  return spread_pads(node, pads, normal, rank);
}

class PadKernel final : public NamedKernel {
 public:
  explicit PadKernel(DType dtype) : NamedKernel("cpu.Pad." + std::to_string(element_bytes(dtype))), dtype_(dtype) {}

  Status prepare(const PrepareContext& context) override {
    const auto& in = context.inputs[0].dims;
    const auto& out = context.outputs[0].dims;
    FB_ASSIGN(const std::vector<std::int64_t> full, full_pads(context));
    FB_ASSIGN(maps_, pad_places(context));
    attribute_value_ = context.node.version() < 11 ? context.node.real("value", 0.0f) : 0.0f;
    strides_ = dense_strides(in);
    total_ = 1;
    for (const std::int64_t dim : out) total_ *= dim;
    row_ = out.empty() ? 1 : out.back();
    find_middle(in, full);
    return {};
  }

  Status run(const KernelCall& call) override {
    if (total_ == 0) return {};
    alignas(8) std::byte value[8] = {};
    fill_value(call, value);
    dispatch_bytes(element_bytes(dtype_), [&](auto tag) {
      using T = typename decltype(tag)::type;
      T constant{};
      std::memcpy(&constant, value, sizeof(T));
      const T* in = reinterpret_cast<const T*>(call.inputs[0].data);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      call.pool->parallel_for(total_ / row_, std::max<std::int64_t>(1, 16384 / row_), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) fill_row(in, out + row * row_, row, constant);
      });
    });
    return {};
  }

 private:
  // [first, last) of a row is copied in one piece.
  void find_middle(std::span<const std::int64_t> in, std::span<const std::int64_t> pads) {
    first_ = last_ = 0;
    if (in.empty()) return;
    const std::int64_t begin = pads[in.size() - 1];
    first_ = std::clamp<std::int64_t>(begin, 0, row_);
    last_ = std::clamp<std::int64_t>(begin + in.back(), first_, row_);
  }

  void fill_value(const KernelCall& call, std::byte* value) const {
    if (call.inputs.size() > 2 && call.inputs[2].present()) {
      std::memcpy(value, call.inputs[2].data, static_cast<std::size_t>(element_bytes(dtype_)));
    } else if (dtype_ == DType::f32) {
      std::memcpy(value, &attribute_value_, sizeof(float));
    } else if (dtype_ == DType::f64) {
      const double wide = attribute_value_;
      std::memcpy(value, &wide, sizeof wide);
    } else if (is_half(dtype_)) {
      store_half(dtype_, &attribute_value_, value, 1);
    }
  }

  template <typename T>
  void fill_row(const T* in, T* out, std::int64_t row, T constant) const {
    if (maps_.empty()) {
      *out = *in;
      return;
    }
    std::int64_t rest = row, offset = 0;
    for (std::size_t axis = maps_.size() - 1; axis-- > 0;) {
      const auto size = static_cast<std::int64_t>(maps_[axis].size());
      const std::int64_t from = maps_[axis][static_cast<std::size_t>(rest % size)];
      rest /= size;
      if (from < 0) {
        std::fill_n(out, row_, constant);
        return;
      }
      offset += from * strides_[axis];
    }
    const std::vector<std::int64_t>& map = maps_.back();
    const T* source = in + offset;
    const auto one = [&](std::int64_t i) {
      const std::int64_t from = map[static_cast<std::size_t>(i)];
      return from < 0 ? constant : source[from];
    };
    for (std::int64_t i = 0; i < first_; ++i) out[i] = one(i);
    if (last_ > first_) {
      std::memcpy(out + first_, source + map[static_cast<std::size_t>(first_)], static_cast<std::size_t>(last_ - first_) * sizeof(T));
    }
    for (std::int64_t i = last_; i < row_; ++i) out[i] = one(i);
  }

  DType dtype_;
  float attribute_value_ = 0;
  std::vector<std::vector<std::int64_t>> maps_;
  std::array<std::int64_t, kMaxRank> strides_{};
  std::int64_t total_ = 0, row_ = 1, first_ = 0, last_ = 0;
};

Result<std::unique_ptr<Kernel>> create_pad(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<PadKernel>(inputs[0].dtype));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Pad", .since = 2, .until = 10, .infer = infer_pad, .create = with_subbyte<create_pad>},
    {.name = "Pad", .since = 11, .host_inputs = (1u << 1) | (1u << 3), .infer = infer_pad, .create = with_subbyte<create_pad>},
};

}  // namespace

Result<std::vector<std::vector<std::int64_t>>> pad_places(const PrepareContext& context) {
  const auto& in = context.inputs[0].dims;
  FB_ASSIGN(const std::vector<std::int64_t> full, full_pads(context));
  const std::string_view text = context.node.text("mode", "constant");
  const Mode mode = text == "reflect" ? Mode::reflect : text == "edge" ? Mode::edge : text == "wrap" ? Mode::wrap : Mode::constant;
  std::vector<std::vector<std::int64_t>> places(in.size());
  for (std::size_t axis = 0; axis < in.size(); ++axis) {
    for (std::int64_t i = 0; i < context.outputs[0].dims[axis]; ++i) places[axis].push_back(source_index(mode, i - full[axis], in[axis]));
  }
  return places;
}

std::span<const OpSpec> pad_ops() { return kSpecs; }

}  // namespace forebay::ops
