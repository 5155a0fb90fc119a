#include <gtest/gtest.h>

#include "api/cuda_caller.h"

namespace forebay::test {
namespace {

__global__ void ramp(float* y, std::size_t count, float a, float b, long spins) {
  const long long begin = clock64();
  while (clock64() - begin < spins) {
  }
  const std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x;
  if (i < count) y[i] = a * static_cast<float>(i) + b;
}

__global__ void trap() { asm("trap;"); }

}  // namespace

void check_cuda(cudaError_t error, const char* what, int line) {
  EXPECT_EQ(error, cudaSuccess) << "line " << line << ": " << what << " gave " << cudaGetErrorName(error);
}

void launch_ramp(float* y, std::size_t count, float a, float b, long spins, cudaStream_t stream) {
  ramp<<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(y, count, a, b, spins);
  CUDA_OK(cudaGetLastError());
}

void launch_trap(cudaStream_t stream) {
  trap<<<1, 1, 0, stream>>>();
  CUDA_OK(cudaGetLastError());
}

}  // namespace forebay::test
