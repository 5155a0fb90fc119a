#include "runtime/ops/resize_axis.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"

namespace forebay::ops {
namespace {

struct Name {
  std::string_view text;
  int value;
};
constexpr Name kModes[] = {{"nearest", 0}, {"linear", 1}, {"bilinear", 1}, {"trilinear", 1}, {"cubic", 2}};
constexpr Name kCoordinates[] = {{"half_pixel", 0}, {"half_pixel_symmetric", 1}, {"pytorch_half_pixel", 2}, {"align_corners", 3},
                                 {"asymmetric", 4}, {"tf_half_pixel_for_nn", 5}, {"tf_crop_and_resize", 6}};
constexpr Name kNearest[] = {{"round_prefer_floor", 0}, {"round_prefer_ceil", 1}, {"floor", 2}, {"ceil", 3}, {"", 0}};

Result<int> named(const NodeView& node, std::string_view attribute, std::string_view usual, std::span<const Name> names) {
  const std::string_view text = node.text(attribute, usual);
  for (const Name& name : names) {
    if (name.text == text) return name.value;
  }
  return node.invalid(std::string(attribute) + " is '" + std::string(text) + "'");
}

// Where position x lies in the input. Nearest modes ask in float, as exporters meant it: 17 / 1.7f is 10 there and just below 10 in double.
template <typename F>
F original(const ResizeRules& rules, const ResizeAxis& a, std::int64_t x) {
  const F at = static_cast<F>(x), in = static_cast<F>(a.in), out = static_cast<F>(a.out), scale = static_cast<F>(a.scale), half = F(0.5);
  const F length = scale * in;  // before rounding to whole positions
  switch (rules.coordinates) {
    case Coordinates::half_pixel: return (at + half) / scale - half;
    case Coordinates::half_pixel_symmetric: return in / 2 * (1 - out / length) + (at + half) / scale - half;
    case Coordinates::pytorch_half_pixel: return a.out > 1 ? (at + half) / scale - half : -half;
    case Coordinates::align_corners: return a.out <= 1 || length <= 1 ? 0 : at * (in - 1) / (length - 1);
    case Coordinates::asymmetric: return at / scale;
    case Coordinates::tf_half_pixel_for_nn: return (at + half) / scale;
    case Coordinates::tf_crop_and_resize: break;
  }
  const F start = static_cast<F>(a.roi_start), span = (static_cast<F>(a.roi_end) - start) * (in - 1);
  return start * (in - 1) + (a.out > 1 ? at * span / (out - 1) : span / 2);
}

std::int64_t nearest_index(NearestRule rule, double x) {
  switch (rule) {
    case NearestRule::round_prefer_floor: return static_cast<std::int64_t>(std::ceil(x - 0.5));
    case NearestRule::round_prefer_ceil: return static_cast<std::int64_t>(std::floor(x + 0.5));
    case NearestRule::floor: return static_cast<std::int64_t>(std::floor(x));
    case NearestRule::ceil: break;
  }
  return static_cast<std::int64_t>(std::ceil(x));
}

double kernel_value(const ResizeRules& rules, double x) {
  const double d = std::abs(x), a = rules.cubic_a;
  if (rules.mode == ResizeMode::linear) return d < 1 ? 1 - d : 0;
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

}  // namespace

Result<ResizeRules> resize_rules(const NodeView& node) {
  ResizeRules rules;
  FB_ASSIGN(const int mode, named(node, "mode", "nearest", kModes));
  rules.mode = static_cast<ResizeMode>(mode);
  if (node.op() == "Upsample" || node.version() < 11) {
    rules.coordinates = Coordinates::asymmetric;
    rules.nearest = NearestRule::floor;
    return rules;
  }
  FB_ASSIGN(const int coordinates, named(node, "coordinate_transformation_mode", "half_pixel", kCoordinates));
  FB_ASSIGN(const int nearest, named(node, "nearest_mode", "round_prefer_floor", kNearest));
  rules.coordinates = static_cast<Coordinates>(coordinates);
  rules.nearest = static_cast<NearestRule>(nearest);
  rules.cubic_a = static_cast<double>(node.real("cubic_coeff_a", -0.75f));
  rules.extrapolation = static_cast<double>(node.real("extrapolation_value", 0.0f));
  rules.exclude_outside = node.integer("exclude_outside", 0) != 0;
  rules.antialias = node.integer("antialias", 0) != 0;
  return rules;
}

AxisTaps axis_taps(const ResizeRules& rules, const ResizeAxis& a) {
  AxisTaps taps;
  const bool crop = rules.coordinates == Coordinates::tf_crop_and_resize;
  const auto last = static_cast<double>(a.in - 1);
  // Widened by 1/scale where antialiasing shrinks.
  const double shrink = rules.antialias ? std::min(a.scale, 1.0) : 1.0;
  const double reach = rules.mode == ResizeMode::cubic ? 2 : 1;
  const auto first = static_cast<std::int64_t>(std::floor(-reach / shrink)) + 1;
  taps.width = rules.mode == ResizeMode::nearest ? 1 : static_cast<int>(2 - 2 * first);
  for (std::int64_t x = 0; x < a.out; ++x) {
    const bool nearest = rules.mode == ResizeMode::nearest;
    const double at = nearest ? static_cast<double>(original<float>(rules, a, x)) : original<double>(rules, a, x);
    if (crop) taps.outside.push_back(at < 0 || at > last ? 1 : 0);
    if (nearest) {
      taps.index.push_back(std::clamp<std::int64_t>(nearest_index(rules.nearest, at), 0, a.in - 1));
      continue;
    }
    const double base = std::ceil(at) - 1, ratio = at - base;
    const std::size_t start = taps.weight.size();
    double sum = 0;
    for (int i = 0; i < taps.width; ++i) {
      const std::int64_t offset = first + i, index = static_cast<std::int64_t>(base) + offset;
      double weight = kernel_value(rules, (static_cast<double>(offset) - ratio) * shrink);
      if (rules.exclude_outside && (index < 0 || index >= a.in)) weight = 0;
      sum += weight;
      taps.weight.push_back(weight);
      taps.index.push_back(std::clamp<std::int64_t>(index, 0, a.in - 1));
    }
    if (rules.exclude_outside || rules.antialias) {
      for (std::size_t i = start; i < taps.weight.size(); ++i) taps.weight[i] = sum != 0 ? taps.weight[i] / sum : 0;
    }
  }
  return taps;
}

}  // namespace forebay::ops
