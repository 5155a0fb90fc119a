// Pools: one thread an output, taps in order.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/conv_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr unsigned kThreads = 256;

using cuda::widen;
__device__ inline float widen(std::int8_t x) {
  return x;
}
__device__ inline float widen(std::uint8_t x) {
  return x;
}

template <typename T>
__device__ inline T from_float(float x) {
  return narrow<T>(x);
}
template <>
__device__ inline std::int8_t from_float<std::int8_t>(float x) {
  return static_cast<std::int8_t>(x);
}
template <>
__device__ inline std::uint8_t from_float<std::uint8_t>(float x) {
  return static_cast<std::uint8_t>(x);
}

// Taps of one axis that count when padding does: those inside of the padded input (ceil_mode windows may run past it).
__device__ inline int padded_taps(const PoolTask& task, int d, int start) {
  const int room = task.in[d] + task.pad_end[d] - start, taps = (room + task.dilation[d] - 1) / task.dilation[d];
  return taps < 0 ? 0 : taps > task.kernel[d] ? task.kernel[d] : taps;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) pool(const __grid_constant__ PoolTask task) {
  const std::int64_t out_size = static_cast<std::int64_t>(task.out[0]) * task.out[1] * task.out[2], total = task.planes * out_size;
  const std::int64_t in_size = static_cast<std::int64_t>(task.in[0]) * task.in[1] * task.in[2],
                     step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    int at;
    const std::int64_t plane = divide(i, static_cast<int>(out_size), at);
    const int start[3] = {at / (task.out[1] * task.out[2]) * task.stride[0] - task.pad[0],
                          at / task.out[2] % task.out[1] * task.stride[1] - task.pad[1], at % task.out[2] * task.stride[2] - task.pad[2]};
    const T* const x = static_cast<const T*>(task.x) + plane * in_size;
    float value = task.kind == PoolKind::max ? -INFINITY : 0.0f;
    int seen = 0, where = -1;
    for (int a = 0; a < task.kernel[0]; ++a) {
      const int p = start[0] + a * task.dilation[0];
      if (p < 0 || p >= task.in[0]) continue;
      for (int b = 0; b < task.kernel[1]; ++b) {
        const int q = start[1] + b * task.dilation[1];
        if (q < 0 || q >= task.in[1]) continue;
        for (int c = 0; c < task.kernel[2]; ++c) {
          const int r = start[2] + c * task.dilation[2];
          if (r < 0 || r >= task.in[2]) continue;
          const int place = (p * task.in[1] + q) * task.in[2] + r;
          const float v = widen(x[place]);
          ++seen;
          if (task.kind == PoolKind::average) {
            value += v;
          } else if (task.kind == PoolKind::lp) {
            value += task.p == 2.0f ? v * v : powf(fabsf(v), task.p);
          } else if (where < 0 || v > value || (v != v && value == value)) {
            value = v;
            where = place;
          }
        }
      }
    }
    if (task.kind == PoolKind::average) {
      const int count =
          task.count_pads ? padded_taps(task, 0, start[0]) * padded_taps(task, 1, start[1]) * padded_taps(task, 2, start[2]) : seen;
      value = count > 0 ? value / static_cast<float>(count) : 0.0f;
    } else if (task.kind == PoolKind::lp) {
      value = task.p == 2.0f ? sqrtf(value) : powf(value, 1.0f / task.p);
    }
    static_cast<T*>(task.y)[i] = from_float<T>(value);
    if (task.indices == nullptr) continue;
    std::int64_t index = where;
    if (task.column_major && where >= 0) {  // the first spatial axis runs fastest
      const std::int64_t d = where / (task.in[1] * task.in[2]), h = where / task.in[2] % task.in[1], v = where % task.in[2];
      index = task.spatial == 3 ? (v * task.in[1] + h) * task.in[0] + d : v * task.in[1] + h;
    }
    task.indices[i] = plane * in_size + index;
  }
}

template <typename T>
cudaError_t start(const PoolTask& task, cudaStream_t stream) {
  const std::int64_t total = task.planes * task.out[0] * task.out[1] * task.out[2];
  if (total > 0) pool<T><<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_pool(const PoolTask& task, cudaStream_t stream) {
  return by_types<float, __half, __nv_bfloat16, std::int8_t, std::uint8_t>(task.type,
                                                                           [&](auto t) { return start<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
