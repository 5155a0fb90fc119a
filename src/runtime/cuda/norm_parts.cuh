// What the kernels of norms share: a block a row. Threads and the order of additions follow from the row's length alone: up to 512 threads
// with eight neighbours each; threads beyond a shorter row change no sum.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

inline constexpr int kNormRun = 8;  // neighbours a thread takes at a time
inline constexpr int kMostNormThreads = 512;

// The sum over the block, in every thread: a tree of lanes, then one of warps.
__device__ inline float fold_block(float value) {
  __shared__ float warps[kMostNormThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32, count = static_cast<int>(blockDim.x) / 32;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();  // the last fold's results have been read
  if (lane == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = lane < count ? warps[lane] : 0.0f;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

template <typename T>
struct alignas(16) Run {
  T values[kNormRun];
};
template <typename T>
__device__ inline void read_run(const void* data, std::int64_t at, std::int64_t length, bool vectors, float (&to)[kNormRun]) {
  const T* from = static_cast<const T*>(data) + at;
  if (vectors) {
    const Run<T> run = *reinterpret_cast<const Run<T>*>(from);
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) to[i] = widen(run.values[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) to[i] = i < length ? widen(from[i]) : 0.0f;
}
template <typename T>
__device__ inline void write_run(void* data, std::int64_t at, std::int64_t length, bool vectors, const float (&from)[kNormRun]) {
  T* to = static_cast<T*>(data) + at;
  Run<T> run;
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) run.values[i] = narrow<T>(from[i]);
  if (vectors) {
    *reinterpret_cast<Run<T>*>(to) = run;
    return;
  }
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) {
    if (i < length) to[i] = run.values[i];
  }
}

// A run of the row with skip and bias, in f32 as it is normalised.
template <typename T>
__device__ inline void norm_input(const NormTask& task, bool vectors, std::int64_t row, std::int64_t skip_row, std::int64_t at,
                                  float (&x)[kNormRun]) {
  const std::int64_t left = task.length - at;
  read_run<T>(task.x, row * task.length + at, left, vectors, x);
  float more[kNormRun];
  if (task.skip != nullptr) {
    read_run<T>(task.skip, skip_row + at, left, vectors, more);
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) x[i] += more[i];
  }
  if (task.bias == nullptr) return;
  read_run<T>(task.bias, at, left, vectors, more);
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) x[i] += more[i];
}

// y of a run of the row, as it is before it is rounded.
template <typename S>
__device__ inline void norm_output(const NormTask& task, bool vectors, std::int64_t at, float mean, float inverse, const float (&x)[kNormRun],
                                   const float (&scale)[kNormRun], float (&y)[kNormRun]) {
  float shift[kNormRun] = {};
  if (task.shift != nullptr) read_run<S>(task.shift, at, task.length - at, vectors, shift);
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) {
    y[i] = (x[i] - mean) * inverse * scale[i];
    if (task.shift != nullptr) y[i] += shift[i];
  }
}

template <typename S, int kKept>
__device__ inline void read_scales(const NormTask& task, bool vectors, float (&scales)[kKept][kNormRun]) {
#pragma unroll
  for (int r = 0; r < kKept; ++r) {
    const std::int64_t at = (threadIdx.x + std::int64_t{r} * blockDim.x) * kNormRun;
    if (at < task.length) read_run<S>(task.scale, at, task.length - at, vectors, scales[r]);
  }
}

// A row of a block: put(at, x, y) with each run of this thread, before and after. kKept runs stay in registers, with their scales.
template <typename T, typename S, int kKept, typename Put>
__device__ inline void norm_row(const NormTask& task, bool vectors, std::int64_t row, const float (&scales)[kKept][kNormRun],
                                const Put& put) {
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kNormRun, step = static_cast<std::int64_t>(blockDim.x) * kNormRun,
                     skip_row = task.skip != nullptr ? row * task.length % task.skip_count : 0;
  const auto count = static_cast<float>(task.length);
  float kept[kKept][kNormRun];
#pragma unroll
  for (int r = 0; r < kKept; ++r) {
    const std::int64_t at = first + r * step;
    if (at < task.length) norm_input<T>(task, vectors, row, skip_row, at, kept[r]);
  }
  // Calls f with each run of this thread and its scale, in order.
  const auto each = [&](auto&& f) {
#pragma unroll
    for (int r = 0; r < kKept; ++r) {
      if (first + r * step < task.length) f(first + r * step, kept[r], scales[r]);
    }
    for (std::int64_t at = first + kKept * step; at < task.length; at += step) {
      float x[kNormRun], scale[kNormRun];
      read_run<S>(task.scale, at, task.length - at, vectors, scale);
      norm_input<T>(task, vectors, row, skip_row, at, x);
      f(at, x, scale);
    }
  };
  float mean = 0;
  if (task.centred) {
    float sum = 0;
    each([&](std::int64_t at, const float(&x)[kNormRun], const float(&)[kNormRun]) {
#pragma unroll
      for (int i = 0; i < kNormRun; ++i) sum += at + i < task.length ? x[i] : 0.0f;
    });
    mean = fold_block(sum) / count;
  }
  float squares = 0;
  each([&](std::int64_t at, const float(&x)[kNormRun], const float(&)[kNormRun]) {
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) squares += at + i < task.length ? (x[i] - mean) * (x[i] - mean) : 0.0f;
  });
  const float inverse = 1.0f / sqrtf(fold_block(squares) / count + task.epsilon);
  each([&](std::int64_t at, const float(&x)[kNormRun], const float(&scale)[kNormRun]) {
    float y[kNormRun];
    norm_output<S>(task, vectors, at, mean, inverse, x, scale, y);
    put(at, x, y);
  });
}

}  // namespace forebay::cuda
