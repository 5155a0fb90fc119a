// ScatterElements (Scatter), ScatterND, TensorScatter. Updates are applied in order on one thread: with doubled indices the last one
// stands, and reductions always add up in the same order.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/binary_loops.h"
#include "runtime/ops/strided_copy.h"

namespace forebay::ops {
namespace {

// How an update meets what is there: null replaces it.
Status read_reduction(const NodeView& node, DType dtype, BinaryFunction* function, bool* replaces) {
  const std::string_view text = node.text("reduction", "none");
  *replaces = text == "none";
  if (*replaces) return {};
  FloatBinary op = FloatBinary::add;
  if (text == "mul") op = FloatBinary::mul;
  else if (text == "min") op = FloatBinary::min;
  else if (text == "max") op = FloatBinary::max;
  else if (text != "add") return node.invalid("reduction '" + std::string(text) + "' is none of none, add, mul, min, max");
  function->loops = arithmetic_loops(op, loop_dtype(dtype));
  function->a = function->b = function->out = dtype;
  if (function->loops.vv == nullptr) return node.unsupported("no reduction for dtype " + std::string(dtype_name(dtype)));
  return {};
}

void copy_input(const KernelCall& call, int bytes) {
  const auto size = static_cast<std::size_t>(call.inputs[0].shape.elements() * bytes);
  if (size > 0 && call.outputs[0].data != call.inputs[0].data) std::memcpy(call.outputs[0].data, call.inputs[0].data, size);
}

Status infer_scatter_elements(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 3, 3));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, kIndices));
  FB_TRY(same_dtype(ctx, 0, 2));
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  const TypeShape& data = ctx.input(0);
  const TypeShape& indices = ctx.input(1);
  const TypeShape& updates = ctx.input(2);
  if (!data.has_rank || !indices.has_rank) return {};
  if (data.dims.size() != indices.dims.size()) return ctx.node().invalid("data and indices differ in rank");
  if (updates.known() && indices.known() && updates.dims != indices.dims) return ctx.node().invalid("indices and updates differ in shape");
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(data.dims.size())));
  for (std::size_t d = 0; d < data.dims.size(); ++d) {
    if (static_cast<int>(d) != axis && data.dims[d] >= 0 && indices.dims[d] > data.dims[d]) {
      return ctx.node().invalid("indices are longer than data on axis " + std::to_string(d));
    }
  }
  return {};
}

class ScatterElementsKernel final : public NamedKernel {
 public:
  ScatterElementsKernel(DType dtype, const BinaryFunction& reduce, bool replaces)
      : NamedKernel("cpu.ScatterElements." + std::string(dtype_name(dtype))),
        bytes_(element_bytes(dtype)),
        reduce_(reduce),
        replaces_(replaces) {}

  Status prepare(const PrepareContext& context) override { return axis_.prepare(context); }

  Status run(const KernelCall& call) override {
    const IndexReader indices(call.inputs[1]);
    const Shape& shape = call.inputs[1].shape;
    FB_TRY(axis_.check(call));
    copy_input(call, bytes_);
    for (std::int64_t i = 0; i < shape.elements(); ++i) {
      std::byte* to = call.outputs[0].data + axis_.offset(indices, shape, i) * bytes_;
      const std::byte* from = call.inputs[2].data + i * bytes_;
      if (replaces_) {
        std::memcpy(to, from, static_cast<std::size_t>(bytes_));
      } else {
        apply_binary(reduce_, to, 1, from, 1, to, 1);
      }
    }
    return {};
  }

 private:
  int bytes_;
  BinaryFunction reduce_;
  bool replaces_;
  ElementsAxis axis_;
};

