// Work along axes, in orders that depend on sizes alone.
#include "runtime/cuda/axis_task.h"
#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;

// What values are added in: f32 for floats, wrapping 64 bits for integers.
template <typename T>
struct Wide {
  using Type = float;
};
template <>
struct Wide<std::int32_t> {
  using Type = std::int64_t;
};
template <>
struct Wide<std::int64_t> {
  using Type = std::int64_t;
};
template <typename T>
using WideOf = typename Wide<T>::Type;
using cuda::widen;
__device__ inline std::int64_t widen(std::int32_t x) {
  return x;
}
__device__ inline std::int64_t widen(std::int64_t x) {
  return x;
}
template <typename T>
__device__ inline T rounded(float x) {
  return narrow<T>(x);
}
template <typename T>
__device__ inline T rounded(std::int64_t x) {
  return static_cast<T>(x);
}

__device__ inline float magnitude(float x) {
  return fabsf(x);
}
__device__ inline std::int64_t magnitude(std::int64_t x) {
  return x < 0 ? -x : x;
}
__device__ inline float lowest(float) {
  return -INFINITY;
}
__device__ inline std::int64_t lowest(std::int64_t) {
  return INT64_MIN;
}
__device__ inline float highest(float) {
  return INFINITY;
}
__device__ inline std::int64_t highest(std::int64_t) {
  return INT64_MAX;
}

template <typename W>
__device__ inline W start_of(AxisReduce op) {
  switch (op) {
    case AxisReduce::max:
      return lowest(W());
    case AxisReduce::min:
      return highest(W());
    case AxisReduce::prod:
      return W(1);
    default:
      return W(0);
  }
}
template <typename W>
__device__ inline W join(AxisReduce op, W a, W b) {
  switch (op) {
    case AxisReduce::max:
      return a != a ? a : b != b ? b : a < b ? b : a;
    case AxisReduce::min:
      return a != a ? a : b != b ? b : b < a ? b : a;
    case AxisReduce::prod:
      return a * b;
    default:
      return a + b;
  }
}
template <typename W>
__device__ inline W term(AxisReduce op, W x) {
  switch (op) {
    case AxisReduce::l1:
      return magnitude(x);
    case AxisReduce::l2:
    case AxisReduce::sum_square:
      return x * x;
    default:
      return x;
  }
}

// All lanes get the result; a tree over the lanes' values.
template <typename W>
__device__ inline W join_lanes(AxisReduce op, W value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value = join(op, value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// The same over a block's warps, in their order.
template <typename W>
__device__ inline W join_block(AxisReduce op, W value) {
  __shared__ W warps[kThreads / kWarp];
  value = join_lanes(op, value);
  __syncthreads();  // the last value has been read
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = warps[0];
  for (int w = 1; w < kThreads / kWarp; ++w) value = join(op, value, warps[w]);
  return value;
}

template <typename T, typename W>
__device__ inline W fold(const AxisReduceTask& task, AxisReduce op, const T* a, int lane, int lanes, float shift, bool shifted) {
  W value = start_of<W>(op);
  for (std::int64_t i = lane; i < task.inner.total; i += lanes) {
    std::int64_t at[2];
    locate(task.inner, i, at);
    const W x = widen(a[at[1]]);
    if (shifted) {
      const auto real = static_cast<float>(x);
      value += static_cast<W>(real == shift ? 1.0f : expf(real - shift));
    } else {
      value = join(op, value, term(op, x));
    }
  }
  return lanes == kThreads ? join_block(op, value) : lanes == kWarp ? join_lanes(op, value) : value;
}

// A block, a warp or a thread an output: threads read neighbours where the innermost kept axis is the contiguous one.
template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_axes(const __grid_constant__ AxisReduceTask task, int lanes) {
  using W = WideOf<T>;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (std::int64_t o = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / lanes; o < task.outer.total; o += step) {
    std::int64_t at[2];
    locate(task.outer, o, at);
    const T* const a = static_cast<const T*>(task.a) + at[1];
    W result;
    if (task.op == AxisReduce::log_sum_exp) {
      const auto most = static_cast<float>(fold<T, W>(task, AxisReduce::max, a, lane, lanes, 0, false));
      const auto sum = static_cast<float>(fold<T, W>(task, AxisReduce::sum, a, lane, lanes, most, true));
      result = static_cast<W>(task.inner.total == 0 ? -INFINITY : most + logf(sum));
    } else {
      result = fold<T, W>(task, task.op, a, lane, lanes, 0, false);
      if (task.op == AxisReduce::mean) result /= static_cast<W>(task.inner.total);
      if (task.op == AxisReduce::l2) result = static_cast<W>(sqrt(static_cast<double>(result)));
      if (task.op == AxisReduce::log_sum) result = static_cast<W>(logf(static_cast<float>(result)));
    }
    if (lane == 0) static_cast<T*>(task.y)[o] = rounded<T>(result);
  }
}

// A thread a line: neighbours read neighbours where inner is more than 1.
template <typename T, typename F>
__device__ inline void each_line(const AxisTask& task, F&& work) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x, lines = task.outer * task.inner;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < lines; i += step) {
    work(i, i / task.inner * task.length * task.inner + i % task.inner);
  }
}

