// Bitonic sorting: what lies in one block of keys is sorted in shared memory, longer distances go through memory.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/sort_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr int kSorters = 1024, kShared = 2 * kSorters;  // keys of a block

__device__ inline void exchange(std::uint64_t& a, std::uint64_t& b, bool ascending) {
  if ((a > b) == ascending) {
    const std::uint64_t other = a;
    a = b;
    b = other;
  }
}

// The stages `from` to `to` of a bitonic sort, as far as they stay within a block; of the first one all distances that do.
__global__ void __launch_bounds__(kSorters)
    sort_shared(std::uint64_t* keys, std::int64_t total, std::int64_t length, std::int64_t from, std::int64_t to) {
  __shared__ std::uint64_t own[kShared];
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * kShared;
  for (int i = static_cast<int>(threadIdx.x); i < kShared; i += kSorters) own[i] = base + i < total ? keys[base + i] : ~std::uint64_t{0};
  for (std::int64_t stage = from; stage <= to; stage *= 2) {
    for (std::int64_t distance = stage / 2 < kSorters ? stage / 2 : kSorters; distance > 0; distance /= 2) {
      __syncthreads();
      const int d = static_cast<int>(distance), p = static_cast<int>(threadIdx.x), i = p / d * 2 * d + p % d;
      exchange(own[i], own[i + d], (((base + i) & (length - 1)) & stage) == 0);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kShared; i += kSorters)
    if (base + i < total) keys[base + i] = own[i];
}

__global__ void __launch_bounds__(kThreads)
    sort_far(std::uint64_t* keys, std::int64_t total, std::int64_t length, std::int64_t stage, std::int64_t distance) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; p < total / 2; p += step) {
    const std::int64_t i = p / distance * 2 * distance + p % distance;
    exchange(keys[i], keys[i + distance], ((i & (length - 1)) & stage) == 0);
  }
}

// Grows with the value; -0 is 0, and all NaNs are one.
__device__ inline std::uint32_t order_of(float x) {
  if (x != x) return 0xffffffffu;
  const std::uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline std::uint32_t order_of(__half x) {
  return order_of(widen(x));
}
__device__ inline std::uint32_t order_of(__nv_bfloat16 x) {
  return order_of(widen(x));
}
__device__ inline std::uint32_t order_of(std::int32_t x) {
  return static_cast<std::uint32_t>(x) ^ 0x80000000u;
}
// The best has the smallest key.
template <typename T>
__device__ inline std::uint64_t key_of(T x, std::int64_t place, bool most, bool last) {
  const std::uint32_t order = order_of(x), at = static_cast<std::uint32_t>(place);
  return static_cast<std::uint64_t>(most ? ~order : order) << 32 | (last ? ~at : at);
}

__device__ inline std::int64_t line_at(const AxisTask& axis, std::int64_t line) {
  return line / axis.inner * axis.length * axis.inner + line % axis.inner;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) make_keys(const __grid_constant__ TopKTask task, std::int64_t padded) {
  const std::int64_t total = task.lines * padded, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const std::int64_t place = i % padded;
    const T* const line = static_cast<const T*>(task.axis.a) + line_at(task.axis, task.first + i / padded);
    task.keys[i] = place < task.axis.length ? key_of(line[place * task.axis.inner], place, task.largest, false) : ~std::uint64_t{0};
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) take_first(const __grid_constant__ TopKTask task, std::int64_t padded) {
  const std::int64_t total = task.lines * task.k, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const std::int64_t own = i / task.k, rank = i % task.k, line = task.first + own, inner = task.axis.inner;
    const auto place = static_cast<std::int64_t>(task.keys[own * padded + rank] & 0xffffffffu);
    const std::int64_t to = (line / inner * task.k + rank) * inner + line % inner;
    if (task.axis.y != nullptr)
      static_cast<T*>(task.axis.y)[to] = static_cast<const T*>(task.axis.a)[line_at(task.axis, line) + place * inner];
    if (task.places != nullptr) task.places[to] = place;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) arg_block(const __grid_constant__ AxisTask task, bool most, bool last) {
  __shared__ std::uint64_t warps[kThreads / kWarp];
  for (std::int64_t line = blockIdx.x; line < task.outer * task.inner; line += gridDim.x) {
    const T* const a = static_cast<const T*>(task.a) + line_at(task, line);
    std::uint64_t best = ~std::uint64_t{0};
    for (std::int64_t i = threadIdx.x; i < task.length; i += kThreads) {
      const std::uint64_t key = key_of(a[i * task.inner], i, most, last);
      best = key < best ? key : best;
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      const std::uint64_t other = __shfl_xor_sync(0xffffffffu, best, step);
      best = other < best ? other : best;
    }
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (const std::uint64_t other : warps) best = other < best ? other : best;
      const auto at = static_cast<std::uint32_t>(best);
      static_cast<std::int64_t*>(task.y)[line] = last ? ~at : at;
    }
    __syncthreads();
  }
}

