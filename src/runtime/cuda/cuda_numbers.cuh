// Reading and writing numbers in kernels. Floats are computed in f32 and rounded once, to nearest
// even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

__device__ inline float widen(float x) {
  return x;
}
__device__ inline float widen(__half x) {
  return __half2float(x);
}
__device__ inline float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <typename T>
__device__ inline T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

__device__ inline float activate(Activation activation, float alpha, float beta, float x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x < 0.0f ? 0.0f : x;
    case Activation::leaky_relu: return x < 0.0f ? alpha * x : x;
    case Activation::clip: return x < alpha ? alpha : x > beta ? beta : x;
    case Activation::sigmoid: return 1.0f / (1.0f + expf(-x));
    case Activation::tanh: return tanhf(x);
    case Activation::hard_sigmoid: return fminf(1.0f, fmaxf(0.0f, alpha * x + beta));
    case Activation::hard_swish: return x * fminf(1.0f, fmaxf(0.0f, x / 6.0f + 0.5f));
    case Activation::swish: return x / (1.0f + expf(-alpha * x));
    case Activation::mish: return x * tanhf(log1pf(expf(-fabsf(x))) + fmaxf(x, 0.0f));
    case Activation::gelu: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
    case Activation::gelu_tanh: return 0.5f * x * (1.0f + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
  }
  return x;
}

inline unsigned blocks_for(std::int64_t count, unsigned threads) {
  const std::int64_t blocks = (count + threads - 1) / threads;
  return static_cast<unsigned>(blocks > 65535 * 16 ? 65535 * 16 : blocks < 1 ? 1 : blocks);
}

// A kernel that is launched by launch_after may start before the one ahead of it on the stream has ended: until after_previous() it touches
// nothing that others write. Every block calls it, so that whoever waits for this kernel has waited for all before it.
__device__ inline void after_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A launch that wants more shared memory than its kernel may have asks for all there is: other threads launch the same kernel with other
// sizes, and what one asks for has to be enough for all.
template <typename Kernel>
cudaError_t allow_shared(Kernel kernel, const cudaFuncAttributes& made, std::size_t shared) {
  if (shared <= static_cast<std::size_t>(made.maxDynamicSharedSizeBytes)) return cudaSuccess;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - static_cast<int>(made.sharedSizeBytes));
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_after(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared, cudaStream_t stream,
                         Arguments... arguments) {
  cudaFuncAttributes made;
  if (const cudaError_t told = cudaFuncGetAttributes(&made, kernel); told != cudaSuccess) return told;
  if (const cudaError_t asked = allow_shared(kernel, made, shared); asked != cudaSuccess) return asked;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = made.ptxVersion >= 90 ? 1 : 0;  // code made for older devices has no wait in it, wherever it runs
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

// 16 bytes that nobody reads again.
__device__ inline uint4 read_once(const void* from) {
  uint4 bits;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

// Places of element `index` in each operand.
template <int N>
__device__ inline void locate(const Walk& walk, std::int64_t index, std::int64_t (&at)[N]) {
#pragma unroll
  for (int o = 0; o < N; ++o) at[o] = 0;
  if (walk.rank == 1) {
#pragma unroll
    for (int o = 0; o < N; ++o) at[o] = index * walk.strides[o][0];
    return;
  }
  std::uint64_t rest = static_cast<std::uint64_t>(index);
  for (int d = walk.rank - 1; d >= 0; --d) {
    const auto size = static_cast<std::uint64_t>(walk.dims[d]);
    std::uint64_t quotient, place;
    if ((rest | size) >> 32 == 0) {  // a 64-bit division is a subroutine
      quotient = static_cast<std::uint32_t>(rest) / static_cast<std::uint32_t>(size);
      place = static_cast<std::uint32_t>(rest) -
              static_cast<std::uint32_t>(quotient) * static_cast<std::uint32_t>(size);
    } else {
      quotient = rest / size;
      place = rest - quotient * size;
    }
#pragma unroll
    for (int o = 0; o < N; ++o) at[o] += static_cast<std::int64_t>(place) * walk.strides[o][d];
    rest = quotient;
  }
}

}  // namespace forebay::cuda
