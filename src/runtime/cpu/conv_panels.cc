#include "runtime/cpu/conv_panels.h"

#include <algorithm>
#include <cstring>

#include <xmmintrin.h>

namespace forebay::cpu {
namespace {

struct Run {  // columns that lie in one output row
  std::int64_t lane, count, od, oh, ow;
};
constexpr std::int64_t kMostWidth = 64;

void copy_run(const float* from, std::int64_t in_width, std::int64_t first_column, std::int64_t stride, std::int64_t count, float* to) {
  // Column i reads input column first_column + i * stride.
  std::int64_t begin = first_column >= 0 ? 0 : std::min(count, (-first_column + stride - 1) / stride);
  const std::int64_t room = in_width - first_column;
  const std::int64_t end = room <= 0 ? begin : std::clamp((room + stride - 1) / stride, begin, count);
  for (std::int64_t i = 0; i < begin; ++i) to[i] = 0.0f;
  if (stride == 1) {
    if (begin == 0 && end == 32) {  // a whole panel of the widest tile: a copy of fixed size
      std::memcpy(to, from + first_column, 32 * sizeof(float));
    } else {
      std::memcpy(to + begin, from + first_column + begin, static_cast<std::size_t>(end - begin) * sizeof(float));
    }
  } else if (stride == 2) {
    const float* source = from + first_column;
    for (; begin + 4 < end; begin += 4) {  // strictly below: the second load reads one element more
      const __m128 low = _mm_loadu_ps(source + begin * 2), high = _mm_loadu_ps(source + begin * 2 + 4);
      _mm_storeu_ps(to + begin, _mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
    }
    for (; begin < end; ++begin) to[begin] = source[begin * 2];
  } else {
    for (std::int64_t i = begin; i < end; ++i) to[i] = from[first_column + i * stride];
  }
  for (std::int64_t i = end; i < count; ++i) to[i] = 0.0f;
}

}  // namespace

void ConvPanels::pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count, std::int64_t width, float* to) const {
  Run runs[kMostWidth];
  int run_count = 0;
  for (std::int64_t lane = 0; lane < count;) {
    const std::int64_t at = n + lane, ow = at % out_dims[2], oh = at / out_dims[2] % out_dims[1], od = at / (out_dims[2] * out_dims[1]);
    const std::int64_t run = std::min(count - lane, out_dims[2] - ow);
    runs[run_count++] = {lane, run, od, oh, ow};
    lane += run;
  }
  std::int64_t kw = k % kernel[2], kh = k / kernel[2] % kernel[1], kd = k / (kernel[2] * kernel[1]) % kernel[0];
  const float* plane = in + k / (kernel[0] * kernel[1] * kernel[2]) * in_dims[0] * in_dims[1] * in_dims[2];
  for (std::int64_t row = 0; row < kc; ++row, to += width) {
    for (int r = 0; r < run_count; ++r) {
      const Run& run = runs[r];
      const std::int64_t d = run.od * stride[0] + kd * dilation[0] - pad[0], h = run.oh * stride[1] + kh * dilation[1] - pad[1];
      if (d < 0 || d >= in_dims[0] || h < 0 || h >= in_dims[1]) {
        std::memset(to + run.lane, 0, static_cast<std::size_t>(run.count) * sizeof(float));
      } else {
        copy_run(plane + (d * in_dims[1] + h) * in_dims[2], in_dims[2], run.ow * stride[2] + kw * dilation[2] - pad[2], stride[2], run.count, to + run.lane);
      }
    }
    for (std::int64_t lane = count; lane < width; ++lane) to[lane] = 0.0f;
    if (++kw < kernel[2]) continue;
    kw = 0;
    if (++kh < kernel[1]) continue;
    kh = 0;
    if (++kd < kernel[0]) continue;
    kd = 0;
    plane += in_dims[0] * in_dims[1] * in_dims[2];
  }
}

}  // namespace forebay::cpu
