#include "runtime/ops/pool_plane.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace forebay::ops {
namespace {

// First and last tap of one axis that lie inside of the input, and where the first one reads.
struct Span {
  std::int64_t first, last, start;
};
Span inside(const Window& w, int axis, std::int64_t out) {
  const auto a = static_cast<std::size_t>(axis);
  const std::int64_t start = out * w.stride[a] - w.pad[a], step = w.dilation[a];
  const std::int64_t first = start >= 0 ? 0 : (-start + step - 1) / step;
  const std::int64_t room = w.in[a] - start;
  const std::int64_t last = std::min(w.kernel[a], room <= 0 ? 0 : (room + step - 1) / step);
  return {first, std::max(first, last), start};
}

// Taps of one axis that count when padding does: those inside of the padded input (ceil_mode windows may run past it).
std::int64_t padded_taps(const Window& w, int axis, std::int64_t out) {
  const auto a = static_cast<std::size_t>(axis);
  const std::int64_t start = out * w.stride[a] - w.pad[a], room = w.in[a] + w.pad_end[a] - start;
  return std::clamp<std::int64_t>((room + w.dilation[a] - 1) / w.dilation[a], 0, w.kernel[a]);
}

template <typename T>
bool beats(T value, T most) {
  if constexpr (std::is_floating_point_v<T>) return value > most || (std::isnan(value) && !std::isnan(most));
  return value > most;
}

template <typename T>
T lowest() {
  if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::lowest();
}

template <typename T>
void max_one(const PoolTask& task, const PoolPlane& plane, const Span* s, std::int64_t at) {
  const Window& w = task.window;
  const T* x = reinterpret_cast<const T*>(plane.in);
  T most = lowest<T>();
  std::int64_t where = -1;
  for (std::int64_t kd = s[0].first; kd < s[0].last; ++kd) {
    for (std::int64_t kh = s[1].first; kh < s[1].last; ++kh) {
      const std::int64_t row = ((s[0].start + kd * w.dilation[0]) * w.in[1] + s[1].start + kh * w.dilation[1]) * w.in[2];
      for (std::int64_t kw = s[2].first; kw < s[2].last; ++kw) {
        const std::int64_t index = row + s[2].start + kw * w.dilation[2];
        if (where >= 0 && !beats(x[index], most)) continue;
        most = x[index];
        where = index;
      }
    }
  }
  reinterpret_cast<T*>(plane.out)[at] = most;
  if (plane.indices == nullptr) return;
  if (task.column_major && where >= 0) {  // the first spatial axis runs fastest
    const std::int64_t d = where / (w.in[1] * w.in[2]), h = where / w.in[2] % w.in[1], v = where % w.in[2];
    where = w.spatial == 3 ? (v * w.in[1] + h) * w.in[0] + d : v * w.in[1] + h;
  }
  plane.indices[at] = plane.index_base + where;
}

template <typename T>
void sum_one(const PoolTask& task, const PoolPlane& plane, const Span* s, std::int64_t at, std::int64_t padded) {
  const Window& w = task.window;
  const T* x = reinterpret_cast<const T*>(plane.in);
  T sum = 0;
  for (std::int64_t kd = s[0].first; kd < s[0].last; ++kd) {
    for (std::int64_t kh = s[1].first; kh < s[1].last; ++kh) {
      const std::int64_t row = ((s[0].start + kd * w.dilation[0]) * w.in[1] + s[1].start + kh * w.dilation[1]) * w.in[2];
      for (std::int64_t kw = s[2].first; kw < s[2].last; ++kw) {
        const T value = x[row + s[2].start + kw * w.dilation[2]];
        sum += task.kind == PoolKind::average ? value : static_cast<T>(std::pow(std::abs(static_cast<double>(value)), task.p));
      }
    }
  }
  T* out = reinterpret_cast<T*>(plane.out);
  if (task.kind == PoolKind::lp) {
    out[at] = static_cast<T>(std::pow(static_cast<double>(sum), 1.0 / task.p));
    return;
  }
  const std::int64_t real = (s[0].last - s[0].first) * (s[1].last - s[1].first) * (s[2].last - s[2].first);
  const std::int64_t count = task.count_pads ? padded : real;
  out[at] = count > 0 ? sum / static_cast<T>(count) : T(0);
}

// Columns [begin, end) of an output row whose windows need no clipping along the row: vectors of outputs, tap by tap.
template <typename T, bool Max>
void inner_columns(const Window& w, const T* x, const Span* s, std::int64_t begin, std::int64_t end, T* out) {
  for (std::int64_t o = begin; o < end; ++o) out[o] = Max ? lowest<T>() : T(0);
  const std::int64_t stride = w.stride[2];
  for (std::int64_t kd = s[0].first; kd < s[0].last; ++kd) {
    for (std::int64_t kh = s[1].first; kh < s[1].last; ++kh) {
      const std::int64_t row = ((s[0].start + kd * w.dilation[0]) * w.in[1] + s[1].start + kh * w.dilation[1]) * w.in[2];
      for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw) {
        const T* from = x + row + kw * w.dilation[2] - w.pad[2];
        for (std::int64_t o = begin; o < end; ++o) {
          const T value = from[o * stride];
          if constexpr (Max) {
            out[o] = beats(value, out[o]) ? value : out[o];
          } else {
            out[o] += value;
          }
        }
      }
    }
  }
}

