// Rows: one block a row, a fixed number of threads and a fixed tree, so that the order of additions
// depends on the length alone.
#include <cfloat>

#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

template <typename F>
__device__ inline float fold_block(float value, F&& join) {
  __shared__ float shared[kThreads];
  __syncthreads();  // the last fold's result has been read
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
  }
  return shared[0];
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  __device__ float operator()(float a, float b) const {
    return a != a ? a : b != b ? b : a < b ? b : a;
  }
};
template <typename T>
__global__ void softmax(std::int64_t rows, std::int64_t length, T* y, const T* a) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = a + row * length;
    T* to = y + row * length;
    float most = -INFINITY;
    for (std::int64_t i = threadIdx.x; i < length; i += kThreads)
      most = Max()(most, widen(from[i]));
    most = fold_block(most, Max());
    float sum = 0;
    for (std::int64_t i = threadIdx.x; i < length; i += kThreads)
      sum += expf(widen(from[i]) - most);
    sum = fold_block(sum, Sum());
    for (std::int64_t i = threadIdx.x; i < length; i += kThreads)
      to[i] = narrow<T>(expf(widen(from[i]) - most) / sum);
  }
}

unsigned blocks_of(std::int64_t rows) {
  return static_cast<unsigned>(rows < 65535 ? rows : 65535);
}

}  // namespace

cudaError_t launch_softmax(DType type, std::int64_t rows, std::int64_t length, void* y,
                           const void* a, cudaStream_t stream) {
  if (rows == 0 || length == 0) return cudaSuccess;
  return by_float(type, [&](auto t) {
    using T = decltype(t);
    softmax<<<blocks_of(rows), kThreads, 0, stream>>>(rows, length, static_cast<T*>(y), static_cast<const T*>(a));
  });
}

}  // namespace forebay::cuda
