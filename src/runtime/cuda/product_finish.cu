// Sums that a library made, to outputs: alpha, C, the activation, the output's type. Four columns to a thread where they lie so.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T x[4];
};

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads) finish_rows(const __grid_constant__ ProductTask task) {
  constexpr int kColumns = kWide ? 4 : 1;
  const std::int64_t n = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kColumns;
  if (n >= task.n) return;
  for (std::int64_t m = blockIdx.y; m < task.m; m += gridDim.y) {
    const float* const from = task.sums + m * task.sums_row + n;
    T* const to = static_cast<T*>(task.y) + m * task.y_row + n;
    if constexpr (kWide) {
      const float4 sums = *reinterpret_cast<const float4*>(from);
      Four<T> four;
      four.x[0] = narrow<T>(finished(task, m, n, sums.x));
      four.x[1] = narrow<T>(finished(task, m, n + 1, sums.y));
      four.x[2] = narrow<T>(finished(task, m, n + 2, sums.z));
      four.x[3] = narrow<T>(finished(task, m, n + 3, sums.w));
      *reinterpret_cast<Four<T>*>(to) = four;
    } else {
      *to = narrow<T>(finished(task, m, n, *from));
    }
  }
}

template <typename T>
cudaError_t start(const ProductTask& task, cudaStream_t stream) {
  const auto fits = [](const void* data, std::int64_t row, std::size_t size) {
    return reinterpret_cast<std::uintptr_t>(data) % (4 * size) == 0 && row % 4 == 0;
  };
  const bool wide = task.n % 4 == 0 && fits(task.sums, task.sums_row, sizeof(float)) && fits(task.y, task.y_row, sizeof(T));
  const std::int64_t columns = wide ? task.n / 4 : task.n;
  const dim3 grid(static_cast<unsigned>((columns + kThreads - 1) / kThreads), static_cast<unsigned>(task.m < 65535 ? task.m : 65535));
  if (wide) {
    finish_rows<T, true><<<grid, kThreads, 0, stream>>>(task);
  } else {
    finish_rows<T, false><<<grid, kThreads, 0, stream>>>(task);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_finish(const ProductTask& task, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0) return cudaSuccess;
  return by_float(task.y_type, [&](auto t) { return start<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
