#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/index_task.h"
#include "runtime/cuda/sort_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline std::int64_t index_at(const IndexTask& task, std::int64_t i) {
  return task.wide ? static_cast<const std::int64_t*>(task.indices)[i] : static_cast<const std::int32_t*>(task.indices)[i];
}
__device__ inline std::int64_t place_of(const IndexTask& task, std::int64_t tuple) {
  std::int64_t at[1];
  locate(task.base, tuple, at);
  for (int k = 0; k < task.depth; ++k) {
    const std::int64_t index = index_at(task, tuple * task.depth + k);
    at[0] += (index < 0 ? index + task.dims[k] : index) * task.strides[k];
  }
  return at[0];
}

__global__ void check_indices(const __grid_constant__ IndexTask task, std::uint64_t* worst) {
  const std::int64_t total = task.base.total * task.depth, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const std::int64_t index = index_at(task, i), dim = task.dims[i % task.depth];
    if (index < -dim || index >= dim) atomicMin(reinterpret_cast<unsigned long long*>(worst), static_cast<unsigned long long>(i));
  }
}

template <typename T>
__global__ void gather_tuples(const __grid_constant__ IndexTask task, T* y, const T* data) {
  const std::int64_t total = task.base.total * task.inner, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step)
    y[i] = data[place_of(task, i / task.inner) + i % task.inner];
}

// A key is the slice that a tuple names above the tuple's number: sorted, the updates of a slice lie side by side in their order.
__global__ void make_scatter_keys(const __grid_constant__ IndexTask task, std::uint64_t* keys, std::int64_t padded) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < padded; i += step) {
    const bool real = i < task.base.total;
    keys[i] = real ? static_cast<std::uint64_t>(place_of(task, i) / task.inner) << 32 | static_cast<std::uint64_t>(i) : ~std::uint64_t{0};
  }
}

template <Scatter kHow, typename W>
__device__ inline W meet(W a, W b) {
  if constexpr (kHow == Scatter::add) return a + b;
  if constexpr (kHow == Scatter::mul) return a * b;
  if constexpr (kHow == Scatter::min) return a != a ? a : b != b ? b : b < a ? b : a;
  if constexpr (kHow == Scatter::max) return a != a ? a : b != b ? b : a < b ? b : a;
  return b;
}
template <typename T>
__device__ inline auto wide_of(T x) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<std::make_unsigned_t<T>>(x);
  } else {
    return widen(x);
  }
}
template <Scatter kHow, typename T>
__device__ inline T joined(T a, T b) {
  if constexpr (!std::is_integral_v<T>) return narrow<T>(meet<kHow>(widen(a), widen(b)));
  if constexpr (std::is_integral_v<T> && (kHow == Scatter::min || kHow == Scatter::max)) return meet<kHow>(a, b);
  if constexpr (std::is_integral_v<T>) return static_cast<T>(meet<kHow>(wide_of(a), wide_of(b)));  // wraps
}

// Whoever holds the first update of a slice takes all of them; with `replace`, the last one alone.
template <Scatter kHow, typename T>
__global__ void scatter(const __grid_constant__ IndexTask task, T* y, const T* updates, const std::uint64_t* keys) {
  const std::int64_t count = task.base.total, total = count * task.inner, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const std::int64_t at = i / task.inner, element = i % task.inner;
    const std::uint64_t slice = keys[at] >> 32;
    T* const to = y + static_cast<std::int64_t>(slice) * task.inner + element;
    const auto update = [&](std::int64_t k) { return updates[static_cast<std::int64_t>(keys[k] & 0xffffffffu) * task.inner + element]; };
    if constexpr (kHow == Scatter::replace) {
      if (at + 1 == count || keys[at + 1] >> 32 != slice) *to = update(at);
    } else {
      if (at > 0 && keys[at - 1] >> 32 == slice) continue;
      T value = *to;
      for (std::int64_t k = at; k < count && keys[k] >> 32 == slice; ++k) value = joined<kHow>(value, update(k));
      *to = value;
    }
  }
}

template <Scatter kHow, typename T>
void start(const IndexTask& task, void* y, const void* updates, const std::uint64_t* keys, cudaStream_t stream) {
  scatter<kHow, T><<<blocks_for(task.base.total * task.inner, kThreads), kThreads, 0, stream>>>(task, static_cast<T*>(y),
                                                                                                static_cast<const T*>(updates), keys);
}
template <typename T>
void start_reduction(Scatter reduction, const IndexTask& task, void* y, const void* updates, const std::uint64_t* keys,
                     cudaStream_t stream) {
  if (reduction == Scatter::add) start<Scatter::add, T>(task, y, updates, keys, stream);
  if (reduction == Scatter::mul) start<Scatter::mul, T>(task, y, updates, keys, stream);
  if (reduction == Scatter::min) start<Scatter::min, T>(task, y, updates, keys, stream);
  if (reduction == Scatter::max) start<Scatter::max, T>(task, y, updates, keys, stream);
}

}  // namespace

cudaError_t launch_check_indices(const IndexTask& task, std::uint64_t* worst, cudaStream_t stream) {
  const cudaError_t cleared = cudaMemsetAsync(worst, 0xff, sizeof *worst, stream);
  const std::int64_t count = task.base.total * task.depth;
  if (cleared != cudaSuccess || count == 0) return cleared;
  check_indices<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(task, worst);
  return cudaGetLastError();
}

cudaError_t launch_gather_tuples(int element_bytes, const IndexTask& task, void* y, const void* data, cudaStream_t stream) {
  const std::int64_t count = task.base.total * task.inner;
  if (count == 0) return cudaSuccess;
  return by_bytes(element_bytes, [&](auto t) {
    using T = decltype(t);
    gather_tuples<T><<<blocks_for(count, kThreads), kThreads, 0, stream>>>(task, static_cast<T*>(y), static_cast<const T*>(data));
  });
}

bool scatters(Scatter reduction, DType type) {
  const bool number = type == DType::f32 || type == DType::f16 || type == DType::bf16 || type == DType::i32 || type == DType::i64;
  return reduction == Scatter::replace ? dtype_bits(type) >= 8 : number;
}

cudaError_t launch_scatter_tuples(Scatter reduction, DType type, const IndexTask& task, void* y, const void* updates, std::uint64_t* keys,
                                  cudaStream_t stream) {
  if (task.base.total * task.inner == 0) return cudaSuccess;
  const std::int64_t padded = sorted_length(task.base.total);
  make_scatter_keys<<<blocks_for(padded, kThreads), kThreads, 0, stream>>>(task, keys, padded);
  const cudaError_t sorted = launch_sort(keys, 1, padded, stream);
  if (sorted != cudaSuccess) return sorted;
  if (reduction == Scatter::replace)
    return by_bytes(dtype_bits(type) / 8, [&](auto t) { start<Scatter::replace, decltype(t)>(task, y, updates, keys, stream); });
  return by_types<float, __half, __nv_bfloat16, std::int32_t, std::int64_t>(
      type, [&](auto t) { start_reduction<decltype(t)>(reduction, task, y, updates, keys, stream); });
}

}  // namespace forebay::cuda
