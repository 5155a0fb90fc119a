#include "runtime/ops/infer.h"

#include <algorithm>
#include <iterator>

#include "base/checked.h"

namespace forebay::ops {

Status need_arity(const InferContext& ctx, std::size_t min, std::size_t max) {
  const std::size_t count = ctx.input_count();
  if (count >= min && count <= max) return {};
  std::string wanted = std::to_string(min);
  if (max != min) wanted += max > 1000 ? " or more" : " to " + std::to_string(max);
  return ctx.node().invalid(std::to_string(count) + " inputs where " + wanted + " belong");
}

Status need_input(const InferContext& ctx, std::size_t i, DTypeSet set) {
  const TypeShape& input = ctx.input(i);
  if (!input.present()) return ctx.node().invalid("input " + std::to_string(i) + " is missing");
  if (in_set(set, input.dtype)) return {};
  return ctx.node().invalid("input " + std::to_string(i) + " has dtype " + std::string(dtype_name(input.dtype)) +
                            ", which this operator does not take");
}

Status allow_input(const InferContext& ctx, std::size_t i, DTypeSet set) {
  return ctx.input(i).present() ? need_input(ctx, i, set) : Status();
}

Status same_dtype(const InferContext& ctx, std::size_t a, std::size_t b) {
  if (ctx.input(a).dtype == ctx.input(b).dtype) return {};
  return ctx.node().invalid("inputs " + std::to_string(a) + " and " + std::to_string(b) + " have dtypes " +
                            std::string(dtype_name(ctx.input(a).dtype)) + " and " + std::string(dtype_name(ctx.input(b).dtype)));
}

void set_like(InferContext& ctx, std::size_t out, std::size_t in, DType dtype) {
  const TypeShape& input = ctx.input(in);
  if (input.has_rank) {
    ctx.set_output(out, dtype, input.dims);
  } else {
    ctx.set_output_unranked(out, dtype);
  }
}

Result<std::int64_t> element_count(const NodeView& node, std::span<const std::int64_t> dims) {
  std::uint64_t count = 1;
  bool zero = false;
  for (const std::int64_t dim : dims) {
    if (dim < 0) return std::int64_t{-1};
    if (dim == 0) {
      zero = true;
      continue;
    }
    const auto next = checked_mul(count, static_cast<std::uint64_t>(dim));
    if (!next || *next > static_cast<std::uint64_t>(INT64_MAX)) return node.invalid("a shape holds more than 2^63 elements");
    count = *next;
  }
  return zero ? 0 : static_cast<std::int64_t>(count);
}

Result<std::vector<int>> normalize_axes(const NodeView& node, std::span<const std::int64_t> axes, int rank) {
  std::vector<int> out;
  for (const std::int64_t axis : axes) {
    FB_ASSIGN(const int normal, normalize_axis(node, axis, rank));
    if (std::find(out.begin(), out.end(), normal) != out.end()) return node.invalid("axis " + std::to_string(axis) + " is named twice");
    out.push_back(normal);
  }
  return out;
}

DType onnx_dtype(std::int64_t number) {
  constexpr DType kNone = DType::none;
  constexpr DType kTypes[] = {kNone,      DType::f32, DType::u8,      DType::i8,       DType::u16,        DType::i16,    DType::i32,
                              DType::i64, kNone,      DType::boolean, DType::f16,      DType::f64,        DType::u32,    DType::u64,
                              kNone,      kNone,      DType::bf16,    DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz,
                              DType::u4,  DType::i4,  DType::f4e2m1,  DType::f8e8m0,   DType::u2,         DType::i2};
  return number >= 0 && number < static_cast<std::int64_t>(std::size(kTypes)) ? kTypes[number] : kNone;
}

std::vector<std::int64_t> host_integers(const HostTensor& tensor) {
  if (tensor.dtype() == DType::i32) {
    const auto contents = tensor.as<std::int32_t>();
    return {contents.begin(), contents.end()};
  }
  FB_CHECK(tensor.dtype() == DType::i64);
  const auto contents = tensor.as<std::int64_t>();
  return {contents.begin(), contents.end()};
}

}  // namespace forebay::ops
