// Convolutions of one tap without steps or padding: images are matrices as they lie, channels x pixels. Steps of 32 channels, fetched a
// few ahead; the order of additions is that of conv_mma_cuda.cu.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/conv_tile.cuh"

namespace forebay::cuda {
namespace {

constexpr int kPitch = kConvDepth + 8, kChunks = kConvDepth / 8, kStages = 4;

// kWide pixels a copy: 8 or 4, of one image.
template <typename T, int kTile, int kRows, int kWide>
__global__ void __launch_bounds__(kTile / kRows * kTile) conv_point(const __grid_constant__ ConvTask task) {
  constexpr int kThreads = kTile / kRows * kTile, kPasses = kChunks * kTile / kThreads, kAcross = kTile / 32;
  constexpr int kPixels = kTile + 8, kWeights = kTile * kPitch, kStage = kWeights + kConvDepth * kPixels, kCopies = kTile / kWide;
  extern __shared__ __align__(16) unsigned short shared[];
  const ConvPlace place{static_cast<int>(blockIdx.z) / task.splits, static_cast<int>(blockIdx.z) % task.splits,
                        static_cast<int>(blockIdx.y) * kTile, static_cast<int>(blockIdx.x) * kTile};
  const int steps = (task.channels + kConvDepth - 1) / kConvDepth, thread = static_cast<int>(threadIdx.x), lane = thread % 32,
            warp = thread / 32;
  const int begin = steps * place.split / task.splits, end = steps * (place.split + 1) / task.splits;
  const unsigned short* rows[kPasses];
#pragma unroll
  for (int p = 0; p < kPasses; ++p) {
    const int m = place.m0 + (thread + p * kThreads) / kChunks;
    rows[p] = m < task.filters ? weight_row<unsigned short>(task, place.group * task.filters + m, task.channels) : nullptr;
  }
  const int column = thread % kCopies * kWide, n = place.n0 + column;
  const unsigned short* x = nullptr;
  if (n < task.batch * task.out_size) {
    const int image = n / task.out_size, pixel = n - image * task.out_size;
    x = static_cast<const unsigned short*>(task.x) +
        (static_cast<std::int64_t>(image) * task.groups + place.group) * task.channels * task.in_size + pixel;
  }
  const auto fetch = [&](int step) {
    unsigned short* const stage = shared + step % kStages * kStage;
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int row = (thread + p * kThreads) / kChunks, part = (thread + p * kThreads) % kChunks * 8, k = step * kConvDepth + part;
      copy_async<16>(stage + row * kPitch + part, step < end && k < task.channels && rows[p] != nullptr ? rows[p] + k : nullptr);
    }
#pragma unroll
    for (int row = thread / kCopies; row < kConvDepth; row += kThreads / kCopies) {
      const int k = step * kConvDepth + row;
      const bool inside = step < end && k < task.channels && x != nullptr;
      copy_async<kWide * 2>(stage + kWeights + row * kPixels + column, inside ? x + static_cast<std::int64_t>(k) * task.in_size : nullptr);
    }
    end_copies();
  };
  float sums[kRows / 16][4][4] = {};
  const int row0 = warp / kAcross * kRows, column0 = warp % kAcross * 32;
  for (int step = begin; step < begin + kStages - 1; ++step) fetch(step);
  for (int step = begin; step < end; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    fetch(step + kStages - 1);
    const unsigned short* const w_tile = shared + step % kStages * kStage;
    const unsigned short* const x_tile = w_tile + kWeights;
#pragma unroll
    for (int k = 0; k < kConvDepth; k += 16) {
      unsigned a[kRows / 16][4], b[2][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) load_matrices(a[i], &w_tile[(row0 + i * 16 + lane % 16) * kPitch + k + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 2; ++j) load_turned(b[j], &x_tile[(k + lane % 16) * kPixels + column0 + j * 16 + lane / 16 * 8]);
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  await_copies<0>();
  finish_tile<T, kTile, kRows, kThreads>(task, place, sums, reinterpret_cast<float*>(shared));
}

template <typename T, int kTile, int kRows>
cudaError_t start(const ConvTask& task, cudaStream_t stream) {
  constexpr int kBytes = kStages * (kTile * kPitch + kConvDepth * (kTile + 8)) * static_cast<int>(sizeof(unsigned short));
  static_assert(kBytes >= 64 * kTile * static_cast<int>(sizeof(float)));
  const auto kernel = task.out_size % 8 == 0 ? conv_point<T, kTile, kRows, 8> : conv_point<T, kTile, kRows, 4>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  return error == cudaSuccess
             ? launch_split(kernel, conv_grid(task, kTile), kTile / kRows * kTile, kBytes, task.clusters ? task.splits : 1, task, stream)
             : error;
}

}  // namespace

cudaError_t start_conv_point(const ConvTask& task, ConvTile tile, cudaStream_t stream) {
  const bool small = tile == ConvTile::small;
  return by_types<__half, __nv_bfloat16>(
      task.type, [&](auto t) { return small ? start<decltype(t), 64, 32>(task, stream) : start<decltype(t), 128, 64>(task, stream); });
}

}  // namespace forebay::cuda