template <typename T>
__global__ void softmax_lines(const __grid_constant__ AxisTask task, bool log) {
  each_line<T>(task, [&](std::int64_t, std::int64_t at) {
    const T* const a = static_cast<const T*>(task.a) + at;
    T* const y = static_cast<T*>(task.y) + at;
    float most = -INFINITY, sum = 0;
    for (std::int64_t i = 0; i < task.length; ++i) most = join(AxisReduce::max, most, widen(a[i * task.inner]));
    for (std::int64_t i = 0; i < task.length; ++i) sum += expf(widen(a[i * task.inner]) - most);
    const float shift = logf(sum);
    for (std::int64_t i = 0; i < task.length; ++i) {
      const float x = widen(a[i * task.inner]) - most;
      y[i * task.inner] = narrow<T>(log ? x - shift : expf(x) / sum);
    }
  });
}

// NaN counts as larger than every number.
template <typename W>
__device__ inline bool above(W a, W b) {
  return a != a ? b == b : a > b;
}

template <typename T>
__global__ void arg_lines(const __grid_constant__ AxisTask task, bool most, bool last) {
  each_line<T>(task, [&](std::int64_t line, std::int64_t at) {
    const T* const a = static_cast<const T*>(task.a) + at;
    auto best = widen(a[0]);
    std::int64_t place = 0;
    for (std::int64_t i = 1; i < task.length; ++i) {
      const auto x = widen(a[i * task.inner]);
      if ((most ? above(x, best) : above(best, x)) || (last && !(most ? above(best, x) : above(x, best)))) {
        best = x;
        place = i;
      }
    }
    static_cast<std::int64_t*>(task.y)[line] = place;
  });
}

template <typename T>
__global__ void cumsum_lines(const __grid_constant__ AxisTask task, bool exclusive, bool reverse) {
  each_line<T>(task, [&](std::int64_t, std::int64_t at) {
    const T* const a = static_cast<const T*>(task.a) + at;
    T* const y = static_cast<T*>(task.y) + at;
    WideOf<T> sum = 0;
    for (std::int64_t i = 0; i < task.length; ++i) {
      const std::int64_t place = (reverse ? task.length - 1 - i : i) * task.inner;
      const WideOf<T> x = widen(a[place]);
      y[place] = rounded<T>(exclusive ? sum : sum + x);
      sum += x;
    }
  });
}

template <typename T, typename P>
__global__ void __launch_bounds__(kThreads) batch_norm(const __grid_constant__ ChannelNormTask task) {
  const std::int64_t total = task.images * task.channels * task.size, step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    const std::int64_t c = i / task.size % task.channels;
    const float factor = widen(static_cast<const P*>(task.scale)[c]) / sqrtf(widen(static_cast<const P*>(task.variance)[c]) + task.epsilon);
    const float x = widen(static_cast<const T*>(task.x)[i]) - widen(static_cast<const P*>(task.mean)[c]);
    static_cast<T*>(task.y)[i] = narrow<T>(x * factor + widen(static_cast<const P*>(task.shift)[c]));
  }
}

