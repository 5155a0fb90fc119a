// Channels-last images: pools, means, products with a number a channel, and the way there from channels-first ones. Eight channels a
// thread.
#include "runtime/cuda/nhwc_numbers.cuh"
#include "runtime/cuda/nhwc_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

// Taps of one axis that count when padding does (ceil_mode windows may run past it).
__device__ inline int padded_taps(const NhwcWindow& window, int d, int start) {
  const int room = window.in[d] + window.pad_end[d] - start, taps = (room + window.dilation[d] - 1) / window.dilation[d];
  return taps < 0 ? 0 : taps > window.kernel[d] ? window.kernel[d] : taps;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) nhwc_pool(const __grid_constant__ NhwcPoolTask task) {
  after_previous();
  const NhwcWindow& window = task.window;
  const unsigned octets = static_cast<unsigned>(task.channels / 8),
                 total = static_cast<unsigned>(task.batch * window.out[0] * window.out[1]) * octets;
  for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < total; i += gridDim.x * kThreads) {
    const unsigned pixel = i / octets;
    const int c = static_cast<int>(i - pixel * octets) * 8, line = static_cast<int>(pixel) / window.out[1];
    const int ox = static_cast<int>(pixel) - line * window.out[1], image = line / window.out[0], oy = line - image * window.out[0];
    const int top = oy * window.stride[0] - window.pad[0], left = ox * window.stride[1] - window.pad[1];
    float values[8];
    int seen = 0;
    for (int k = 0; k < 8; ++k) values[k] = 0;
    for (int a = 0; a < window.kernel[0]; ++a) {
      const int p = top + a * window.dilation[0];
      if (p < 0 || p >= window.in[0]) continue;
      for (int b = 0; b < window.kernel[1]; ++b) {
        const int q = left + b * window.dilation[1];
        if (q < 0 || q >= window.in[1]) continue;
        float v[8];
        widen_eight(
            static_cast<const T*>(task.x) + ((static_cast<std::int64_t>(image) * window.in[0] + p) * window.in[1] + q) * task.channels + c,
            v);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          if (task.average) {
            values[k] += v[k];
          } else if (seen == 0 || v[k] > values[k] || (v[k] != v[k] && values[k] == values[k])) {
            values[k] = v[k];
          }
        }
        ++seen;
      }
    }
    const int count = task.count_pads ? padded_taps(window, 0, top) * padded_taps(window, 1, left) : seen;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (task.average) values[k] = count > 0 ? values[k] / static_cast<float>(count) : 0.0f;
      if (!task.average && seen == 0) values[k] = -INFINITY;
    }
    store_eight(static_cast<T*>(task.y) + static_cast<std::int64_t>(pixel) * task.channels + c, values);
  }
}

// A block has up to eight octets of channels; its rows of threads share the pixels, and their sums are added in order.
constexpr int kMeanOctets = 8, kMeanThreads = 512;
template <typename T>
__global__ void __launch_bounds__(kMeanThreads) nhwc_mean(const __grid_constant__ NhwcPoolTask task) {
  after_previous();
  __shared__ float shared[kMeanThreads][9];
  const int pixels = task.window.in[0] * task.window.in[1], octets = task.channels / 8;
  const int lane = static_cast<int>(threadIdx.x) % kMeanOctets, row = static_cast<int>(threadIdx.x) / kMeanOctets;
  constexpr int kRows = kMeanThreads / kMeanOctets;
  const int octet = static_cast<int>(blockIdx.x) * kMeanOctets + lane;
  const T* const x = static_cast<const T*>(task.x) + static_cast<std::int64_t>(blockIdx.y) * pixels * task.channels + octet * 8;
  float sums[8] = {};
  if (octet < octets) {
#pragma unroll 4
    for (int p = row; p < pixels; p += kRows) {
      float v[8];
      widen_eight(x + static_cast<std::int64_t>(p) * task.channels, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[i] += v[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) shared[threadIdx.x][i] = sums[i];
  for (int half = kRows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row >= half) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) shared[threadIdx.x][i] += shared[static_cast<int>(threadIdx.x) + half * kMeanOctets][i];
  }
  if (row != 0 || octet >= octets) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) sums[i] = shared[threadIdx.x][i] / static_cast<float>(pixels);
  store_eight(static_cast<T*>(task.y) + static_cast<std::int64_t>(blockIdx.y) * task.channels + octet * 8, sums);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) nhwc_scale(const __grid_constant__ NhwcScaleTask task) {
  after_previous();
  const std::int64_t octets = task.channels / 8, image = task.pixels * octets, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const auto across = static_cast<unsigned>(octets);
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < image; i += step) {
    const unsigned octet = static_cast<unsigned>(i) % across;
    const std::int64_t at = (blockIdx.y * image + i) * 8;
    float v[8], scale[8];
    widen_eight(static_cast<const T*>(task.x) + at, v);
    widen_eight(static_cast<const T*>(task.scale) + ((task.shared ? 0 : blockIdx.y * octets) + octet) * 8, scale);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] *= scale[k];
    store_eight(static_cast<T*>(task.y) + at, v);
  }
}

