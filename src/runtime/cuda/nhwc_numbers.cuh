// Eight neighbouring channels at once.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

template <typename T>
struct alignas(16) NhwcEight {
  T values[8];
};
template <typename T>
__device__ inline void widen_eight(const T* from, float (&to)[8]) {
  const NhwcEight<T> eight = *reinterpret_cast<const NhwcEight<T>*>(from);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = widen(eight.values[i]);
}
template <typename T>
__device__ inline void store_eight(T* to, const float (&from)[8]) {
  NhwcEight<T> eight;
#pragma unroll
  for (int i = 0; i < 8; ++i) eight.values[i] = narrow<T>(from[i]);
  *reinterpret_cast<NhwcEight<T>*>(to) = eight;
}

// 1 / (1 + exp(-x)) without the care for the smallest numbers, which is most of the work: they vanish beside 1 and when rounded to 16 bits.
__device__ inline float quick_sigmoid(float x) {
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
}

// As activate. The exponential is the device's own: a few steps of f32 off, which the rounding to 16 bits does not show, at a fifth of the
// time; EfficientNet spends as much on SiLU as on its memory otherwise.
__device__ inline void activate_eight(Activation activation, float alpha, float beta, float (&v)[8]) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = v[i] < 0.0f ? 0.0f : v[i];
      return;
    case Activation::swish:
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] *= quick_sigmoid(alpha * v[i]);
      return;
    case Activation::sigmoid:
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = quick_sigmoid(v[i]);
      return;
    default:
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = activate(activation, alpha, beta, v[i]);
  }
}

// As launch_after, blocks in clusters where `cluster` has more than one.
template <typename Task>
cudaError_t launch_clusters(void (*kernel)(Task), dim3 grid, int threads, int bytes, dim3 cluster, const Task& task, cudaStream_t stream) {
  cudaFuncAttributes made;
  if (const cudaError_t told = cudaFuncGetAttributes(&made, kernel); told != cudaSuccess) return told;
  if (const cudaError_t asked = allow_shared(kernel, made, static_cast<std::size_t>(bytes)); asked != cudaSuccess) return asked;
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (made.ptxVersion >= 90) {  // code made for older devices has no wait in it, wherever it runs
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster.x * cluster.y * cluster.z > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {cluster.x, cluster.y, cluster.z};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, task);
}

}  // namespace forebay::cuda
