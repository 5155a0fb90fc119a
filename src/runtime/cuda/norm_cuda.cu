// Norms: a block a row. Threads and the order of additions follow from the row's length alone.
#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kRun = 8;  // neighbours a thread takes at a time
constexpr int kMostThreads = 512;

// The sum over the block, in every thread: a tree of lanes, then one of warps.
__device__ inline float fold_block(float value) {
  __shared__ float warps[kMostThreads / 32];
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
  T values[kRun];
};
template <typename T>
__device__ inline void read_run(const void* data, std::int64_t at, std::int64_t length,
                                bool vectors, float (&to)[kRun]) {
  const T* from = static_cast<const T*>(data) + at;
  if (vectors) {
    const Run<T> run = *reinterpret_cast<const Run<T>*>(from);
#pragma unroll
    for (int i = 0; i < kRun; ++i) to[i] = widen(run.values[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) to[i] = i < length ? widen(from[i]) : 0.0f;
}
template <typename T>
__device__ inline void write_run(void* data, std::int64_t at, std::int64_t length, bool vectors,
                                 const float (&from)[kRun]) {
  T* to = static_cast<T*>(data) + at;
  Run<T> run;
#pragma unroll
  for (int i = 0; i < kRun; ++i) run.values[i] = narrow<T>(from[i]);
  if (vectors) {
    *reinterpret_cast<Run<T>*>(to) = run;
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    if (i < length) to[i] = run.values[i];
  }
}

// A run of the row with skip and bias, in f32 as it is normalised.
template <typename T>
__device__ inline void norm_input(const NormTask& task, bool vectors, std::int64_t row,
                                  std::int64_t skip_row, std::int64_t at, float (&x)[kRun]) {
  const std::int64_t left = task.length - at;
  read_run<T>(task.x, row * task.length + at, left, vectors, x);
  float more[kRun];
  if (task.skip != nullptr) {
    read_run<T>(task.skip, skip_row + at, left, vectors, more);
#pragma unroll
    for (int i = 0; i < kRun; ++i) x[i] += more[i];
  }
  if (task.bias == nullptr) return;
  read_run<T>(task.bias, at, left, vectors, more);
#pragma unroll
  for (int i = 0; i < kRun; ++i) x[i] += more[i];
}

template <typename T, typename S>
__device__ inline void norm_output(const NormTask& task, bool vectors, std::int64_t row,
                                   std::int64_t at, float mean, float inverse,
                                   const float (&x)[kRun], const float (&scale)[kRun]) {
  const std::int64_t left = task.length - at;
  float shift[kRun] = {}, y[kRun];
  if (task.shift != nullptr) read_run<S>(task.shift, at, left, vectors, shift);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    y[i] = (x[i] - mean) * inverse * scale[i];
    if (task.shift != nullptr) y[i] += shift[i];
  }
  if (task.sum != nullptr) write_run<T>(task.sum, row * task.length + at, left, vectors, x);
  write_run<S>(task.y, row * task.length + at, left, vectors, y);
}

// kKept runs of a thread stay in registers: rows of up to 4096, or 8192. Of short rows blocks are small enough to begin beside those of a
// product.
template <typename T, typename S, int kKept>
__global__ void __launch_bounds__(kMostThreads, kKept == 1 ? 2 : 1)
    norm(const __grid_constant__ NormTask task, bool vectors) {
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kRun,
                     step = static_cast<std::int64_t>(blockDim.x) * kRun;
  const auto count = static_cast<float>(task.length);
  float scales[kKept][kRun];
  const auto read_scales = [&] {
#pragma unroll
    for (int r = 0; r < kKept; ++r) {
      const std::int64_t at = first + r * step;
      if (at < task.length) read_run<S>(task.scale, at, task.length - at, vectors, scales[r]);
    }
  };
  if (task.constant_scale) read_scales();  // it comes from far away
  after_previous();
  if (!task.constant_scale) read_scales();
  for (std::int64_t row = blockIdx.x; row < task.rows; row += gridDim.x) {
    const std::int64_t skip_row = task.skip != nullptr ? row * task.length % task.skip_count : 0;
    float kept[kKept][kRun];
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
        float x[kRun], scale[kRun];
        read_run<S>(task.scale, at, task.length - at, vectors, scale);
        norm_input<T>(task, vectors, row, skip_row, at, x);
        f(at, x, scale);
      }
    };
    float mean = 0;
    if (task.centred) {
      float sum = 0;
      each([&](std::int64_t at, const float(&x)[kRun], const float(&)[kRun]) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) sum += at + i < task.length ? x[i] : 0.0f;
      });
      mean = fold_block(sum) / count;
    }
    float squares = 0;
    each([&](std::int64_t at, const float(&x)[kRun], const float(&)[kRun]) {
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        squares += at + i < task.length ? (x[i] - mean) * (x[i] - mean) : 0.0f;
    });
    const float inverse = 1.0f / sqrtf(fold_block(squares) / count + task.epsilon);
    each([&](std::int64_t at, const float(&x)[kRun], const float(&scale)[kRun]) {
      norm_output<T, S>(task, vectors, row, at, mean, inverse, x, scale);
    });
  }
}

