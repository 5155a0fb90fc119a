// One axis of Resize: where output positions lie in the input, and with which weights.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/op.h"

namespace forebay::ops {

enum class ResizeMode : std::uint8_t { nearest, linear, cubic };
enum class Coordinates : std::uint8_t {
  half_pixel, half_pixel_symmetric, pytorch_half_pixel, align_corners, asymmetric, tf_half_pixel_for_nn, tf_crop_and_resize
};
enum class NearestRule : std::uint8_t { round_prefer_floor, round_prefer_ceil, floor, ceil };

// Attributes, with the fixed choices of Upsample and Resize 10.
struct ResizeRules {
  ResizeMode mode = ResizeMode::nearest;
  Coordinates coordinates = Coordinates::half_pixel;
  NearestRule nearest = NearestRule::round_prefer_floor;
  double cubic_a = -0.75, extrapolation = 0;
  bool exclude_outside = false, antialias = false;
};
Result<ResizeRules> resize_rules(const NodeView& node);

struct ResizeAxis {
  std::int64_t in = 0, out = 0;
  double scale = 1, roi_start = 0, roi_end = 1;
};
struct AxisTaps {
  int width = 1;                       // taps of each output position
  std::vector<std::int64_t> index;     // [out * width], inside of the input
  std::vector<double> weight;          // [out * width]; empty for nearest
  std::vector<std::uint8_t> outside;   // [out], tf_crop_and_resize: the extrapolation value; else empty
};
AxisTaps axis_taps(const ResizeRules& rules, const ResizeAxis& axis);

}  // namespace forebay::ops
