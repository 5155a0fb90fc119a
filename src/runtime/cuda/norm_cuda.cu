// Norms: a block a row.
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

template <typename T, typename S>
cudaError_t start(const NormTask& task, cudaStream_t stream) {
  const std::int64_t runs = (task.length + kNormRun - 1) / kNormRun, warps = (runs + 31) / 32;
  const auto threads = static_cast<unsigned>(32 * (warps < kMostNormThreads / 32 ? warps : kMostNormThreads / 32));
  bool vectors = task.length % kNormRun == 0;
  for (const void* data : {task.x, task.skip, task.bias, task.scale, task.shift,
                           static_cast<const void*>(task.y), static_cast<const void*>(task.sum)}) {
    vectors = vectors && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
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
