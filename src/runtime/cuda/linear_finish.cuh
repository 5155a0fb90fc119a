// Sums of activation(x * W' + bias) to outputs.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"
#include "runtime/cuda/linear_task.h"

namespace forebay::cuda {

// Its code at every place that finishes sums would be most of a kernel, and take longer to fetch than to run.
static __device__ __noinline__ float activate_apart(Activation activation, float alpha, float beta, float x) {
  return activate(activation, alpha, beta, x);
}
// x Phi(x), Phi(-y) as 2^(y P(y) - 1): within 8e-6 of it up to 6.5 and falling behind, a fortieth of what 16 bits can tell apart, and a
// third of erff's instructions, which would take as long as the products.
__device__ inline float gelu_of_16(float x) {
  const float y = fabsf(x);
  float p = -1.760324380484235e-06f;
  p = fmaf(p, y, 6.00019957346376e-05f);
  p = fmaf(p, y, -0.000917044235393405f);
  p = fmaf(p, y, 0.008451073430478573f);
  p = fmaf(p, y, -0.05383552983403206f);
  p = fmaf(p, y, -0.45859789848327637f);
  p = fmaf(p, y, -1.1511940956115723f);
  float below;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(below) : "f"(fmaf(p, y, -1.0f)));
  return x * (x > 0 ? 1.0f - below : below);
}
// x / (1 + e^-(alpha x)) by the device's own exponential and reciprocal: a few steps of f32 off.
__device__ inline float swish_of_16(float alpha, float x) {
  constexpr float kLog2E = 1.4426950408889634f;
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-alpha * kLog2E * x));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return x * result;
}
template <typename Task>
__device__ inline float activate_linear(const Task& task, float x) {
  if (task.activation == Activation::none) return x;
  if (task.activation == Activation::gelu) return gelu_of_16(x);
  if (task.activation == Activation::swish) return swish_of_16(task.alpha, x);
  return activate_apart(task.activation, task.alpha, task.beta, x);
}

// kWide (1, 4 or 8) sums of a row, at a multiple of 16 bytes when there are several, from a column of the call on.
template <typename T, int kWide, typename Task>
__device__ inline void finish_linear(const Task& task, int row, int column, const float* sums) {
  struct alignas(sizeof(T) * kWide) Values {
    T values[kWide];
  };
  const int at = task.first + column;
  Values bias, out;
  alignas(16) float mine[kWide];  // four at a time: neighbours in a warp would read the same banks
#pragma unroll
  for (int i = 0; i < kWide; i += 4) {
    if constexpr (kWide % 4 == 0) {
      *reinterpret_cast<float4*>(mine + i) = *reinterpret_cast<const float4*>(sums + i);
    } else {
      mine[i] = sums[i];
    }
  }
  if (task.bias != nullptr) bias = *reinterpret_cast<const Values*>(static_cast<const T*>(task.bias) + at);
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    const float value = task.bias != nullptr ? mine[i] + widen(bias.values[i]) : mine[i];
    out.values[i] = narrow<T>(activate_linear(task, value));
  }
  *reinterpret_cast<Values*>(static_cast<T*>(task.y) + static_cast<std::int64_t>(row) * task.all_columns + at) = out;
}

// For 9.0 and up: may begin before what runs ahead has ended, `pair` neighbours, or the blocks of a sum's splits, in a cluster.
template <typename Group>
cudaError_t launch_linear(void (*kernel)(Group), int blocks, int threads, int bytes, const Group& group, cudaStream_t stream,
                          unsigned pair = 1) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const auto splits = static_cast<unsigned>(group.tasks[0].splits);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {pair, 1, splits};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks), 1, splits);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = splits > 1 || pair > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, group);
}

}  // namespace forebay::cuda
