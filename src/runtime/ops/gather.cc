// Gather (also from slabs of a weight: each call copies the rows that lie in its slab), GatherElements, GatherND.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/families.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/strided_copy.h"
#include "runtime/ops/subbyte.h"

namespace forebay::ops {
namespace {

Status infer_gather(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(need_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  const TypeShape& indices = ctx.input(1);
  if (!data.has_rank || !indices.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(data.dims.size())));
  std::vector<std::int64_t> dims(data.dims.begin(), data.dims.begin() + axis);
  dims.insert(dims.end(), indices.dims.begin(), indices.dims.end());
  dims.insert(dims.end(), data.dims.begin() + axis + 1, data.dims.end());
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

// Bits of what one index takes; unknown dims count as one element, which never makes whole bytes of
// packed ones.
std::int64_t unit_bits(const NodeView& node, const TypeShape& data) {
  std::int64_t axis = node.integer("axis", 0), bits = dtype_bits(data.dtype);
  if (axis < 0) axis += static_cast<std::int64_t>(data.dims.size());
  for (std::size_t d = static_cast<std::size_t>(std::max<std::int64_t>(0, axis)) + 1;
       d < data.dims.size(); ++d) {
    if (data.dims[d] < 0) return dtype_bits(data.dtype);
    bits *= data.dims[d];
  }
  return bits;
}

plan::Consumption consume_gather(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input != 0 || inputs.empty() || inputs[0].dims.empty() || unit_bits(node, inputs[0]) % 8 != 0)
    return plan::Consumption::whole;
  const std::int64_t axis = node.integer("axis", 0);
  return axis == 0 || axis == -static_cast<std::int64_t>(inputs[0].dims.size()) ? plan::Consumption::row_gather : plan::Consumption::whole;
}

class GatherKernel final : public NamedKernel {
 public:
  explicit GatherKernel(int bytes) : NamedKernel("cpu.Gather." + std::to_string(bytes)), bytes_(bytes) {}

  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0), static_cast<int>(dims.size())));
    const auto at = static_cast<std::size_t>(axis);
    outer_ = inner_ = 1;
    for (std::size_t d = 0; d < at; ++d) outer_ *= dims[d];
    for (std::size_t d = at + 1; d < dims.size(); ++d) inner_ *= dims[d];
    if (const int bits = dtype_bits(context.inputs[0].dtype); bits < 8)
      inner_ = inner_ * bits / 8;  // packed rows of whole bytes
    dim_ = dims[at];
    label_ = node_label(context.node);
    return {};
  }

  Status run(const KernelCall& call) override {
    const IndexReader indices(call.inputs[1]);
    const std::int64_t count = call.inputs[1].shape.elements();
    // Every slab checks all indices: the first fails before anything is copied.
    if (call.slab == 0) FB_TRY(check_indices(label_, indices, count, dim_));
    // Rows [first, first + rows) are there; all of them unless the weight comes in slabs (then outer_ is 1).
    const bool sliced = call.slab_count > 1 || call.row_begin != 0;
    const std::int64_t first = sliced ? call.row_begin : 0;
    const std::int64_t rows = sliced ? call.inputs[0].shape[0] : dim_;
    if (inner_ == 0 || outer_ == 0) return {};
    dispatch_bytes(bytes_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* in = reinterpret_cast<const T*>(call.inputs[0].data);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      call.pool->parallel_for(outer_ * count, std::max<std::int64_t>(1, 32768 / (inner_ * bytes_)),
                              [&](std::int64_t begin, std::int64_t end) {
                                for (std::int64_t unit = begin; unit < end; ++unit) {
                                  const std::int64_t row = indices.at(unit % count, dim_) - first;
                                  if (row < 0 || row >= rows) continue;
                                  const T* from = in + ((unit / count) * rows + row) * inner_;
                                  if (inner_ == 1) {
                                    out[unit] = *from;
                                  } else {
                                    std::memcpy(out + unit * inner_, from, static_cast<std::size_t>(inner_) * sizeof(T));
                                  }
                                }
                              });
    });
    return {};
  }

 private:
  int bytes_;
  std::int64_t outer_ = 1, inner_ = 1, dim_ = 0;
  std::string label_;
};

Result<std::unique_ptr<Kernel>> create_elements_gather(const NodeView&,
                                                       std::span<const TypeShape> inputs,
                                                       std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<GatherKernel>(element_bytes(inputs[0].dtype)));
}

Result<std::unique_ptr<Kernel>> create_gather(const NodeView& node,
                                              std::span<const TypeShape> inputs,
                                              std::span<const TypeShape> outputs) {
  const bool packed_rows = dtype_bits(inputs[0].dtype) < 8 && unit_bits(node, inputs[0]) % 8 == 0;
  if (packed_rows) return std::unique_ptr<Kernel>(std::make_unique<GatherKernel>(1));
  return with_subbyte<create_elements_gather>(node, inputs, outputs);
}

Status infer_gather_elements(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  const TypeShape& indices = ctx.input(1);
  set_like(ctx, 0, 1, data.dtype);
  if (!data.has_rank || !indices.has_rank) return {};
  if (data.dims.size() != indices.dims.size()) return ctx.node().invalid("data and indices differ in rank");
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(data.dims.size())));
  for (std::size_t d = 0; d < data.dims.size(); ++d) {
    if (static_cast<int>(d) != axis && data.dims[d] >= 0 && indices.dims[d] > data.dims[d]) {
      return ctx.node().invalid("indices are longer than data on axis " + std::to_string(d));
    }
  }
  return {};
}

