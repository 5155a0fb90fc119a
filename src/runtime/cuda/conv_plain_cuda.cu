// Convolutions in f32 for every float type: a tiled product over gathered values, for convolutions and their transposes alike, and one
// thread an output where a group has one channel.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/conv_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256, kEach = 4;

// Offset in a channel's plane of the value that output pixel `pixel` meets at `tap`; -1 outside.
__device__ inline int place_of(const ConvTask& task, int pixel, int tap) {
  const int o[3] = {pixel / (task.out[1] * task.out[2]), pixel / task.out[2] % task.out[1], pixel % task.out[2]};
  const int t[3] = {tap / (task.kernel[1] * task.kernel[2]), tap / task.kernel[2] % task.kernel[1], tap % task.kernel[2]};
  int at = 0;
  for (int d = 0; d < 3; ++d) {
    int place =
        task.transposed ? o[d] + task.pad[d] - t[d] * task.dilation[d] : o[d] * task.stride[d] - task.pad[d] + t[d] * task.dilation[d];
    if (task.transposed) {
      if (place < 0 || place % task.stride[d] != 0) return -1;
      place /= task.stride[d];
    }
    if (place < 0 || place >= task.in[d]) return -1;
    at = at * task.in[d] + place;
  }
  return at;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) conv_plain(const __grid_constant__ ConvTask task) {
  __shared__ float a_tile[kDepth][kTile], b_tile[kDepth][kTile];
  const int group = static_cast<int>(blockIdx.z), n0 = static_cast<int>(blockIdx.x) * kTile, m0 = static_cast<int>(blockIdx.y) * kTile;
  const int columns = task.batch * task.out_size, depth = task.channels * task.taps, thread = static_cast<int>(threadIdx.x);
  const int n = n0 + thread % kTile, image = n / task.out_size, pixel = n % task.out_size;
  const T* const x =
      static_cast<const T*>(task.x) + (static_cast<std::int64_t>(image) * task.groups + group) * task.channels * task.in_size;
  float sums[kEach][kEach] = {};
  for (int k0 = 0; k0 < depth; k0 += kDepth) {
    for (int i = thread; i < kDepth * kTile; i += kThreads) {
      // Rows of W are read along k where they lie so.
      const int k = k0 + (task.transposed ? i / kTile : i % kDepth), row = task.transposed ? i % kTile : i / kDepth, m = m0 + row;
      float value = 0;
      if (k < depth && m < task.filters) {
        const std::int64_t channel = k / task.taps, tap = k % task.taps;
        value = widen(task.transposed
                          ? static_cast<const T*>(task.w.slabs[0])[((group * task.channels + channel) * task.filters + m) * task.taps + tap]
                          : weight_row<T>(task, group * task.filters + m, depth)[k]);
      }
      a_tile[k - k0][row] = value;
    }
    for (int i = thread / kTile; i < kDepth; i += kThreads / kTile) {
      const int k = k0 + i;
      float value = 0;
      if (k < depth && n < columns) {
        const int place = place_of(task, pixel, k % task.taps);
        if (place >= 0) value = widen(x[static_cast<std::int64_t>(k / task.taps) * task.in_size + place]);
      }
      b_tile[i][thread % kTile] = value;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float a[kEach], b[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        a[i] = a_tile[k][thread / 16 * kEach + i];
        b[i] = b_tile[k][thread % 16 + i * 16];
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int m = m0 + thread / 16 * kEach + i, at = n0 + thread % 16 + j * 16;
      if (m < task.filters && at < columns) finish_conv<T>(task, task.first + group * task.filters + m, at, sums[i][j]);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) conv_depthwise(const __grid_constant__ ConvTask task) {
  const std::int64_t total = static_cast<std::int64_t>(task.batch) * task.filters * task.out_size,
                     step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const int each = task.all_filters / task.groups;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    int pixel, row;
    const auto image = static_cast<int>(divide(divide(i, task.out_size, pixel), task.filters, row));
    const int f = task.first + row;
    const T* const x = static_cast<const T*>(task.x) + (static_cast<std::int64_t>(image) * task.groups + f / each) * task.in_size;
    const T* const w = weight_row<T>(task, row, task.taps);
    const int o[3] = {pixel / (task.out[1] * task.out[2]), pixel / task.out[2] % task.out[1], pixel % task.out[2]};
    const int at[3] = {o[0] * task.stride[0] - task.pad[0], o[1] * task.stride[1] - task.pad[1], o[2] * task.stride[2] - task.pad[2]};
    float sum = 0;
    for (int a = 0; a < task.kernel[0]; ++a) {
      const int p = at[0] + a * task.dilation[0];
      if (p < 0 || p >= task.in[0]) continue;
      for (int b = 0; b < task.kernel[1]; ++b) {
        const int q = at[1] + b * task.dilation[1];
        if (q < 0 || q >= task.in[1]) continue;
        for (int c = 0; c < task.kernel[2]; ++c) {
          const int r = at[2] + c * task.dilation[2];
          if (r < 0 || r >= task.in[2]) continue;
          sum = fmaf(widen(w[(a * task.kernel[1] + b) * task.kernel[2] + c]), widen(x[(p * task.in[1] + q) * task.in[2] + r]), sum);
        }
      }
    }
    finish_conv<T>(task, f, image * task.out_size + pixel, sum);
  }
}

template <typename T>
cudaError_t start_plain(const ConvTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.batch * task.out_size + kTile - 1) / kTile),
                  static_cast<unsigned>((task.filters + kTile - 1) / kTile), static_cast<unsigned>(task.groups));
  conv_plain<T><<<grid, kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}
template <typename T>
cudaError_t start_depthwise(const ConvTask& task, cudaStream_t stream) {
  const std::int64_t total = static_cast<std::int64_t>(task.batch) * task.filters * task.out_size;
  conv_depthwise<T><<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_conv_plain(const ConvTask& task, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.batch) * task.out_size * task.filters == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { return start_plain<decltype(t)>(task, stream); });
}

cudaError_t launch_conv_depthwise(const ConvTask& task, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.batch) * task.out_size * task.filters == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { return start_depthwise<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
