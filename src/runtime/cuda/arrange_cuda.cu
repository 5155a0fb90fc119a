#include "runtime/cuda/arrange_task.h"
#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

// work(i) for i below `total`.
template <typename F>
__device__ inline void each(std::int64_t total, F&& work) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) work(i);
}

template <typename T>
__global__ void trilu(const __grid_constant__ TriluTask task, T* y, const T* a) {
  each(task.all_rows * task.columns, [&](std::int64_t i) {
    const std::int64_t edge = i / task.columns % task.rows + task.k, column = i % task.columns;
    y[i] = (task.upper ? column >= edge : column <= edge) ? a[i] : T(0);
  });
}

template <typename T>
__global__ void one_hot(const __grid_constant__ OneHotTask task, T* y, const void* indices, const T* values) {
  each(task.total, [&](std::int64_t i) {
    const std::int64_t which = i / (task.inner * task.depth) * task.inner + i % task.inner, place = i / task.inner % task.depth;
    std::int64_t hot = task.wide ? static_cast<const std::int64_t*>(indices)[which] : static_cast<const std::int32_t*>(indices)[which];
    if (hot < 0) hot += task.depth;
    y[i] = values[hot == place ? 1 : 0];
  });
}

__global__ void check_positions(const __grid_constant__ CacheTask task, std::uint64_t* worst) {
  each(task.batch, [&](std::int64_t b) {
    const std::int64_t at = task.positions[b];
    const bool fits = at >= 0 && (task.circular ? at < task.length : at <= task.length - task.updates);
    if (!fits) atomicMin(reinterpret_cast<unsigned long long*>(worst), static_cast<unsigned long long>(b));
  });
}

template <typename T>
__global__ void cache_rows(const __grid_constant__ CacheTask task, T* y, const T* updates) {
  each(task.batch * task.outer * task.updates * task.inner, [&](std::int64_t i) {
    const std::int64_t column = i % task.inner, own = i / task.inner % task.updates, unit = i / (task.inner * task.updates);
    const std::int64_t first = task.positions != nullptr ? task.positions[unit / task.outer] : 0;
    const std::int64_t row = task.circular ? (first + own) % task.length : first + own;
    y[(unit * task.length + row) * task.inner + column] = updates[i];
  });
}

__device__ inline float fold_two(Fold fold, float a, float b) {
  switch (fold) {
    case Fold::sum:
    case Fold::mean:
      return a + b;
    case Fold::min:
      return a != a ? a : b != b ? b : b < a ? b : a;
    case Fold::max:
      return a != a ? a : b != b ? b : a < b ? b : a;
    case Fold::prelu:
      return a < 0.0f ? a * b : a;
  }
  return a;
}
template <typename T>
__global__ void fold_all(const __grid_constant__ FoldTask task) {
  each(task.walk.total, [&](std::int64_t i) {
    std::int64_t at[FoldTask::kMost + 1];
    locate(task.walk, i, at);
    float value = widen(static_cast<const T*>(task.from[0])[at[1]]);
#pragma unroll
    for (int k = 1; k < FoldTask::kMost; ++k)
      if (k < task.count) value = fold_two(task.fold, value, widen(static_cast<const T*>(task.from[k])[at[k + 1]]));
    if (task.fold == Fold::mean) value /= static_cast<float>(task.count);
    static_cast<T*>(task.y)[at[0]] = narrow<T>(value);
  });
}

}  // namespace

cudaError_t launch_trilu(int element_bytes, const TriluTask& task, void* y, const void* a, cudaStream_t stream) {
  const std::int64_t total = task.all_rows * task.columns;
  if (total == 0) return cudaSuccess;
  return by_bytes(element_bytes, [&](auto t) {
    using T = decltype(t);
    trilu<T><<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task, static_cast<T*>(y), static_cast<const T*>(a));
  });
}

cudaError_t launch_one_hot(int element_bytes, const OneHotTask& task, void* y, const void* indices, const void* values,
                           cudaStream_t stream) {
  if (task.total == 0) return cudaSuccess;
  return by_bytes(element_bytes, [&](auto t) {
    using T = decltype(t);
    one_hot<T><<<blocks_for(task.total, kThreads), kThreads, 0, stream>>>(task, static_cast<T*>(y), indices, static_cast<const T*>(values));
  });
}

cudaError_t launch_check_positions(const CacheTask& task, std::uint64_t* worst, cudaStream_t stream) {
  const cudaError_t cleared = cudaMemsetAsync(worst, 0xff, sizeof *worst, stream);
  if (cleared != cudaSuccess || task.batch == 0) return cleared;
  check_positions<<<blocks_for(task.batch, kThreads), kThreads, 0, stream>>>(task, worst);
  return cudaGetLastError();
}

cudaError_t launch_cache_rows(int element_bytes, const CacheTask& task, void* y, const void* updates, cudaStream_t stream) {
  const std::int64_t total = task.batch * task.outer * task.updates * task.inner;
  if (total == 0) return cudaSuccess;
  return by_bytes(element_bytes, [&](auto t) {
    using T = decltype(t);
    cache_rows<T><<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task, static_cast<T*>(y), static_cast<const T*>(updates));
  });
}

cudaError_t launch_fold(const FoldTask& task, cudaStream_t stream) {
  if (task.walk.total == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(task.walk.total, kThreads);
  return by_float(task.type, [&](auto t) { fold_all<decltype(t)><<<blocks, kThreads, 0, stream>>>(task); });
}

}  // namespace forebay::cuda
