// Rows of the input are copied once into a ring of padded rows, split by phase of the stride, so that every tap is a contiguous load.
#include "runtime/cpu/conv_depthwise.h"

#include <algorithm>
#include <cstring>

#include "runtime/cpu/conv_taps.h"

namespace forebay::cpu {
namespace {

constexpr std::int64_t kSlack = 16;

// Columns of one phase of a padded row: enough for the last tap of the last output.
std::int64_t phase_width(const DepthwisePlane& p) {
  return p.out[2] + (p.kernel[2] - 1) * p.dilation[2] / p.stride[2] + kSlack;
}
std::int64_t ring_rows(const DepthwisePlane& p) { return (p.kernel[1] - 1) * p.dilation[1] + 1; }
std::int64_t row_floats(const DepthwisePlane& p) { return phase_width(p) * p.stride[2]; }

// Padded row `row` (0 is the first row of padding) of input depth `depth`; zeros outside of the input.
void fill_row(const DepthwisePlane& p, const float* in, std::int64_t depth, std::int64_t row, float* to) {
  const std::int64_t width = phase_width(p), stride = p.stride[2];
  const std::int64_t h = row - p.pad[1];
  if (depth < 0 || depth >= p.in[0] || h < 0 || h >= p.in[1]) {
    std::memset(to, 0, static_cast<std::size_t>(row_floats(p)) * sizeof(float));
    return;
  }
  const float* from = in + (depth * p.in[1] + h) * p.in[2];
  for (std::int64_t phase = 0; phase < stride; ++phase) {
    float* out = to + phase * width;
    // Column j of this phase is input column j * stride + phase - pad.
    const std::int64_t shift = phase - p.pad[2];
    const std::int64_t first = std::clamp<std::int64_t>(shift >= 0 ? 0 : (-shift + stride - 1) / stride, 0, width);
    const std::int64_t room = p.in[2] - shift;
    const std::int64_t last = std::clamp<std::int64_t>(room <= 0 ? 0 : (room + stride - 1) / stride, first, width);
    std::fill(out, out + first, 0.0f);
    if (stride == 1) {
      std::memcpy(out + first, from + first + shift, static_cast<std::size_t>(last - first) * sizeof(float));
    } else {
      for (std::int64_t j = first; j < last; ++j) out[j] = from[j * stride + shift];
    }
    std::fill(out + last, out + width, 0.0f);
  }
}

}  // namespace

std::int64_t depthwise_scratch_floats(const DepthwisePlane& p) { return p.kernel[0] * ring_rows(p) * row_floats(p) + kSlack; }

void depthwise_plane(InstructionSet set, const DepthwisePlane& p, const float* in, const float* weights, float bias, float* out, float* scratch) {
  const std::int64_t ring = ring_rows(p), floats = row_floats(p), width = phase_width(p);
  const float* rows[kMostDepthwiseTaps];
  TapRow task;
  task.rows = rows;
  task.weights = weights;
  task.taps = static_cast<int>(p.kernel[0] * p.kernel[1] * p.kernel[2]);
  task.bias = bias;
  task.count = p.out[2];
  std::int64_t columns[kMostDepthwiseTaps];  // where each tap of a row starts: its phase and its place in it
  for (std::int64_t kw = 0; kw < p.kernel[2]; ++kw) {
    const std::int64_t column = kw * p.dilation[2];
    columns[kw] = column % p.stride[2] * width + column / p.stride[2];
  }
  for (std::int64_t od = 0; od < p.out[0]; ++od) {
    std::int64_t filled = 0;  // padded rows below this one are in the ring, as far as they still matter
    for (std::int64_t oh = 0; oh < p.out[1]; ++oh) {
      const std::int64_t top = oh * p.stride[1];
      for (std::int64_t row = std::max(filled, top); row < top + ring; ++row) {
        for (std::int64_t kd = 0; kd < p.kernel[0]; ++kd) {
          fill_row(p, in, od * p.stride[0] + kd * p.dilation[0] - p.pad[0], row, scratch + (kd * ring + row % ring) * floats);
        }
      }
      filled = top + ring;
      int tap = 0;
      for (std::int64_t kd = 0; kd < p.kernel[0]; ++kd) {
        for (std::int64_t kh = 0; kh < p.kernel[1]; ++kh) {
          const float* base = scratch + (kd * ring + (top + kh * p.dilation[1]) % ring) * floats;
          for (std::int64_t kw = 0; kw < p.kernel[2]; ++kw, ++tap) rows[tap] = base + columns[kw];
        }
      }
      task.out = out + (od * p.out[1] + oh) * p.out[2];
      conv_tap_row(set, task);
    }
  }
}

}  // namespace forebay::cpu
