// Channels-last convolutions of one channel a group: a thread makes eight channels of a few neighbouring pixels. Taps are added in order.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/nhwc_numbers.cuh"
#include "runtime/cuda/nhwc_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kMostOctets = 8, kShared = 48 << 10;
constexpr int kMostBlocks = 528;               // they go from pixels to pixels: two turns of a large device
constexpr int kFewBlocks = 128, kFewRows = 8;  // small images: smaller blocks, on more multiprocessors
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

// The block's weights as f32, [tap, half of an octet, octet, 4]: neighbouring threads read neighbouring fours.
template <typename T, int kTaps>
__device__ inline void fetch_weights(const NhwcConvTask& task, int base, float* weights) {
  const int octets = static_cast<int>(blockDim.x), taps = kTaps > 0 ? kTaps : task.window.kernel[0] * task.window.kernel[1];
  const int thread = static_cast<int>(threadIdx.y) * octets + static_cast<int>(threadIdx.x),
            threads = octets * static_cast<int>(blockDim.y);
  const int slab_rows = static_cast<int>(task.w.rows), wide = min(octets * 8, task.filters - base);
#pragma unroll 4
  for (int i = thread; i < wide * taps; i += threads) {
    const int c = i / taps, tap = i - c * taps, slab = (base + c) / slab_rows;
    const T value = static_cast<const T*>(task.w.slabs[slab])[(base + c - slab * slab_rows) * taps + tap];
    weights[((tap * 2 + c / 4 % 2) * octets + c / 8) * 4 + c % 4] = widen(value);
  }
}
__device__ inline void read_weights(const float* weights, int tap, float (&to)[8]) {
  const int octets = static_cast<int>(blockDim.x), octet = static_cast<int>(threadIdx.x);
  const float4 low = *reinterpret_cast<const float4*>(weights + (tap * 2 * octets + octet) * 4),
               high = *reinterpret_cast<const float4*>(weights + ((tap * 2 + 1) * octets + octet) * 4);
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w, to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

// A row of taps over kEach neighbouring pixels. All that is read is asked for before anything is multiplied; zeros lie outside.
template <typename T, int kKernel, int kStride, int kEach>
__device__ inline void add_row(const T* x, int pitch, int left, int width, const float* weights, int tap, float (&sums)[kEach][8]) {
  constexpr int kPlaces = (kEach - 1) * kStride + kKernel;
  uint4 places[kPlaces];
#pragma unroll
  for (int place = 0; place < kPlaces; ++place) {
    const int ix = left + place;
    places[place] = make_uint4(0, 0, 0, 0);
    if (static_cast<unsigned>(ix) < static_cast<unsigned>(width))
      places[place] = *reinterpret_cast<const uint4*>(x + static_cast<std::int64_t>(ix) * pitch);
  }
  float row[kKernel][8];
#pragma unroll
  for (int kx = 0; kx < kKernel; ++kx) read_weights(weights, tap + kx, row[kx]);
#pragma unroll
  for (int place = 0; place < kPlaces; ++place) {
    float v[8];
    widen_eight(reinterpret_cast<const T*>(&places[place]), v);
#pragma unroll
    for (int p = 0; p < kEach; ++p) {
      const int kx = place - p * kStride;
      if (kx < 0 || kx >= kKernel) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[p][i] = fmaf(row[kx][i], v[i], sums[p][i]);
    }
  }
}

// Sizes known when compiled, or 0: those of the task. kEach neighbouring pixels of a row a thread. blockDim.x octets of channels, whose
// weights serve all the pixels that a block comes to.
template <typename T, int kKernel, int kStride, int kEach>
__global__ void __launch_bounds__(kThreads, 2) nhwc_depthwise(const __grid_constant__ NhwcConvTask task) {
  extern __shared__ __align__(16) float weights[];
  const NhwcWindow& window = task.window;
  const int kernel[2] = {kKernel > 0 ? kKernel : window.kernel[0], kKernel > 0 ? kKernel : window.kernel[1]};
  const int stride = kStride > 0 ? kStride : window.stride[1], base = static_cast<int>(blockIdx.y) * static_cast<int>(blockDim.x) * 8;
  fetch_weights<T, kKernel * kKernel>(task, base, weights);
  after_previous();
  __syncthreads();
  const int local = static_cast<int>(threadIdx.x) * 8, f = task.first + base + local, pitch = task.all_filters;
  if (base + local >= task.filters) return;
  const int runs = (window.out[1] + kEach - 1) / kEach, total = task.batch * window.out[0] * runs, rows = static_cast<int>(blockDim.y);
  for (int at = static_cast<int>(blockIdx.x) * rows + static_cast<int>(threadIdx.y); at < total; at += static_cast<int>(gridDim.x) * rows) {
    const int line = at / runs, ox = (at - line * runs) * kEach, image = line / window.out[0], oy = line - image * window.out[0];
    const int top = oy * window.stride[0] - window.pad[0], left = ox * stride - window.pad[1];
    float sums[kEach][8] = {};
#pragma unroll(kKernel == 3 ? 3 : 1)
    for (int ky = 0; ky < kernel[0]; ++ky) {
      const int iy = top + ky * window.dilation[0];
      if (iy < 0 || iy >= window.in[0]) continue;
      const T* const x = static_cast<const T*>(task.x) + (static_cast<std::int64_t>(image) * window.in[0] + iy) * window.in[1] * pitch + f;
      if constexpr (kKernel > 0) {
        add_row<T, kKernel, kStride, kEach>(x, pitch, left, window.in[1], weights, ky * kKernel, sums);
      } else {
        for (int kx = 0; kx < kernel[1]; ++kx)
          add_row<T, 1, 1, 1>(x, pitch, left + kx * window.dilation[1], window.in[1], weights, ky * kernel[1] + kx, sums);
      }
    }
    const std::int64_t pixel = static_cast<std::int64_t>(line) * window.out[1] + ox;
#pragma unroll
    for (int p = 0; p < kEach; ++p) {
      if (ox + p < window.out[1]) finish<T>(task, pixel + p, f, sums[p]);
    }
  }
}

template <typename T, int kKernel, int kStride, int kEach>
cudaError_t start(const NhwcConvTask& task, cudaStream_t stream) {
  const NhwcWindow& window = task.window;
  const int taps = window.kernel[0] * window.kernel[1], room = kShared / (taps * 32), most = room < kMostOctets ? room : kMostOctets;
  const int octets = task.filters / 8, tiles = (octets + most - 1) / most, wide = (octets + tiles - 1) / tiles;
  const int total = task.batch * window.out[0] * ((window.out[1] + kEach - 1) / kEach);
  int rows = kThreads / wide;
  while (rows > kFewRows && (total + rows - 1) / rows * tiles < kFewBlocks) rows /= 2;
  const int blocks = (total + rows - 1) / rows, together = kMostBlocks / tiles > 0 ? kMostBlocks / tiles : 1;
  cudaLaunchAttribute early{};
  const auto kernel = nhwc_depthwise<T, kKernel, kStride, kEach>;
  cudaFuncAttributes made;
  if (const cudaError_t told = cudaFuncGetAttributes(&made, kernel); told != cudaSuccess) return told;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < together ? blocks : together), static_cast<unsigned>(tiles));
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
  return by_types<__half, __nv_bfloat16>(task.type, [&](auto t) { return start_sizes<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