template <typename T>
struct Sum {
  using Type = float;
};
template <>
struct Sum<std::int32_t> {
  using Type = std::uint32_t;  // wraps
};
template <>
struct Sum<std::int64_t> {
  using Type = unsigned long long;
};
template <typename T>
__device__ inline typename Sum<T>::Type load_sum(T x) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<typename Sum<T>::Type>(x);
  } else {
    return widen(x);
  }
}
template <typename T>
__device__ inline T store_sum(typename Sum<T>::Type x) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(x);
  } else {
    return narrow<T>(x);
  }
}

// kThreads values at a time: sums within warps, over the warps before, and of all before.
template <typename T>
__global__ void __launch_bounds__(kThreads) cumsum_block(const __grid_constant__ AxisTask task, bool exclusive, bool reverse) {
  using S = typename Sum<T>::Type;
  __shared__ S warps[kThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (std::int64_t line = blockIdx.x; line < task.outer * task.inner; line += gridDim.x) {
    const std::int64_t at = line_at(task, line);
    S before = 0;
    for (std::int64_t first = 0; first < task.length; first += kThreads) {
      const std::int64_t i = first + threadIdx.x, place = at + (reverse ? task.length - 1 - i : i) * task.inner;
      const S own = i < task.length ? load_sum(static_cast<const T*>(task.a)[place]) : S(0);
      S sum = own;
      for (int step = 1; step < kWarp; step *= 2) {
        const S other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum = other + sum;
      }
      // What lies before the own value, so that nothing has to be taken off again.
      S left = __shfl_up_sync(0xffffffffu, sum, 1);
      if (lane == 0) left = 0;
      if (lane == kWarp - 1) warps[warp] = sum;
      __syncthreads();
      S prefix = before;
      for (int w = 0; w < warp; ++w) prefix += warps[w];
      if (i < task.length) static_cast<T*>(task.y)[place] = store_sum<T>(exclusive ? prefix + left : prefix + sum);
      for (int w = 0; w < kThreads / kWarp; ++w) before += warps[w];
      __syncthreads();
    }
  }
}

unsigned line_blocks(const AxisTask& task) {
  const std::int64_t lines = task.outer * task.inner;
  return static_cast<unsigned>(lines < 65535 ? lines : 65535);
}

// start(T()) for the types of orders().
template <typename F>
cudaError_t by_order(DType type, F&& start) {
  return by_types<float, __half, __nv_bfloat16, std::int32_t>(type, start);
}

}  // namespace

std::int64_t sorted_length(std::int64_t count) {
  std::int64_t length = 2;
  while (length < count) length *= 2;
  return length;
}

cudaError_t launch_sort(std::uint64_t* keys, std::int64_t lines, std::int64_t length, cudaStream_t stream) {
  const std::int64_t total = lines * length;
  if (total == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((total + kShared - 1) / kShared);
  sort_shared<<<blocks, kSorters, 0, stream>>>(keys, total, length, 2, length < kShared ? length : kShared);
  for (std::int64_t stage = 2 * kShared; stage <= length; stage *= 2) {
    for (std::int64_t distance = stage / 2; distance > kSorters; distance /= 2)
      sort_far<<<blocks_for(total / 2, kThreads), kThreads, 0, stream>>>(keys, total, length, stage, distance);
    sort_shared<<<blocks, kSorters, 0, stream>>>(keys, total, length, stage, stage);
  }
  return cudaGetLastError();
}

bool orders(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16 || type == DType::i32;
}

cudaError_t launch_top_k(const TopKTask& task, cudaStream_t stream) {
  if (task.lines == 0 || task.k == 0) return cudaSuccess;
  const std::int64_t padded = sorted_length(task.axis.length);
  return by_order(task.axis.type, [&](auto t) {
    using T = decltype(t);
    make_keys<T><<<blocks_for(task.lines * padded, kThreads), kThreads, 0, stream>>>(task, padded);
    if (launch_sort(task.keys, task.lines, padded, stream) != cudaSuccess) return;
    take_first<T><<<blocks_for(task.lines * task.k, kThreads), kThreads, 0, stream>>>(task, padded);
  });
}

cudaError_t launch_long_arg(const AxisTask& task, bool most, bool last, cudaStream_t stream) {
  if (task.outer * task.inner * task.length == 0) return cudaSuccess;
  return by_order(task.type, [&](auto t) { arg_block<decltype(t)><<<line_blocks(task), kThreads, 0, stream>>>(task, most, last); });
}

cudaError_t launch_long_cumsum(const AxisTask& task, bool exclusive, bool reverse, cudaStream_t stream) {
  if (task.outer * task.inner * task.length == 0) return cudaSuccess;
  const auto start = [&](auto t) { cumsum_block<decltype(t)><<<line_blocks(task), kThreads, 0, stream>>>(task, exclusive, reverse); };
  if (task.type != DType::i64) return by_order(task.type, start);
  start(std::int64_t());
  return cudaGetLastError();
}

}  // namespace forebay::cuda
