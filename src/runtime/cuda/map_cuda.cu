#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/map_task.h"

namespace forebay::cuda {
namespace {

constexpr unsigned kThreads = 256;

__device__ inline float mapped(MapOp op, float alpha, float beta, float x) {
  switch (op) {
    case MapOp::sign:
      return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
    case MapOp::round:
      return rintf(x);
    case MapOp::tan:
      return tanf(x);
    case MapOp::asin:
      return asinf(x);
    case MapOp::acos:
      return acosf(x);
    case MapOp::atan:
      return atanf(x);
    case MapOp::sinh:
      return sinhf(x);
    case MapOp::cosh:
      return coshf(x);
    case MapOp::asinh:
      return asinhf(x);
    case MapOp::acosh:
      return acoshf(x);
    case MapOp::atanh:
      return atanhf(x);
    case MapOp::elu:
      return x < 0.0f ? alpha * expm1f(x) : x;
    case MapOp::selu:
      return beta * (x > 0.0f ? x : alpha * expm1f(x));
    case MapOp::celu:
      return x < 0.0f ? alpha * expm1f(x / alpha) : x;
    case MapOp::thresholded_relu:
      return x > alpha ? x : 0.0f;
    case MapOp::softplus:
      return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
    case MapOp::softsign:
      return x / (1.0f + fabsf(x));
    case MapOp::shrink:
      return x < -alpha ? x + beta : x > alpha ? x - beta : 0.0f;
    case MapOp::clip: {
      const float raised = x < alpha ? alpha : x;
      return raised > beta ? beta : raised;
    }
    case MapOp::is_nan:
      return x != x;
    case MapOp::is_inf:
      return (alpha != 0.0f && x == -INFINITY) || (beta != 0.0f && x == INFINITY);
  }
  return x;
}

template <typename T>
__global__ void map_floats(const __grid_constant__ MapTask task) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const float alpha = task.low != nullptr ? widen(*static_cast<const T*>(task.low)) : task.alpha;
  const float beta = task.high != nullptr ? widen(*static_cast<const T*>(task.high)) : task.beta;
  const bool predicate = task.op == MapOp::is_nan || task.op == MapOp::is_inf;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < task.count; i += step) {
    const float y = mapped(task.op, alpha, beta, widen(static_cast<const T*>(task.a)[i]));
    if (predicate) {
      static_cast<std::uint8_t*>(task.y)[i] = y != 0.0f;
    } else {
      static_cast<T*>(task.y)[i] = narrow<T>(y);
    }
  }
}

__global__ void negate(std::int64_t count, std::uint8_t* y, const std::uint8_t* a) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) y[i] = a[i] == 0;
}

template <typename T>
__global__ void table_copy(const __grid_constant__ TableTask task) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < task.total; i += step) {
    std::int64_t rest = i, from = 0;
    bool inside = true;
    for (int d = task.rank - 1; d >= 0; --d) {
      const int place = task.tables[task.first[d] + rest % task.out[d]];
      rest /= task.out[d];
      inside = inside && place >= 0;
      from += place * task.strides[d];
    }
    static_cast<T*>(task.y)[i] = inside                 ? static_cast<const T*>(task.a)[from]
                                 : task.fill != nullptr ? *static_cast<const T*>(task.fill)
                                                        : T(0);
  }
}

template <typename T>
__global__ void table_mix(const __grid_constant__ TableTask task) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < task.total; i += step) {
    int entry[kMaxRank], tap[kMaxRank];
    std::int64_t rest = i;
    bool inside = true;
    for (int d = task.rank - 1; d >= 0; --d) {
      entry[d] = task.first[d] + static_cast<int>(rest % task.out[d]) * task.width[d];
      rest /= task.out[d];
      tap[d] = 0;
      inside = inside && task.tables[entry[d]] >= 0;
    }
    float sum = 0;
    while (inside) {
      float weight = 1;
      std::int64_t from = 0;
      for (int d = 0; d < task.rank; ++d) {
        weight *= task.weights[entry[d] + tap[d]];
        from += task.tables[entry[d] + tap[d]] * task.strides[d];
      }
      if (weight != 0.0f) sum = fmaf(weight, widen(static_cast<const T*>(task.a)[from]), sum);
      int d = task.rank - 1;
      while (d >= 0 && ++tap[d] == task.width[d]) tap[d--] = 0;
      if (d < 0) break;
    }
    static_cast<T*>(task.y)[i] = narrow<T>(inside ? sum : task.fill_value);
  }
}

}  // namespace

cudaError_t launch_map(const MapTask& task, cudaStream_t stream) {
  if (task.count == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(task.count, kThreads);
  return by_float(task.type, [&](auto t) { map_floats<decltype(t)><<<blocks, kThreads, 0, stream>>>(task); });
}

cudaError_t launch_not(std::int64_t count, void* y, const void* a, cudaStream_t stream) {
  if (count > 0)
    negate<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(count, static_cast<std::uint8_t*>(y), static_cast<const std::uint8_t*>(a));
  return cudaGetLastError();
}

cudaError_t launch_table_copy(const TableTask& task, cudaStream_t stream) {
  if (task.total == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(task.total, kThreads);
  return by_bytes(task.element_bytes, [&](auto t) { table_copy<decltype(t)><<<blocks, kThreads, 0, stream>>>(task); });
}

cudaError_t launch_table_mix(const TableTask& task, cudaStream_t stream) {
  if (task.total == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(task.total, kThreads);
  return by_float(task.type, [&](auto t) { table_mix<decltype(t)><<<blocks, kThreads, 0, stream>>>(task); });
}

}  // namespace forebay::cuda