class GatherElementsKernel final : public NamedKernel {
 public:
  explicit GatherElementsKernel(int bytes) : NamedKernel("cpu.GatherElements." + std::to_string(bytes)), bytes_(bytes) {}

  Status prepare(const PrepareContext& context) override { return axis_.prepare(context); }

  Status run(const KernelCall& call) override {
    const IndexReader indices(call.inputs[1]);
    const Shape& shape = call.inputs[1].shape;
    FB_TRY(axis_.check(call));
    dispatch_bytes(bytes_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* in = reinterpret_cast<const T*>(call.inputs[0].data);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      call.pool->parallel_for(shape.elements(), 4096, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) out[i] = in[axis_.offset(indices, shape, i)];
      });
    });
    return {};
  }

 private:
  int bytes_;
  ElementsAxis axis_;
};

Result<std::unique_ptr<Kernel>> create_gather_elements(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<GatherElementsKernel>(element_bytes(inputs[0].dtype)));
}

Status infer_gather_nd(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, dtypes(DType::i64)));
  const TypeShape& data = ctx.input(0);
  const TypeShape& indices = ctx.input(1);
  if (!data.has_rank || !indices.has_rank || indices.dims.empty() || indices.dims.back() < 0) {
    if (indices.has_rank && indices.dims.empty()) return ctx.node().invalid("indices are a scalar");
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  const std::int64_t batch = ctx.node().integer("batch_dims", 0);
  const auto rank = static_cast<std::int64_t>(data.dims.size());
  const std::int64_t depth = indices.dims.back();
  if (batch < 0 || batch >= static_cast<std::int64_t>(indices.dims.size()) || depth < 1 || batch + depth > rank) {
    return ctx.node().invalid("batch_dims " + std::to_string(batch) + " and indices of " + std::to_string(depth) +
                              " axes do not fit rank " + std::to_string(rank));
  }
  for (std::size_t d = 0; d < static_cast<std::size_t>(batch); ++d) {
    if (data.dims[d] >= 0 && indices.dims[d] >= 0 && data.dims[d] != indices.dims[d]) {
      return ctx.node().invalid("data and indices differ on batch axis " + std::to_string(d));
    }
  }
  std::vector<std::int64_t> dims(indices.dims.begin(), indices.dims.end() - 1);
  dims.insert(dims.end(), data.dims.begin() + batch + depth, data.dims.end());
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

class GatherNdKernel final : public NamedKernel {
 public:
  explicit GatherNdKernel(int bytes) : NamedKernel("cpu.GatherND." + std::to_string(bytes)), bytes_(bytes) {}

  Status prepare(const PrepareContext& context) override {
    dims_ = context.inputs[0].dims;
    const auto& indices = context.inputs[1].dims;
    const auto batch = static_cast<std::size_t>(context.node.integer("batch_dims", 0));
    depth_ = static_cast<std::size_t>(indices.back());
    strides_ = dense_strides(dims_);
    first_ = batch;
    batches_ = batch_stride_ = inner_ = 1;
    for (std::size_t d = 0; d < dims_.size(); ++d) {
      if (d < batch) batches_ *= dims_[d];
      if (d >= batch) batch_stride_ *= dims_[d];
      if (d >= batch + depth_) inner_ *= dims_[d];
    }
    tuples_ = 1;
    for (std::size_t d = 0; d + 1 < indices.size(); ++d) tuples_ *= indices[d];
    label_ = node_label(context.node);
    return {};
  }

  Status run(const KernelCall& call) override {
    const IndexReader indices(call.inputs[1]);
    const auto depth = static_cast<std::int64_t>(depth_);
    for (std::int64_t i = 0; i < tuples_ * depth; ++i) {
      const std::int64_t dim = dims_[first_ + static_cast<std::size_t>(i % depth)];
      if (indices[i] < -dim || indices[i] >= dim) return index_error(label_, i, indices[i], dim);
    }
    if (tuples_ == 0 || inner_ == 0 || batches_ == 0) return {};
    const std::int64_t per_batch = tuples_ / batches_;
    const std::int64_t row_bytes = inner_ * bytes_;
    call.pool->parallel_for(tuples_, std::max<std::int64_t>(1, 32768 / row_bytes), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t tuple = begin; tuple < end; ++tuple) {
        std::int64_t offset = (tuple / per_batch) * batch_stride_;
        for (std::int64_t k = 0; k < depth; ++k) {
          const std::size_t axis = first_ + static_cast<std::size_t>(k);
          offset += indices.at(tuple * depth + k, dims_[axis]) * strides_[axis];
        }
        std::memcpy(call.outputs[0].data + tuple * row_bytes, call.inputs[0].data + offset * bytes_, static_cast<std::size_t>(row_bytes));
      }
    });
    return {};
  }

 private:
  int bytes_;
  std::vector<std::int64_t> dims_;
  std::array<std::int64_t, kMaxRank> strides_{};
  std::size_t first_ = 0, depth_ = 0;
  std::int64_t batches_ = 1, batch_stride_ = 1, inner_ = 1, tuples_ = 0;
  std::string label_;
};

Result<std::unique_ptr<Kernel>> create_gather_nd(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<GatherNdKernel>(element_bytes(inputs[0].dtype)));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Gather", .infer = infer_gather, .consume = consume_gather, .create = create_gather},
    {.name = "GatherElements",
     .since = 11,
     .infer = infer_gather_elements,
     .create = create_gather_elements},
    {.name = "GatherND", .since = 11, .infer = infer_gather_nd, .create = create_gather_nd},
};

}  // namespace

std::span<const OpSpec> gather_ops() { return kSpecs; }

}  // namespace forebay::ops