Status infer_scatter_nd(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 3, 3));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, dtypes(DType::i64)));
  FB_TRY(same_dtype(ctx, 0, 2));
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  const TypeShape& data = ctx.input(0);
  const TypeShape& indices = ctx.input(1);
  const TypeShape& updates = ctx.input(2);
  if (!data.known() || !indices.known() || !updates.known()) return {};
  if (indices.dims.empty() || indices.dims.back() > static_cast<std::int64_t>(data.dims.size())) {
    return ctx.node().invalid("indices name more axes than data has");
  }
  std::vector<std::int64_t> wanted(indices.dims.begin(), indices.dims.end() - 1);
  wanted.insert(wanted.end(), data.dims.begin() + indices.dims.back(), data.dims.end());
  if (wanted != updates.dims) return ctx.node().invalid("updates do not have the shape that data and indices ask for");
  return {};
}

class ScatterNdKernel final : public NamedKernel {
 public:
  ScatterNdKernel(DType dtype, const BinaryFunction& reduce, bool replaces)
      : NamedKernel("cpu.ScatterND." + std::string(dtype_name(dtype))),
        bytes_(element_bytes(dtype)),
        reduce_(reduce),
        replaces_(replaces) {}

  Status prepare(const PrepareContext& context) override {
    dims_ = context.inputs[0].dims;
    const auto& indices = context.inputs[1].dims;
    strides_ = dense_strides(dims_);
    depth_ = indices.back();
    inner_ = tuples_ = 1;
    for (std::size_t d = static_cast<std::size_t>(depth_); d < dims_.size(); ++d) inner_ *= dims_[d];
    for (std::size_t d = 0; d + 1 < indices.size(); ++d) tuples_ *= indices[d];
    label_ = node_label(context.node);
    return {};
  }

  Status run(const KernelCall& call) override {
    const IndexReader indices(call.inputs[1]);
    for (std::int64_t i = 0; i < tuples_ * depth_; ++i) {
      const std::int64_t dim = dims_[static_cast<std::size_t>(i % depth_)];
      if (indices[i] < -dim || indices[i] >= dim) return index_error(label_, i, indices[i], dim);
    }
    copy_input(call, bytes_);
    if (inner_ == 0) return {};
    for (std::int64_t tuple = 0; tuple < tuples_; ++tuple) {
      std::int64_t offset = 0;
      for (std::int64_t k = 0; k < depth_; ++k) {
        offset += indices.at(tuple * depth_ + k, dims_[static_cast<std::size_t>(k)]) * strides_[static_cast<std::size_t>(k)];
      }
      std::byte* to = call.outputs[0].data + offset * bytes_;
      const std::byte* from = call.inputs[2].data + tuple * inner_ * bytes_;
      if (replaces_) {
        std::memcpy(to, from, static_cast<std::size_t>(inner_ * bytes_));
      } else {
        apply_binary(reduce_, to, 1, from, 1, to, inner_);
      }
    }
    return {};
  }

 private:
  int bytes_;
  BinaryFunction reduce_;
  bool replaces_;
  std::vector<std::int64_t> dims_;
  std::array<std::int64_t, kMaxRank> strides_{};
  std::int64_t depth_ = 0, inner_ = 1, tuples_ = 0;
  std::string label_;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create_scatter(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  BinaryFunction reduce;
  bool replaces = true;
  FB_TRY(read_reduction(node, inputs[0].dtype, &reduce, &replaces));
  return std::unique_ptr<Kernel>(std::make_unique<K>(inputs[0].dtype, reduce, replaces));
}

// TensorScatter: a cache [batch, ..., sequence, ...] takes an update at a position of its own for each batch.
Status infer_tensor_scatter(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 3));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(same_dtype(ctx, 0, 1));
  FB_TRY(allow_input(ctx, 2, dtypes(DType::i64)));
  const std::string_view mode = ctx.node().text("mode", "linear");
  if (mode != "linear" && mode != "circular") return ctx.node().invalid("mode is neither linear nor circular");
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  const TypeShape& cache = ctx.input(0);
  const TypeShape& update = ctx.input(1);
  if (!cache.has_rank || !update.has_rank) return {};
  if (cache.dims.size() != update.dims.size()) return ctx.node().invalid("cache and update differ in rank");
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", -2), static_cast<int>(cache.dims.size())));
  if (axis == 0) return ctx.node().invalid("axis 0 is the batch");
  for (std::size_t d = 0; d < cache.dims.size(); ++d) {
    const std::int64_t a = cache.dims[d], b = update.dims[d];
    if (a < 0 || b < 0 || (static_cast<int>(d) == axis ? b <= a : a == b)) continue;
    return ctx.node().invalid("cache and update do not fit on axis " + std::to_string(d));
  }
  const TypeShape& at = ctx.input(2);
  if (at.known() && cache.dims[0] >= 0 && (at.dims.size() != 1 || at.dims[0] != cache.dims[0])) {
    return ctx.node().invalid("write_indices are not one for each batch");
  }
  return {};
}

