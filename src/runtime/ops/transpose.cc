// Transpose, DepthToSpace, SpaceToDepth: permutations of axes.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/strided_copy.h"
#include "runtime/ops/subbyte.h"

namespace forebay::ops {
namespace {

Result<std::vector<std::size_t>> permutation(const NodeView& node, std::size_t rank) {
  std::vector<std::size_t> perm(rank);
  const auto given = node.integers("perm");
  if (!node.has("perm") || (given.empty() && rank == 0)) {
    for (std::size_t i = 0; i < rank; ++i) perm[i] = rank - 1 - i;
    return perm;
  }
  if (given.size() != rank) return node.invalid("perm has " + std::to_string(given.size()) + " axes, the input " + std::to_string(rank));
  FB_ASSIGN(const std::vector<int> axes, normalize_axes(node, given, static_cast<int>(rank)));
  std::copy(axes.begin(), axes.end(), perm.begin());
  return perm;
}

Status infer_transpose(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  const TypeShape& data = ctx.input(0);
  if (!data.has_rank) {
    if (ctx.node().has("perm")) {
      ctx.set_output(0, data.dtype, std::vector<std::int64_t>(ctx.node().integers("perm").size(), -1));
    } else {
      ctx.set_output_unranked(0, data.dtype);
    }
    return {};
  }
  FB_ASSIGN(const std::vector<std::size_t> perm, permutation(ctx.node(), data.dims.size()));
  std::vector<std::int64_t> dims;
  for (const std::size_t axis : perm) dims.push_back(data.dims[axis]);
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

// The input seen under `view` dims, its axes taken in the order `perm`.
StridedCopy permute(int bytes, std::span<const std::int64_t> view, std::span<const std::size_t> perm) {
  const auto strides = dense_strides(view);
  std::vector<std::int64_t> dims, in;
  for (const std::size_t axis : perm) {
    dims.push_back(view[axis]);
    in.push_back(strides[axis]);
  }
  const auto out = dense_strides(dims);
  StridedCopy copy;
  copy.plan(bytes, dims, in, std::span(out).first(dims.size()));
  return copy;
}

class TransposeKernel final : public CopyKernel {
 public:
  explicit TransposeKernel(int bytes) : CopyKernel("cpu.Transpose." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const std::vector<std::size_t> perm, permutation(context.node, dims.size()));
    copy_ = permute(bytes_, dims, perm);
    return {};
  }

 private:
  int bytes_;
};

Result<std::unique_ptr<Kernel>> create_transpose(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<TransposeKernel>(element_bytes(inputs[0].dtype)));
}

Status infer_blocks(InferContext& ctx, bool to_space) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  const TypeShape& data = ctx.input(0);
  const std::int64_t block = ctx.node().integer("blocksize", 0);
  if (block < 1 || block > 32768) return ctx.node().invalid("blocksize is " + std::to_string(block));
  const std::string_view mode = ctx.node().text("mode", "DCR");
  if (mode != "DCR" && mode != "CRD") return ctx.node().invalid("mode is neither DCR nor CRD");
  if (!data.has_rank) {
    ctx.set_output(0, data.dtype, {-1, -1, -1, -1});
    return {};
  }
  if (data.dims.size() != 4) return ctx.node().invalid("the input has rank " + std::to_string(data.dims.size()) + ", not 4");
  std::vector<std::int64_t> dims = data.dims;
  const std::int64_t area = block * block;
  const auto divide = [](std::int64_t& dim, std::int64_t by) {
    if (dim >= 0 && dim % by != 0) return false;
    if (dim > 0) dim /= by;
    return true;
  };
  const auto multiply = [](std::int64_t& dim, std::int64_t by) {
    if (dim > INT64_MAX / by) return false;
    if (dim > 0) dim *= by;
    return true;
  };
  const bool fits = to_space ? divide(dims[1], area) && multiply(dims[2], block) && multiply(dims[3], block)
                             : multiply(dims[1], area) && divide(dims[2], block) && divide(dims[3], block);
  if (!fits) return ctx.node().invalid("blocksize " + std::to_string(block) + " does not divide the input");
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}
Status infer_depth_to_space(InferContext& ctx) { return infer_blocks(ctx, true); }
Status infer_space_to_depth(InferContext& ctx) { return infer_blocks(ctx, false); }

class BlocksKernel final : public CopyKernel {
 public:
  BlocksKernel(int bytes, bool to_space)
      : CopyKernel(std::string(to_space ? "cpu.DepthToSpace." : "cpu.SpaceToDepth.") + std::to_string(bytes)),
        bytes_(bytes), to_space_(to_space) {}
  Status prepare(const PrepareContext& context) override {
    const auto& d = context.inputs[0].dims;
    const std::int64_t b = context.node.integer("blocksize", 1);
    if (!to_space_) {
      const std::int64_t view[] = {d[0], d[1], d[2] / b, b, d[3] / b, b};
      constexpr std::size_t kPerm[] = {0, 3, 5, 1, 2, 4};
      copy_ = permute(bytes_, view, kPerm);
    } else if (context.node.text("mode", "DCR") == "DCR") {
      const std::int64_t view[] = {d[0], b, b, d[1] / (b * b), d[2], d[3]};
      constexpr std::size_t kPerm[] = {0, 3, 4, 1, 5, 2};
      copy_ = permute(bytes_, view, kPerm);
    } else {
      const std::int64_t view[] = {d[0], d[1] / (b * b), b, b, d[2], d[3]};
      constexpr std::size_t kPerm[] = {0, 1, 4, 2, 5, 3};
      copy_ = permute(bytes_, view, kPerm);
    }
    return {};
  }

 private:
  int bytes_;
  bool to_space_;
};

template <bool kToSpace>
Result<std::unique_ptr<Kernel>> create_blocks(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<BlocksKernel>(element_bytes(inputs[0].dtype), kToSpace));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Transpose", .infer = infer_transpose, .create = with_subbyte<create_transpose>},
    {.name = "DepthToSpace", .infer = infer_depth_to_space, .create = create_blocks<true>},
    {.name = "SpaceToDepth", .infer = infer_space_to_depth, .create = create_blocks<false>},
};

}  // namespace

std::span<const OpSpec> transpose_ops() { return kSpecs; }

}  // namespace forebay::ops
