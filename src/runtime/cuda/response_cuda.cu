#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/response_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;

template <typename T>
__global__ void __launch_bounds__(kThreads) response_norm(const __grid_constant__ ResponseTask task) {
  const std::int64_t total = task.images * task.channels * task.size, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const T* const x = static_cast<const T*>(task.x);
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const std::int64_t channel = i / task.size % task.channels, base = i - channel * task.size;
    const std::int64_t before = channel - (task.window - 1) / 2, after = channel + task.window / 2;
    const std::int64_t first = before < 0 ? 0 : before, last = after < task.channels ? after : task.channels - 1;
    double sum = 0;
    for (std::int64_t c = first; c <= last; ++c) {
      const double value = widen(x[base + c * task.size]);
      sum += value * value;
    }
    static_cast<T*>(task.y)[i] =
        narrow<T>(static_cast<float>(static_cast<double>(widen(x[i])) / pow(task.bias + task.alpha * sum, task.beta)));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) line_norm(const __grid_constant__ AxisTask task, bool magnitudes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads / kWarp;
  for (std::int64_t line = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp; line < task.outer * task.inner;
       line += step) {
    const std::int64_t at = line / task.inner * task.length * task.inner + line % task.inner;
    const T* const a = static_cast<const T*>(task.a) + at;
    double sum = 0;
    for (std::int64_t i = lane; i < task.length; i += kWarp) {
      const double value = widen(a[i * task.inner]);
      sum += magnitudes ? fabs(value) : value * value;
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    const double norm = magnitudes ? sum : sqrt(sum);
    for (std::int64_t i = lane; i < task.length; i += kWarp) {
      const double value = widen(a[i * task.inner]);
      static_cast<T*>(task.y)[at + i * task.inner] = narrow<T>(norm == 0 ? 0.0f : static_cast<float>(value / norm));
    }
  }
}

}  // namespace

cudaError_t launch_response_norm(const ResponseTask& task, cudaStream_t stream) {
  const std::int64_t total = task.images * task.channels * task.size;
  if (total == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { response_norm<decltype(t)><<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task); });
}

cudaError_t launch_line_norm(const AxisTask& task, bool magnitudes, cudaStream_t stream) {
  const std::int64_t lines = task.outer * task.inner;
  if (lines * task.length == 0) return cudaSuccess;
  return by_float(task.type,
                  [&](auto t) { line_norm<decltype(t)><<<blocks_for(lines * kWarp, kThreads), kThreads, 0, stream>>>(task, magnitudes); });
}

}  // namespace forebay::cuda