template <typename T, typename P>
__global__ void __launch_bounds__(kThreads) group_norm(const __grid_constant__ ChannelNormTask task) {
  const std::int64_t each = task.channels / task.groups, count = each * task.size;
  for (std::int64_t g = blockIdx.x; g < task.images * task.groups; g += gridDim.x) {
    const T* const x = static_cast<const T*>(task.x) + g * count;
    float sum = 0, squares = 0;
    for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += widen(x[i]);
    const float mean = join_block(AxisReduce::sum, sum) / static_cast<float>(count);
    for (std::int64_t i = threadIdx.x; i < count; i += kThreads) squares += (widen(x[i]) - mean) * (widen(x[i]) - mean);
    const float inverse = 1.0f / sqrtf(join_block(AxisReduce::sum, squares) / static_cast<float>(count) + task.epsilon);
    for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
      const std::int64_t channel = g % task.groups * each + i / task.size, at = task.parameters == task.channels ? channel : channel / each;
      const float scale = widen(static_cast<const P*>(task.scale)[at]), shift = widen(static_cast<const P*>(task.shift)[at]);
      static_cast<T*>(task.y)[g * count + i] = narrow<T>((widen(x[i]) - mean) * inverse * scale + shift);
    }
  }
}

template <typename F>
cudaError_t by_number(DType type, F&& start) {
  return by_types<float, __half, __nv_bfloat16, std::int32_t, std::int64_t>(type, start);
}
unsigned line_blocks(const AxisTask& task) {
  return blocks_for(task.outer * task.inner, kThreads);
}

}  // namespace

cudaError_t launch_axis_reduce(const AxisReduceTask& task, cudaStream_t stream) {
  if (task.outer.total == 0) return cudaSuccess;
  const bool rows = task.inner.strides[1][task.inner.rank - 1] == 1 && task.inner.dims[task.inner.rank - 1] >= 8;
  const int lanes = rows && task.inner.total >= 8 * kThreads ? kThreads : rows ? kWarp : 1;
  return by_number(task.type, [&](auto t) {
    reduce_axes<decltype(t)><<<blocks_for(task.outer.total * lanes, kThreads), kThreads, 0, stream>>>(task, lanes);
  });
}
cudaError_t launch_axis_softmax(const AxisTask& task, bool log, cudaStream_t stream) {
  if (task.outer * task.inner * task.length == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { softmax_lines<decltype(t)><<<line_blocks(task), kThreads, 0, stream>>>(task, log); });
}
cudaError_t launch_axis_arg(const AxisTask& task, bool most, bool last, cudaStream_t stream) {
  if (task.outer * task.inner * task.length == 0) return cudaSuccess;
  return by_number(task.type, [&](auto t) { arg_lines<decltype(t)><<<line_blocks(task), kThreads, 0, stream>>>(task, most, last); });
}
cudaError_t launch_axis_cumsum(const AxisTask& task, bool exclusive, bool reverse, cudaStream_t stream) {
  if (task.outer * task.inner * task.length == 0) return cudaSuccess;
  return by_number(task.type,
                   [&](auto t) { cumsum_lines<decltype(t)><<<line_blocks(task), kThreads, 0, stream>>>(task, exclusive, reverse); });
}

cudaError_t launch_channel_norm(const ChannelNormTask& task, cudaStream_t stream) {
  const std::int64_t total = task.images * task.channels * task.size;
  if (total == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) {
    using T = decltype(t);
    const auto start = [&](auto p) {
      using P = decltype(p);
      if (task.groups == 0) {
        batch_norm<T, P><<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task);
      } else {
        const std::int64_t groups = task.images * task.groups;
        group_norm<T, P><<<static_cast<unsigned>(groups < 65535 ? groups : 65535), kThreads, 0, stream>>>(task);
      }
    };
    if (task.parameter_type == task.type) start(T());
    if (task.parameter_type != task.type) start(float());
  });
}

}  // namespace forebay::cuda
