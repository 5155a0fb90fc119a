// Conv and ConvTranspose: shapes and registration; the kernels are in conv_kernel.cc and conv_transpose.cc.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/ops/conv_kernel.h"
#include "runtime/ops/conv_transpose.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nhwc.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

Status check_conv(const NodeView& node, const TypeShape& x, const TypeShape& w, const TypeShape& bias, std::int64_t group) {
  if (x.dims.size() < 3 || x.dims.size() != w.dims.size()) {
    return node.invalid("X " + dims_text(x.dims) + " and W " + dims_text(w.dims) + " must have the same rank of at least 3");
  }
  if (x.dims[1] >= 0 && w.dims[1] >= 0 && x.dims[1] != w.dims[1] * group) {
    return node.invalid("X " + dims_text(x.dims) + " does not fit W " + dims_text(w.dims) + " with group " + std::to_string(group));
  }
  if (w.dims[0] >= 0 && w.dims[0] % group != 0) return node.invalid("the filters of W " + dims_text(w.dims) + " are not a multiple of group");
  if (bias.present() && bias.known() && w.dims[0] >= 0 && (bias.dims.size() != 1 || bias.dims[0] != w.dims[0])) {
    return node.invalid("B " + dims_text(bias.dims) + " does not have one value a filter");
  }
  return {};
}

Status infer_conv(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  const TypeShape& w = context.input(1);
  if (!x.present() || !w.present()) return node.invalid("inputs X and W are needed");
  FB_TRY(require_float(node, x.dtype, "X"));
  if (x.dtype != w.dtype || (context.input(2).present() && context.input(2).dtype != x.dtype)) return node.invalid("the inputs have different types");
  const std::int64_t group = node.integer("group", 1);
  if (group < 1) return node.invalid("group is " + std::to_string(group));
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  FB_TRY(check_conv(node, x, w, context.input(2), group));
  FB_ASSIGN(const WindowSpec spec, window_spec(node, x.dims.size() - 2, std::span(w.dims).subspan(2)));
  std::vector<std::int64_t> dims = {x.dims[0], w.dims[0]};
  for (std::size_t i = 0; i < spec.kernel.size(); ++i) dims.push_back(window_output(spec, i, x.dims[i + 2]));
  const TypeShape& sum = context.input(3);
  if (sum.present() && (node.domain().empty() || sum.dtype != x.dtype)) return node.invalid("an input to add that does not belong here");
  if (sum.present() && sum.known() && std::find(dims.begin(), dims.end(), -1) == dims.end() && sum.dims != dims) {
    return node.invalid("what is added, " + dims_text(sum.dims) + ", does not have the shape of the output, " + dims_text(dims));
  }
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

plan::Consumption consume_conv(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input != 1 || inputs.size() < 2 || !narrow_float(inputs[1].dtype) || !inputs[1].has_rank || inputs[1].dims.size() < 3) {
    return plan::Consumption::whole;
  }
  const bool depthwise = inputs[1].dims[1] == 1;
  std::int64_t taps = 1;
  for (std::size_t i = 2; i < inputs[1].dims.size(); ++i) taps = inputs[1].dims[i] < 0 ? 1 << 20 : taps * inputs[1].dims[i];
  const bool planes = depthwise && taps <= 512;  // larger filters go group by group
  return node.integer("group", 1) == 1 || planes ? plan::Consumption::by_output : plan::Consumption::whole;
}

Result<std::unique_ptr<Kernel>> create_conv(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return create_conv_kernel(inputs[0].dtype);
}

}  // namespace

std::span<const OpSpec> conv_ops() {
  static const std::vector<OpSpec> specs = [] {
    std::vector<OpSpec> all = {
      {"", "Conv", 1, 0x7fffffff, kOpNone, 0, infer_conv, consume_conv, create_conv},
      {"forebay", "Conv", 1, 0x7fffffff, kOpNone, 0, infer_conv, consume_conv, create_conv},  // with a sum (input 3, of the output's shape) and an activation
      {"", "ConvTranspose", 1, 0x7fffffff, kOpNone, 0, infer_conv_transpose, nullptr, create_conv_transpose},
    };
    const std::span<const OpSpec> last = nhwc_ops();
    all.insert(all.end(), last.begin(), last.end());
    return all;
  }();
  return specs;
}

}  // namespace forebay::ops
