// Squeeze and excite of channels-last images in one launch: the mean of all pixels, two products, an activation behind each. The blocks of
// a cluster share an image's pixels; each then has all sums, makes all squeezed values and its share of the factors. Numbers stay f32 in
// between.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/mma_numbers.cuh"
#include "runtime/cuda/nhwc_numbers.cuh"
#include "runtime/cuda/nhwc_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kMostSplits = 8;

// Weights, which nobody writes, into the second cache; the first blocks do it for all.
__device__ inline void fetch_ahead(const void* weights, std::int64_t bytes) {
  constexpr std::int64_t kLine = 128;
  for (std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kLine; at < bytes;
       at += gridDim.x * kThreads * kLine)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(weights) + at));
}

__device__ inline void meet_others(int splits) {
  if (splits > 1) {
    meet_cluster();
  } else {
    __syncthreads();
  }
}

// Sums of this block's pixels. Threads side by side take octets of channels, rows of threads take turns at the pixels.
template <typename T>
__device__ inline void add_pixels(const NhwcSqueezeTask& task, int image, int split, float* sums, float (*shared)[9]) {
  const int thread = static_cast<int>(threadIdx.x), octets = task.channels / 8, octet = thread % octets, row = thread / octets;
  int rows = 1;
  while (rows * 2 * octets <= kThreads) rows *= 2;
  const int begin = static_cast<int>(static_cast<std::int64_t>(task.pixels) * split / task.splits),
            end = static_cast<int>(static_cast<std::int64_t>(task.pixels) * (split + 1) / task.splits);
  const T* const x = static_cast<const T*>(task.x) + static_cast<std::int64_t>(image) * task.pixels * task.channels + octet * 8;
  float own[8] = {};
  if (row < rows) {
#pragma unroll 4
    for (int p = begin + row; p < end; p += rows) {
      float v[8];
      widen_eight(x + static_cast<std::int64_t>(p) * task.channels, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) own[i] += v[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) shared[thread][i] = own[i];
  for (int half = rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row >= half) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) shared[thread][i] += shared[thread + half * octets][i];
  }
  if (row != 0) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) sums[octet * 8 + i] = shared[thread][i];
}

// A warp a value.
template <typename T>
__device__ inline void squeeze(const NhwcSqueezeTask& task, const float* mean, float* squeezed) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const T* const bias = static_cast<const T*>(task.bias[0]);
  for (int j = warp; j < task.squeezed; j += kWarps) {
    const T* const w = static_cast<const T*>(task.w[0]) + static_cast<std::int64_t>(j) * task.channels;
    float sum = 0;
    for (int c = lane * 8; c < task.channels; c += 256) {
      float v[8];
      widen_eight(w + c, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(v[i], mean[c + i], sum);
    }
#pragma unroll
    for (int far = 16; far > 0; far /= 2) sum += __shfl_xor_sync(~0u, sum, far);
    if (bias != nullptr) sum += widen(bias[j]);
    if (lane == 0) squeezed[j] = activate(task.activation[0], task.alpha[0], task.beta[0], sum);
  }
}

// Four lanes a factor.
template <typename T>
__device__ inline void excite(const NhwcSqueezeTask& task, int image, int split, const float* squeezed) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = task.factors * split / task.splits, end = task.factors * (split + 1) / task.splits;
  const T* const bias = static_cast<const T*>(task.bias[1]);
  for (int first = begin + warp * 8; first < end; first += kWarps * 8) {
    const int f = first + lane / 4;
    float sum = 0;
    if (f < end) {
      const T* const w = static_cast<const T*>(task.w[1]) + static_cast<std::int64_t>(f) * task.squeezed;
#pragma unroll 4
      for (int j = lane % 4; j < task.squeezed; j += 4) sum = fmaf(widen(w[j]), squeezed[j], sum);
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (f >= end || lane % 4 != 0) continue;
    if (bias != nullptr) sum += widen(bias[f]);
    static_cast<T*>(task.y)[static_cast<std::int64_t>(image) * task.factors + f] =
        narrow<T>(activate(task.activation[1], task.alpha[1], task.beta[1], sum));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) nhwc_squeeze(const __grid_constant__ NhwcSqueezeTask task) {
  extern __shared__ float memory[];
  float *const sums = memory, *const mean = sums + task.channels, *const squeezed = mean + task.channels;
  const int split = static_cast<int>(blockIdx.x) % task.splits, image = static_cast<int>(blockIdx.x) / task.splits;
  fetch_ahead(task.w[0], static_cast<std::int64_t>(task.squeezed) * task.channels * 2);
  fetch_ahead(task.w[1], static_cast<std::int64_t>(task.factors) * task.squeezed * 2);
  after_previous();
  add_pixels<T>(task, image, split, sums, reinterpret_cast<float(*)[9]>(squeezed + task.squeezed));
  meet_others(task.splits);
  for (int c = static_cast<int>(threadIdx.x); c < task.channels; c += kThreads) {
    float parts[kMostSplits], sum = 0;
#pragma unroll
    for (int s = 0; s < kMostSplits; ++s) {  // all on their way before the first is added
      parts[s] = 0;
      if (s < task.splits) parts[s] = task.splits > 1 ? peer_value(sums + c, s) : sums[c];
    }
#pragma unroll
    for (int s = 0; s < kMostSplits; ++s) sum += parts[s];
    mean[c] = sum / static_cast<float>(task.pixels);
  }
  meet_others(task.splits);  // nobody leaves while others read
  squeeze<T>(task, mean, squeezed);
  __syncthreads();
  excite<T>(task, image, split, squeezed);
}

template <typename T>
cudaError_t start(const NhwcSqueezeTask& task, cudaStream_t stream) {
  const auto splits = static_cast<unsigned>(task.splits > 1 ? task.splits : 1);
  return launch_clusters(nhwc_squeeze<T>, dim3(static_cast<unsigned>(task.batch * task.splits)), kThreads,
                         nhwc_squeeze_bytes(task.channels, task.squeezed), dim3(splits), task, stream);
}

}  // namespace

int nhwc_squeeze_bytes(int channels, int squeezed) {
  return (2 * channels + squeezed + kThreads * 9) * static_cast<int>(sizeof(float));
}

cudaError_t launch_nhwc_squeeze(const NhwcSqueezeTask& task, cudaStream_t stream) {
  if (task.batch == 0) return cudaSuccess;
  return by_types<__half, __nv_bfloat16>(task.type, [&](auto t) { return start<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
