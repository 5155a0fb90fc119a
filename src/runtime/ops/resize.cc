// Resize (10, 11, 13, 18, 19) and Upsample (7, 9): shapes and registration.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/resize_kernel.h"

namespace forebay::ops {
namespace {

std::vector<double> numbers(const HostTensor* tensor) {
  std::vector<double> values;
  if (tensor == nullptr) return values;
  if (tensor->dtype() == DType::f32) {
    for (const float v : tensor->as<float>()) values.push_back(static_cast<double>(v));
  } else if (tensor->dtype() == DType::f64) {
    for (const double v : tensor->as<double>()) values.push_back(v);
  } else if (tensor->dtype() == DType::i64) {
    for (const std::int64_t v : tensor->as<std::int64_t>()) values.push_back(static_cast<double>(v));
  }
  return values;
}

struct Request {
  std::vector<double> scales, sizes, roi;  // per entry of axes
  std::vector<std::int64_t> axes;
  bool pending = false;  // scales or sizes exist but are not known yet
};

Result<Request> read_request(const NodeView& node, std::size_t rank, std::span<const HostTensor* const> values) {
  Request request;
  const auto value = [&](std::size_t i) { return i < values.size() ? values[i] : nullptr; };
  if (node.op() == "Upsample" && node.version() < 9) {
    for (const float scale : node.reals("scales")) request.scales.push_back(static_cast<double>(scale));
  } else if (node.op() == "Upsample" || node.version() < 11) {
    request.pending = value(1) == nullptr;
    request.scales = numbers(value(1));
  } else {
    request.roi = numbers(value(1));
    request.scales = numbers(value(2));
    if (request.scales.empty()) request.sizes = numbers(value(3));
    request.pending = request.scales.empty() && request.sizes.empty();
  }
  const auto axes = node.integers("axes");
  if (axes.empty()) {
    for (std::size_t i = 0; i < rank; ++i) request.axes.push_back(static_cast<std::int64_t>(i));
  }
  for (const std::int64_t asked : axes) {
    FB_ASSIGN(const int axis, normalize_axis(node, asked, static_cast<int>(rank)));
    request.axes.push_back(axis);
  }
  if (request.pending) return request;
  const auto& given = request.scales.empty() ? request.sizes : request.scales;
  if (given.size() != request.axes.size()) {
    return node.invalid(std::to_string(given.size()) + " scales or sizes for " + std::to_string(request.axes.size()) + " axes");
  }
  for (const double scale : request.scales) {
    if (!(scale > 0) || !std::isfinite(scale)) return node.invalid("a scale is " + std::to_string(scale));
  }
  for (const double size : request.sizes) {
    if (size < 0 || size > 1e15) return node.invalid("a size is " + std::to_string(size));
  }
  if (!request.roi.empty() && request.roi.size() != 2 * request.axes.size()) return node.invalid("roi has " + std::to_string(request.roi.size()) + " entries");
  return request;
}

// With a policy, one scale for all axes: the sizes are upper or lower bounds.
void keep_aspect_ratio(std::string_view policy, const TypeShape& x, Request& request) {
  double scale = 0;
  for (std::size_t i = 0; i < request.axes.size(); ++i) {
    const double own = request.sizes[i] / static_cast<double>(x.dims[static_cast<std::size_t>(request.axes[i])]);
    scale = i == 0 ? own : policy == "not_larger" ? std::min(scale, own) : std::max(scale, own);
  }
  for (std::size_t i = 0; i < request.axes.size(); ++i) {
    request.sizes[i] = std::floor(scale * static_cast<double>(x.dims[static_cast<std::size_t>(request.axes[i])]) + 0.5);
  }
  request.scales.assign(request.axes.size(), scale);
}

Status infer_resize(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  if (!x.present()) return node.invalid("an input is needed");
  FB_ASSIGN(const ResizeRules rules, resize_rules(node));
  if (dtype_bits(x.dtype) < 8 || (rules.mode != ResizeMode::nearest && !kernel_float(x.dtype))) {
    return node.unsupported("this mode on an input of type " + std::string(dtype_name(x.dtype)));
  }
  if (!x.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  bool known = false;
  std::vector<const HostTensor*> values;
  for (std::size_t i = 0; i < context.input_count(); ++i) values.push_back(context.value(i));
  FB_ASSIGN(const std::vector<ResizeAxis> axes, resize_geometry(node, x, values, &known));
  std::vector<std::int64_t> dims;
  for (const ResizeAxis& axis : axes) dims.push_back(axis.out);
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

Result<std::unique_ptr<Kernel>> create_resize(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  FB_ASSIGN(const ResizeRules rules, resize_rules(node));
  return rules.mode == ResizeMode::nearest ? create_resize_nearest() : create_resize_interpolated();
}

}  // namespace

Result<std::vector<ResizeAxis>> resize_geometry(const NodeView& node, const TypeShape& x, std::span<const HostTensor* const> values, bool* known) {
  FB_ASSIGN(Request request, read_request(node, x.dims.size(), values));
  *known = !request.pending && x.known();
  std::vector<ResizeAxis> axes(x.dims.size());
  for (std::size_t i = 0; i < axes.size(); ++i) axes[i].in = axes[i].out = x.dims[i];
  const std::string_view policy = node.text("keep_aspect_ratio_policy", "stretch");
  const bool kept = !request.sizes.empty() && policy != "stretch";
  if (kept && *known) keep_aspect_ratio(policy, x, request);
  for (std::size_t i = 0; i < request.axes.size(); ++i) {
    ResizeAxis& axis = axes[static_cast<std::size_t>(request.axes[i])];
    if (request.pending || (kept && !*known)) {
      axis.out = -1;
      continue;
    }
    if (!request.roi.empty()) {
      axis.roi_start = request.roi[i];
      axis.roi_end = request.roi[i + request.axes.size()];
    }
    if (!request.sizes.empty()) {
      axis.out = static_cast<std::int64_t>(request.sizes[i]);
      axis.scale = kept ? request.scales[i] : axis.in > 0 ? request.sizes[i] / static_cast<double>(axis.in) : 1.0;
      continue;
    }
    axis.scale = request.scales[i];
    axis.out = -1;
    if (axis.in < 0) continue;
    const float length = std::floor(static_cast<float>(axis.in) * static_cast<float>(axis.scale));  // in float, as ONNX's own inference
    if (length > 1e15f) return node.invalid("an output axis of " + std::to_string(length));
    axis.out = static_cast<std::int64_t>(length);
  }
  return axes;
}

std::span<const OpSpec> resize_ops() {
  static const OpSpec specs[] = {
      {"", "Upsample", 7, 8, kOpNone, 0, infer_resize, nullptr, create_resize},
      {"", "Upsample", 9, 0x7fffffff, kOpNone, 1u << 1, infer_resize, nullptr, create_resize},
      {"", "Resize", 10, 10, kOpNone, 1u << 1, infer_resize, nullptr, create_resize},
      {"", "Resize", 11, 0x7fffffff, kOpNone, (1u << 1) | (1u << 2) | (1u << 3), infer_resize, nullptr, create_resize},
  };
  return specs;
}

}  // namespace forebay::ops
