// From the sums of a block's warps to outputs: through shared memory, so that neighbouring threads write neighbouring pixels.
#pragma once

#include "runtime/cuda/conv_numbers.cuh"
#include "runtime/cuda/mma_numbers.cuh"

namespace forebay::cuda {

// A block's outputs: filters from m0 of the group's, images and pixels from n0.
struct ConvPlace {
  int group, split, m0, n0;
};

// kWide sums of filter `m` of the group, from image and pixel n on, all of one image, become outputs.
template <typename T, int kWide>
__device__ inline void finish_pixels(const ConvTask& task, int group, int m, int n, const float* sums) {
  const int f = task.first + group * task.filters + m, image = n / task.out_size, pixel = n - image * task.out_size;
  const std::int64_t at = (static_cast<std::int64_t>(image) * task.all_filters + f) * task.out_size + pixel;
  const float bias = task.bias != nullptr ? widen(static_cast<const T*>(task.bias)[f]) : 0.0f;
  struct alignas(sizeof(T) * kWide) Pixels {
    T values[kWide];
  };
  Pixels added, out;
  if (task.sum != nullptr) added = *reinterpret_cast<const Pixels*>(static_cast<const T*>(task.sum) + at);
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    float value = sums[i] + bias;
    if (task.sum != nullptr) value += widen(added.values[i]);
    out.values[i] = narrow<T>(activate(task.activation, task.alpha, task.beta, value));
  }
  *reinterpret_cast<Pixels*>(static_cast<T*>(task.y) + at) = out;
}

template <typename T, int kTile, int kThreads, int kWide>
__device__ inline void finish_rows(const ConvTask& task, const ConvPlace& place, const float* tile, int first_row, int rows) {
  const int columns = task.batch * task.out_size;
  constexpr int kEach = kTile / kWide;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kEach; i += kThreads) {
    const int row = i / kEach, column = i % kEach * kWide, m = place.m0 + first_row + row, n = place.n0 + column;
    if (m < task.filters && n < columns) finish_pixels<T, kWide>(task, place.group, m, n, tile + row * kTile + column);
  }
}

// `tile` holds 64 x kTile sums.
template <typename T, int kTile, int kRows, int kThreads>
__device__ inline void finish_tile(const ConvTask& task, const ConvPlace& place, const float (&sums)[kRows / 16][4][4], float* tile) {
  const int columns = task.batch * task.out_size;
#pragma unroll
  for (int first = 0; first < kTile; first += 64) {
    __syncthreads();
    stage_sums<kTile, kRows>(sums, tile, first);
    if (kTile == 64 && task.clusters) {
      join_cluster<kTile, kThreads>(tile, place.split, task.splits, [&](int row, int column, float sum) {
        if (place.m0 + row < task.filters && place.n0 + column < columns)
          finish_pixels<T, 1>(task, place.group, place.m0 + row, place.n0 + column, &sum);
      });
      return;
    }
    __syncthreads();
    if (kTile == 64 && task.splits > 1) {
      for (int i = static_cast<int>(threadIdx.x); i < 64 * kTile; i += kThreads) {
        const int m = place.m0 + i / kTile, n = place.n0 + i % kTile;
        if (m < task.filters && n < columns)
          task.sums[((static_cast<std::int64_t>(place.split) * task.groups + place.group) * task.filters + m) * columns + n] = tile[i];
      }
    } else if (task.out_size % 8 == 0) {
      finish_rows<T, kTile, kThreads, 8>(task, place, tile, first, 64);
    } else if (task.out_size % 4 == 0) {
      finish_rows<T, kTile, kThreads, 4>(task, place, tile, first, 64);
    } else {
      finish_rows<T, kTile, kThreads, 1>(task, place, tile, first, 64);
    }
  }
}

}  // namespace forebay::cuda