class TensorScatterKernel final : public NamedKernel {
 public:
  explicit TensorScatterKernel(int bytes) : NamedKernel("cpu.TensorScatter." + std::to_string(bytes)), bytes_(bytes) {}

  Status prepare(const PrepareContext& context) override {
    const auto& cache = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", -2), static_cast<int>(cache.size())));
    const auto at = static_cast<std::size_t>(axis);
    batch_ = cache[0];
    outer_ = 1;
    row_bytes_ = bytes_;
    for (std::size_t d = 1; d < at; ++d) outer_ *= cache[d];
    for (std::size_t d = at + 1; d < cache.size(); ++d) row_bytes_ *= cache[d];
    length_ = cache[at];
    updates_ = context.inputs[1].dims[at];
    circular_ = context.node.text("mode", "linear") == "circular";
    label_ = node_label(context.node);
    return {};
  }

  Status run(const KernelCall& call) override {
    const bool positions = call.inputs.size() > 2 && call.inputs[2].present();
    const IndexReader at(positions ? call.inputs[2] : ConstTensorView());
    for (std::int64_t b = 0; positions && b < batch_; ++b) {
      if (at[b] < 0 || (circular_ ? at[b] >= length_ : at[b] > length_ - updates_)) return index_error(label_, b, at[b], length_);
    }
    copy_input(call, bytes_);
    if (row_bytes_ == 0) return {};
    for (std::int64_t unit = 0; unit < batch_ * outer_; ++unit) {
      const std::int64_t first = positions ? at[unit / outer_] : 0;
      for (std::int64_t i = 0; i < updates_; ++i) {
        const std::int64_t row = circular_ ? (first + i) % length_ : first + i;
        std::memcpy(call.outputs[0].data + (unit * length_ + row) * row_bytes_, call.inputs[1].data + (unit * updates_ + i) * row_bytes_,
                    static_cast<std::size_t>(row_bytes_));
      }
    }
    return {};
  }

 private:
  int bytes_;
  bool circular_ = false;
  std::int64_t batch_ = 0, outer_ = 1, length_ = 0, updates_ = 0, row_bytes_ = 0;
  std::string label_;
};

Result<std::unique_ptr<Kernel>> create_tensor_scatter(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<TensorScatterKernel>(element_bytes(inputs[0].dtype)));
}

// Input 0 may be overwritten: kernels copy it first unless it is the output already, and read nothing of it later.
constexpr OpSpec kSpecs[] = {
    {.name = "Scatter", .since = 9, .until = 10, .infer = infer_scatter_elements, .create = create_scatter<ScatterElementsKernel>},
    {.name = "ScatterElements", .since = 11, .infer = infer_scatter_elements, .create = create_scatter<ScatterElementsKernel>},
    {.name = "ScatterND", .since = 11, .infer = infer_scatter_nd, .create = create_scatter<ScatterNdKernel>},
    {.name = "TensorScatter", .since = 24, .infer = infer_tensor_scatter, .create = create_tensor_scatter},
};

}  // namespace

std::span<const OpSpec> scatter_ops() { return kSpecs; }

}  // namespace forebay::ops
