// Channels-last convolutions of one channel a group: a thread makes eight channels of a few neighbouring pixels. Taps are added in order.
#include "runtime/cuda/nhwc_numbers.cuh"
#include "runtime/cuda/nhwc_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kMostOctets = 32, kShared = 48 << 10;
static_assert(kNhwcMostTaps * 32 <= kShared);

template <typename T>
__device__ inline void finish(const NhwcConvTask& task, std::int64_t pixel, int f, const float (&sums)[8]) {
  const std::int64_t at = pixel * task.all_filters + f;
  float shift[8] = {}, added[8] = {};
  if (task.bias != nullptr) widen_eight(static_cast<const T*>(task.bias) + f, shift);
  if (task.sum != nullptr) widen_eight(static_cast<const T*>(task.sum) + at, added);
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = sums[i] + shift[i] + added[i];
  activate_eight(task.activation, task.alpha, task.beta, v);
  store_eight(static_cast<T*>(task.y) + at, v);
}

// Sizes known when compiled, or 0: those of the task. kEach neighbouring pixels of a row a thread. blockDim.x octets of channels.
template <typename T, int kKernel, int kStride, int kEach>
__global__ void __launch_bounds__(kThreads) nhwc_depthwise(const __grid_constant__ NhwcConvTask task) {
  extern __shared__ float weights[];  // [tap, channel of the block]
  const NhwcWindow& window = task.window;
  const int kernel[2] = {kKernel > 0 ? kKernel : window.kernel[0], kKernel > 0 ? kKernel : window.kernel[1]};
  const int stride = kStride > 0 ? kStride : window.stride[1];
  const int octets = static_cast<int>(blockDim.x), wide = octets * 8, taps = kernel[0] * kernel[1];
  const int base = static_cast<int>(blockIdx.y) * wide, thread = static_cast<int>(threadIdx.y) * octets + static_cast<int>(threadIdx.x);
  for (int i = thread; i < wide * taps; i += octets * static_cast<int>(blockDim.y)) {
    const int c = i / taps, tap = i - c * taps, row = base + c;
    if (row >= task.filters) break;
    const int slab = row / static_cast<int>(task.w.rows);
    weights[tap * wide + c] = widen(static_cast<const T*>(task.w.slabs[slab])[(row - slab * static_cast<int>(task.w.rows)) * taps + tap]);
  }
  after_previous();
  __syncthreads();
  const int local = static_cast<int>(threadIdx.x) * 8;
  if (base + local >= task.filters) return;
  const int runs = (window.out[1] + kEach - 1) / kEach, total = task.batch * window.out[0] * runs;
  const int at = static_cast<int>(blockIdx.x) * static_cast<int>(blockDim.y) + static_cast<int>(threadIdx.y);
  if (at >= total) return;
  const int line = at / runs, ox = (at - line * runs) * kEach, image = line / window.out[0], oy = line - image * window.out[0];
  const int f = task.first + base + local, top = oy * window.stride[0] - window.pad[0], left = ox * stride - window.pad[1];
  float sums[kEach][8] = {};
  for (int ky = 0; ky < kernel[0]; ++ky) {
    const int iy = top + ky * window.dilation[0];
    if (iy < 0 || iy >= window.in[0]) continue;
    const T* const x =
        static_cast<const T*>(task.x) + (static_cast<std::int64_t>(image) * window.in[0] + iy) * window.in[1] * task.all_filters + f;
    const float* const w = weights + ky * kernel[1] * wide + local;
    if constexpr (kKernel > 0) {
      float row[kKernel][8];
#pragma unroll
      for (int kx = 0; kx < kKernel; ++kx) {
#pragma unroll
        for (int i = 0; i < 8; ++i) row[kx][i] = w[kx * wide + i];
      }
#pragma unroll
      for (int place = 0; place < (kEach - 1) * kStride + kKernel; ++place) {
        const int ix = left + place;
        if (ix < 0 || ix >= window.in[1]) continue;
        float v[8];
        widen_eight(x + static_cast<std::int64_t>(ix) * task.all_filters, v);
#pragma unroll
        for (int p = 0; p < kEach; ++p) {
          const int kx = place - p * kStride;
          if (kx < 0 || kx >= kKernel) continue;
#pragma unroll
          for (int i = 0; i < 8; ++i) sums[p][i] = fmaf(row[kx][i], v[i], sums[p][i]);
        }
      }
    } else {
      for (int kx = 0; kx < kernel[1]; ++kx) {
        const int ix = left + kx * window.dilation[1];
        if (ix < 0 || ix >= window.in[1]) continue;
        float v[8];
        widen_eight(x + static_cast<std::int64_t>(ix) * task.all_filters, v);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[0][i] = fmaf(w[kx * wide + i], v[i], sums[0][i]);
      }
    }
  }
  const std::int64_t pixel = static_cast<std::int64_t>(line) * window.out[1] + ox;
#pragma unroll
  for (int p = 0; p < kEach; ++p) {
    if (ox + p < window.out[1]) finish<T>(task, pixel + p, f, sums[p]);
  }
}

template <typename T, int kKernel, int kStride, int kEach>
cudaError_t start(const NhwcConvTask& task, cudaStream_t stream) {
  const NhwcWindow& window = task.window;
  const int taps = window.kernel[0] * window.kernel[1], room = kShared / (taps * 32), most = room < kMostOctets ? room : kMostOctets;
  const int octets = task.filters / 8, tiles = (octets + most - 1) / most, wide = (octets + tiles - 1) / tiles;
  const int rows = kThreads / wide, total = task.batch * window.out[0] * ((window.out[1] + kEach - 1) / kEach);
  cudaLaunchAttribute early{};
  const auto kernel = nhwc_depthwise<T, kKernel, kStride, kEach>;
  cudaFuncAttributes made;
  if (const cudaError_t told = cudaFuncGetAttributes(&made, kernel); told != cudaSuccess) return told;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((total + rows - 1) / rows), static_cast<unsigned>(tiles));
  config.blockDim = dim3(static_cast<unsigned>(wide), static_cast<unsigned>(rows));
  config.dynamicSmemBytes = static_cast<std::size_t>(taps * wide * 8) * sizeof(float);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = made.ptxVersion >= 90 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, task);
}

template <typename T>
cudaError_t start_sizes(const NhwcConvTask& task, cudaStream_t stream) {
  const NhwcWindow& w = task.window;
  const bool even = w.kernel[0] == w.kernel[1] && w.stride[0] == w.stride[1] && w.dilation[0] == 1 && w.dilation[1] == 1;
  if (even && w.kernel[0] == 3 && w.stride[0] == 1) return start<T, 3, 1, 4>(task, stream);
  if (even && w.kernel[0] == 3 && w.stride[0] == 2) return start<T, 3, 2, 4>(task, stream);
  if (even && w.kernel[0] == 5 && w.stride[0] == 1) return start<T, 5, 1, 4>(task, stream);
  if (even && w.kernel[0] == 5 && w.stride[0] == 2) return start<T, 5, 2, 2>(task, stream);
  return start<T, 0, 0, 1>(task, stream);
}

}  // namespace

cudaError_t launch_nhwc_depthwise(const NhwcConvTask& task, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.batch) * task.window.out[0] * task.window.out[1] * task.filters == 0) return cudaSuccess;
  switch (task.type) {
    case DType::f16:
      return start_sizes<__half>(task, stream);
    case DType::bf16:
      return start_sizes<__nv_bfloat16>(task, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace forebay::cuda