// 32 x 32 values a block, by way of shared memory; all its channels where there are few.
constexpr int kSide = 32, kRows = 8, kFew = 4;
__global__ void __launch_bounds__(kSide* kRows) nhwc_from(const __grid_constant__ NhwcFromTask task) {
  after_previous();
  __shared__ unsigned short tile[kSide][kSide + 2];
  const int p0 = static_cast<int>(blockIdx.x) * kSide, c0 = static_cast<int>(blockIdx.y) * kSide;
  const int lane = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  const auto* const x = static_cast<const unsigned short*>(task.x) + static_cast<std::int64_t>(blockIdx.z) * task.channels * task.pixels;
  auto* const y = static_cast<unsigned short*>(task.y) + static_cast<std::int64_t>(blockIdx.z) * task.wide * task.pixels;
  for (int r = row; r < kSide; r += kRows) {
    const int c = c0 + r, p = p0 + lane;
    tile[r][lane] = c < task.channels && p < task.pixels ? x[static_cast<std::int64_t>(c) * task.pixels + p] : 0;
  }
  __syncthreads();
  for (int r = row; r < kSide; r += kRows) {
    const int c = c0 + lane, p = p0 + r;
    if (c < task.wide && p < task.pixels) y[static_cast<std::int64_t>(p) * task.wide + c] = tile[lane][r];
  }
}
__global__ void __launch_bounds__(kThreads) nhwc_from_few(const __grid_constant__ NhwcFromTask task) {
  after_previous();
  const int p = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (p >= task.pixels) return;
  const auto* const x =
      static_cast<const unsigned short*>(task.x) + static_cast<std::int64_t>(blockIdx.y) * task.channels * task.pixels + p;
  unsigned short v[kFew];
#pragma unroll
  for (int c = 0; c < kFew; ++c) v[c] = c < task.channels ? x[static_cast<std::int64_t>(c) * task.pixels] : 0;
  static_cast<uint2*>(task.y)[static_cast<std::int64_t>(blockIdx.y) * task.pixels + p] =
      make_uint2(v[0] | static_cast<unsigned>(v[1]) << 16, v[2] | static_cast<unsigned>(v[3]) << 16);
}

unsigned across(std::int64_t count, int each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

template <typename Task>
cudaError_t launch_typed(DType type, void (*half)(Task), void (*brain)(Task), dim3 grid, unsigned threads, const Task& task,
                         cudaStream_t stream) {
  if (type != DType::f16 && type != DType::bf16) return cudaErrorInvalidValue;
  return launch_after(type == DType::f16 ? half : brain, grid, threads, 0, stream, task);
}

}  // namespace

cudaError_t launch_nhwc_pool(const NhwcPoolTask& task, cudaStream_t stream) {
  const std::int64_t total = static_cast<std::int64_t>(task.batch) * task.window.out[0] * task.window.out[1] * (task.channels / 8);
  if (total == 0) return cudaSuccess;
  return launch_typed(task.type, nhwc_pool<__half>, nhwc_pool<__nv_bfloat16>, dim3(blocks_for(total, kThreads)), kThreads, task, stream);
}

cudaError_t launch_nhwc_mean(const NhwcPoolTask& task, cudaStream_t stream) {
  if (task.batch == 0 || task.channels == 0) return cudaSuccess;
  const dim3 grid(across(task.channels / 8, kMeanOctets), static_cast<unsigned>(task.batch));
  return launch_typed(task.type, nhwc_mean<__half>, nhwc_mean<__nv_bfloat16>, grid, kMeanThreads, task, stream);
}

cudaError_t launch_nhwc_scale(const NhwcScaleTask& task, cudaStream_t stream) {
  if (task.batch == 0 || task.pixels == 0) return cudaSuccess;
  const dim3 grid(across(task.pixels * (task.channels / 8), kThreads), static_cast<unsigned>(task.batch));
  return launch_typed(task.type, nhwc_scale<__half>, nhwc_scale<__nv_bfloat16>, grid, kThreads, task, stream);
}

cudaError_t launch_nhwc_from(const NhwcFromTask& task, cudaStream_t stream) {
  if (task.batch == 0 || task.pixels == 0) return cudaSuccess;
  if (task.wide == kFew)
    return launch_after(nhwc_from_few, dim3(across(task.pixels, kThreads), static_cast<unsigned>(task.batch)), kThreads, 0, stream, task);
  const dim3 grid(across(task.pixels, kSide), across(task.wide, kSide), static_cast<unsigned>(task.batch));
  void (*const kernel)(NhwcFromTask) = nhwc_from;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kSide, kRows);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, task);
}

}  // namespace forebay::cuda