template <typename T>
void run_plane(const PoolTask& task, const PoolPlane& plane) {
  const Window& w = task.window;
  const std::int64_t reach = (w.kernel[2] - 1) * w.dilation[2];
  const std::int64_t room = w.in[2] + w.pad[2] - reach;
  const std::int64_t inner_begin = std::clamp<std::int64_t>(w.pad[2] > 0 ? (w.pad[2] + w.stride[2] - 1) / w.stride[2] : 0, 0, w.out[2]);
  const std::int64_t inner_end = std::clamp<std::int64_t>(room <= 0 ? 0 : (room - 1) / w.stride[2] + 1, inner_begin, w.out[2]);
  const bool fast = plane.indices == nullptr && task.kind != PoolKind::lp;
  T* out = reinterpret_cast<T*>(plane.out);
  Span s[3];
  for (std::int64_t od = 0; od < w.out[0]; ++od) {
    s[0] = inside(w, 0, od);
    for (std::int64_t oh = 0; oh < w.out[1]; ++oh) {
      s[1] = inside(w, 1, oh);
      const std::int64_t row = (od * w.out[1] + oh) * w.out[2];
      const std::int64_t padded_rows = padded_taps(w, 0, od) * padded_taps(w, 1, oh);
      for (std::int64_t ow = 0; ow < w.out[2]; ++ow) {
        if (fast && ow == inner_begin && inner_end > inner_begin) {
          const T* x = reinterpret_cast<const T*>(plane.in);
          if (task.kind == PoolKind::max) {
            inner_columns<T, true>(w, x, s, inner_begin, inner_end, out + row);
          } else {
            inner_columns<T, false>(w, x, s, inner_begin, inner_end, out + row);
            const std::int64_t real = (s[0].last - s[0].first) * (s[1].last - s[1].first) * w.kernel[2];
            const std::int64_t count = task.count_pads ? padded_rows * w.kernel[2] : real;
            for (std::int64_t o = inner_begin; o < inner_end; ++o) out[row + o] = count > 0 ? static_cast<T>(out[row + o] / static_cast<T>(count)) : T(0);
          }
          ow = inner_end - 1;
          continue;
        }
        s[2] = inside(w, 2, ow);
        if (task.kind == PoolKind::max) {
          max_one<T>(task, plane, s, row + ow);
        } else if constexpr (std::is_floating_point_v<T>) {
          sum_one<T>(task, plane, s, row + ow, padded_rows * padded_taps(w, 2, ow));
        }
      }
    }
  }
}

}  // namespace

void pool_plane(const PoolTask& task, const PoolPlane& plane) {
  switch (plane.dtype) {
    case DType::f64: return run_plane<double>(task, plane);
    case DType::i8: return run_plane<std::int8_t>(task, plane);
    case DType::u8: return run_plane<std::uint8_t>(task, plane);
    default: return run_plane<float>(task, plane);
  }
}

}  // namespace forebay::ops