// Rows of up to 1024, a warp each: many rows go by without meeting of warps. Sums are added as `norm` adds them, so that how many rows
// there are changes no bit.
constexpr int kRowRuns = 4, kRowThreads = 128, kManyRows = 264;

__device__ inline float fold_runs(float (&parts)[kRowRuns]) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
#pragma unroll
    for (int r = 0; r < kRowRuns; ++r) parts[r] += __shfl_xor_sync(0xffffffffu, parts[r], step);
  }
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) parts[r] += 0.0f;  // as the tree of warps adds nothing to its first: -0 becomes 0
  return (parts[0] + parts[2]) + (parts[1] + parts[3]);
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) norm_rows(const __grid_constant__ NormTask task) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / 32) + threadIdx.x / 32;
  const int first = static_cast<int>(threadIdx.x) % 32 * kRun, length = static_cast<int>(task.length);
  Run<T> scales[kRowRuns];
  const auto read_scales = [&] {
#pragma unroll
    for (int r = 0; r < kRowRuns; ++r) {
      const int at = first + r * 32 * kRun;
      if (at < length) scales[r] = *reinterpret_cast<const Run<T>*>(static_cast<const T*>(task.scale) + at);
    }
  };
  if (task.constant_scale) read_scales();  // it comes from far away
  after_previous();
  if (row >= task.rows) return;
  if (!task.constant_scale) read_scales();
  const std::int64_t begin = row * task.length,
                     skip_row = task.skip == nullptr || begin < task.skip_count ? begin : begin % task.skip_count;
  float kept[kRowRuns][kRun], sums[kRowRuns] = {}, squares[kRowRuns] = {}, mean = 0;
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) {
    const int at = first + r * 32 * kRun;
    if (at >= length) continue;
    norm_input<T>(task, true, row, skip_row, at, kept[r]);
#pragma unroll
    for (int i = 0; i < kRun; ++i) sums[r] += kept[r][i];
  }
  const auto count = static_cast<float>(task.length);
  if (task.centred) mean = fold_runs(sums) / count;
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) {
    if (first + r * 32 * kRun >= length) continue;
#pragma unroll
    for (int i = 0; i < kRun; ++i) squares[r] += (kept[r][i] - mean) * (kept[r][i] - mean);
  }
  const float inverse = 1.0f / sqrtf(fold_runs(squares) / count + task.epsilon);
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) {
    const int at = first + r * 32 * kRun;
    if (at >= length) continue;
    float scale[kRun];
#pragma unroll
    for (int i = 0; i < kRun; ++i) scale[i] = widen(scales[r].values[i]);
    norm_output<T, T>(task, true, row, at, mean, inverse, kept[r], scale);
  }
}

template <typename T, typename S>
cudaError_t start(const NormTask& task, cudaStream_t stream) {
  const std::int64_t runs = (task.length + kRun - 1) / kRun, warps = (runs + 31) / 32;
  const auto threads =
      static_cast<unsigned>(32 * (warps < kMostThreads / 32 ? warps : kMostThreads / 32));
  bool vectors = task.length % kRun == 0;
  for (const void* data : {task.x, task.skip, task.bias, task.scale, task.shift,
                           static_cast<const void*>(task.y), static_cast<const void*>(task.sum)}) {
    vectors = vectors && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  }
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, S>) {
    if (vectors && task.length <= kRowRuns * 32 * kRun && task.rows >= kManyRows && task.rows < (std::int64_t{1} << 31)) {
      const dim3 blocks(static_cast<unsigned>((task.rows + kRowThreads / 32 - 1) / (kRowThreads / 32)));
      return launch_after(norm_rows<T>, blocks, kRowThreads, 0, stream, task);
    }
  }
  const dim3 grid(static_cast<unsigned>(task.rows < 65535 ? task.rows : 65535));
  if (runs <= threads) return launch_after(norm<T, S, 1>, grid, threads, 0, stream, task, vectors);
  return launch_after(norm<T, S, 2>, grid, threads, 0, stream, task, vectors);
}
template <typename T>
cudaError_t by_scale(const NormTask& task, cudaStream_t stream) {
  switch (task.scale_type) {
    case DType::f32:
      return start<T, float>(task, stream);
    case DType::f16:
      return start<T, __half>(task, stream);
    case DType::bf16:
      return start<T, __nv_bfloat16>(task, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_norm(const NormTask& task, cudaStream_t stream) {
  if (task.rows == 0 || task.length == 0) return cudaSuccess;
  switch (task.type) {
    case DType::f32:
      return by_scale<float>(task, stream);
    case DType::f16:
      return by_scale<__half>(task, stream);
    case DType::bf16:
      return by_scale<__nv_bfloat16>(task, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace forebay::cuda
