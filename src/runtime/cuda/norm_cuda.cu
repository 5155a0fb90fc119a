// Norms: a block a row, or a warp where there are many short ones.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/norm_parts.cuh"

namespace forebay::cuda {
namespace {

// kKept runs of a thread stay in registers: rows of up to 4096, or 8192. Of short rows blocks are small enough to begin beside those of a
// product.
template <typename T, typename S, int kKept>
__global__ void __launch_bounds__(kMostNormThreads, kKept == 1 ? 2 : 1) norm(const __grid_constant__ NormTask task, bool vectors) {
  float scales[kKept][kNormRun];
  if (task.constant_scale) read_scales<S>(task, vectors, scales);  // it comes from far away
  after_previous();
  if (!task.constant_scale) read_scales<S>(task, vectors, scales);
  for (std::int64_t row = blockIdx.x; row < task.rows; row += gridDim.x) {
    norm_row<T, S>(task, vectors, row, scales, [&](std::int64_t at, const float(&x)[kNormRun], const float(&y)[kNormRun]) {
      const std::int64_t left = task.length - at;
      if (task.sum != nullptr) write_run<T>(task.sum, row * task.length + at, left, vectors, x);
      write_run<S>(task.y, row * task.length + at, left, vectors, y);
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
  const int first = static_cast<int>(threadIdx.x) % 32 * kNormRun, length = static_cast<int>(task.length);
  Run<T> scales[kRowRuns];
  const auto read_scales = [&] {
#pragma unroll
    for (int r = 0; r < kRowRuns; ++r) {
      const int at = first + r * 32 * kNormRun;
      if (at < length) scales[r] = *reinterpret_cast<const Run<T>*>(static_cast<const T*>(task.scale) + at);
    }
  };
  if (task.constant_scale) read_scales();  // it comes from far away
  after_previous();
  if (row >= task.rows) return;
  if (!task.constant_scale) read_scales();
  const std::int64_t begin = row * task.length,
                     skip_row = task.skip == nullptr || begin < task.skip_count ? begin : begin % task.skip_count;
  float kept[kRowRuns][kNormRun], sums[kRowRuns] = {}, squares[kRowRuns] = {}, mean = 0;
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) {
    const int at = first + r * 32 * kNormRun;
    if (at >= length) continue;
    norm_input<T>(task, true, row, skip_row, at, kept[r]);
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) sums[r] += kept[r][i];
  }
  const auto count = static_cast<float>(task.length);
  if (task.centred) mean = fold_runs(sums) / count;
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) {
    if (first + r * 32 * kNormRun >= length) continue;
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) squares[r] += (kept[r][i] - mean) * (kept[r][i] - mean);
  }
  const float inverse = 1.0f / sqrtf(fold_runs(squares) / count + task.epsilon);
#pragma unroll
  for (int r = 0; r < kRowRuns; ++r) {
    const int at = first + r * 32 * kNormRun;
    if (at >= length) continue;
    float scale[kNormRun];
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) scale[i] = widen(scales[r].values[i]);
    float y[kNormRun];
    norm_output<T>(task, true, at, mean, inverse, kept[r], scale, y);
    if (task.sum != nullptr) write_run<T>(task.sum, begin + at, kNormRun, true, kept[r]);
    write_run<T>(task.y, begin + at, kNormRun, true, y);
  }
}

template <typename T, typename S>
cudaError_t start(const NormTask& task, cudaStream_t stream) {
  const std::int64_t runs = (task.length + kNormRun - 1) / kNormRun, warps = (runs + 31) / 32;
  const auto threads = static_cast<unsigned>(32 * (warps < kMostNormThreads / 32 ? warps : kMostNormThreads / 32));
  bool vectors = task.length % kNormRun == 0;
  for (const void* data : {task.x, task.skip, task.bias, task.scale, task.shift,
                           static_cast<const void*>(task.y), static_cast<const void*>(task.sum)}) {
    vectors = vectors && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  }
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, S>) {
    if (vectors && task.length <= kRowRuns * 32 * kNormRun && task.rows >= kManyRows && task.rows < (std::int64_t{1} << 31)) {
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
  return by_float(task.scale_type, [&](auto t) { return start<T, decltype(t)>(task, stream); });
}

}  // namespace

cudaError_t launch_norm(const NormTask& task, cudaStream_t stream) {
  if (task.rows == 0 || task.length == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { return by_scale<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
