// What the channels-last convolutions share: where runs of channels come from, and what becomes of finished sums.
#pragma once

#include "runtime/cuda/mma_numbers.cuh"
#include "runtime/cuda/nhwc_numbers.cuh"
#include "runtime/cuda/nhwc_task.h"

namespace forebay::cuda {

// The sums of eight filters from `f` on (of y) at a pixel become outputs; only `count` of them are there.
template <typename T>
__device__ inline void finish_eight(const NhwcConvTask& task, std::int64_t pixel, int f, int count, const float (&sums)[8]) {
  const std::int64_t at = pixel * task.all_filters + f;
  const T* const bias = static_cast<const T*>(task.bias);
  const T* const sum = static_cast<const T*>(task.sum);
  T* const y = static_cast<T*>(task.y);
  float v[8], other[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = sums[i];
  if (count == 8 && task.all_filters % 8 == 0 && f % 8 == 0) {
    if (bias != nullptr) {
      widen_eight(bias + f, other);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += other[i];
    }
    if (sum != nullptr) {
      widen_eight(sum + at, other);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += other[i];
    }
    activate_eight(task.activation, task.alpha, task.beta, v);
    store_eight(y + at, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count && bias != nullptr) v[i] += widen(bias[f + i]);
    if (i < count && sum != nullptr) v[i] += widen(sum[at + i]);
  }
  activate_eight(task.activation, task.alpha, task.beta, v);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) y[at + i] = narrow<T>(v[i]);
  }
}

// A block's place in the product, and the tile of sums that it makes there.
struct NhwcPlace {
  int m0, n0, group, split, begin, end, depth, pixels;
};
template <int kPixels, int kFilters, int kDepth>
__device__ inline NhwcPlace nhwc_place(const NhwcConvTask& task) {
  const int across = (task.filters + kFilters - 1) / kFilters, split = static_cast<int>(blockIdx.z) % task.splits;
  const int depth = task.window.kernel[0] * task.window.kernel[1] * task.channels, steps = (depth + kDepth - 1) / kDepth;
  return {static_cast<int>(blockIdx.x) / across * kPixels,
          static_cast<int>(blockIdx.x) % across * kFilters,
          static_cast<int>(blockIdx.z) / task.splits,
          split,
          steps * split / task.splits,
          steps * (split + 1) / task.splits,
          depth,
          task.batch * task.window.out[0] * task.window.out[1]};
}

// A thread's share of the copies: one run of kWide channels of a step, for some pixels and some filters. Layout::at(row, part) is the place
// of a run in a stage, in values; the filters' rows follow the pixels'.
template <int kPixels, int kFilters, int kThreads, int kDepth, int kWide, typename Layout>
class NhwcFetch {
 public:
  static constexpr int kParts = kDepth / kWide, kStep = kThreads / kParts;
  static constexpr int kXPasses = kPixels / kStep, kWPasses = (kFilters + kStep - 1) / kStep;
  static_assert(kPixels % kStep == 0);

  __device__ NhwcFetch(const NhwcConvTask& task, const NhwcPlace& place) : task_(task), place_(place) {
    part_ = static_cast<int>(threadIdx.x) % kParts;
    row_ = static_cast<int>(threadIdx.x) / kParts;
#pragma unroll
    for (int p = 0; p < kWPasses; ++p) {
      const int n = place.n0 + row_ + p * kStep, filter = place.group * task.filters + n, slab = filter / static_cast<int>(task.w.rows);
      const bool there = row_ + p * kStep < kFilters && n < task.filters;
      weights_[p] = there ? static_cast<const unsigned short*>(task.w.slabs[slab]) +
                                static_cast<std::int64_t>(filter - slab * static_cast<int>(task.w.rows)) * place.depth + part_ * kWide
                          : nullptr;
    }
    const NhwcWindow& window = task.window;
    const int out_size = window.out[0] * window.out[1];
    pitch_ = task.channels * task.groups;
#pragma unroll
    for (int p = 0; p < kXPasses; ++p) {
      const int m = place.m0 + row_ + p * kStep, image = m / out_size, pixel = m - image * out_size, oy = pixel / window.out[1];
      const int top = oy * window.stride[0] - window.pad[0];
      lefts_[p] = (pixel - oy * window.out[1]) * window.stride[1] - window.pad[1];
      tops_[p] = m < place.pixels ? top : -(1 << 28);
      images_[p] = static_cast<const unsigned short*>(task.x) +
                   ((static_cast<std::int64_t>(image) * window.in[0] + top) * window.in[1] + lefts_[p]) * pitch_ +
                   place.group * task.channels;
    }
    const int k = place.begin * kDepth + part_ * kWide, tap = k / task.channels;
    ky_ = tap / window.kernel[1];
    kx_ = tap - ky_ * window.kernel[1];
    c_ = k - tap * task.channels;
    if (task.scale == nullptr) return;
#pragma unroll
    for (int p = 0; p < kXPasses; ++p) {
      const int m = place.m0 + row_ + p * kStep;
      factors_[p] =
          static_cast<const unsigned short*>(task.scale) + (m < place.pixels ? m / out_size : 0) * task.scale_image + part_ * kWide;
    }
  }

  __device__ void weights(int step, unsigned short* stage) const {
    const int k = step * kDepth;
    const bool inside = step < place_.end && k + part_ * kWide < place_.depth;
#pragma unroll
    for (int p = 0; p < kWPasses; ++p) {
      const int row = row_ + p * kStep;
      if (kFilters % kStep == 0 || row < kFilters)
        copy_async<kWide * 2>(stage + Layout::at(kPixels + row, part_), inside && weights_[p] != nullptr ? weights_[p] + k : nullptr);
    }
  }

  // Of the steps in order: each call moves on.
  __device__ void images(int step, unsigned short* stage) {
    const NhwcWindow& window = task_.window;
    const int dy = ky_ * window.dilation[0], dx = kx_ * window.dilation[1];
    const std::int64_t offset = (static_cast<std::int64_t>(dy) * window.in[1] + dx) * pitch_ + c_;
    const bool inside = step < place_.end && ky_ < window.kernel[0];
#pragma unroll
    for (int p = 0; p < kXPasses; ++p) {
      const bool there = inside && static_cast<unsigned>(tops_[p] + dy) < static_cast<unsigned>(window.in[0]) &&
                         static_cast<unsigned>(lefts_[p] + dx) < static_cast<unsigned>(window.in[1]);
      copy_async<kWide * 2>(stage + Layout::at(row_ + p * kStep, part_), there ? images_[p] + offset : nullptr);
    }
    c_ += kDepth;
    while (c_ >= task_.channels) {
      c_ -= task_.channels;
      if (++kx_ == window.kernel[1]) {
        kx_ = 0;
        ++ky_;
      }
    }
  }

  // Multiplies what this thread copied, when it has come and before others read it. Rounds as a product by itself does.
  template <typename T>
  __device__ void scale(int step, unsigned short* stage) const {
    const int k = step * kDepth;
    if (task_.scale == nullptr || k + part_ * kWide >= place_.depth) return;
    if constexpr (kWide == 8) {
#pragma unroll
      for (int p = 0; p < kXPasses; ++p) {
        T* const at = reinterpret_cast<T*>(stage + Layout::at(row_ + p * kStep, part_));
        float v[8], factors[8];
        widen_eight(reinterpret_cast<const T*>(factors_[p] + k), factors);
        widen_eight(at, v);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= factors[i];
        store_eight(at, v);
      }
    }
  }

 private:
  const NhwcConvTask& task_;
  const NhwcPlace& place_;
  const unsigned short *weights_[kWPasses], *images_[kXPasses], *factors_[kXPasses];
  int tops_[kXPasses], lefts_[kXPasses];
  int part_, row_, pitch_, ky_, kx_, c_;
};

// kPixels x kFilters sums in shared memory, rows of kFilters + 4, become outputs; those of a cluster's blocks are added in their order.
template <typename T, int kPixels, int kFilters, int kThreads>
__device__ inline void finish_nhwc(const NhwcConvTask& task, const NhwcPlace& place, const float* tile) {
  if (task.splits > 1) {
    meet_cluster();
  } else {
    __syncthreads();
  }
  constexpr int kEach = kFilters / 8, kTilePitch = kFilters + 4;
  const int first = kPixels / task.splits * place.split, last = first + kPixels / task.splits;
  for (int i = first * kEach + static_cast<int>(threadIdx.x); i < last * kEach; i += kThreads) {
    const int row = i / kEach, column = i % kEach * 8, count = task.filters - place.n0 - column;
    if (place.m0 + row >= place.pixels || count <= 0) continue;
    const float* const from = tile + row * kTilePitch + column;
    float out[8] = {};
    for (int s = 0; s < task.splits; ++s) {
      const float4 low = task.splits > 1 ? peer_values(from, s) : *reinterpret_cast<const float4*>(from);
      const float4 high = task.splits > 1 ? peer_values(from + 4, s) : *reinterpret_cast<const float4*>(from + 4);
      const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int e = 0; e < 8; ++e) out[e] += v[e];
    }
    finish_eight<T>(task, place.m0 + row, task.first + place.group * task.filters + place.n0 + column, count < 8 ? count : 8, out);
  }
  if (task.splits > 1) meet_cluster();  // nobody leaves while others read
}

template <int kPixels, int kFilters, typename Given>
cudaError_t launch_nhwc(void (*kernel)(Given), int threads, int bytes, const NhwcConvTask& task, const Given& given, cudaStream_t stream) {
  const int pixels = task.batch * task.window.out[0] * task.window.out[1], splits = task.splits > 1 ? task.splits : 1;
  const dim3 grid(static_cast<unsigned>((pixels + kPixels - 1) / kPixels) * static_cast<unsigned>((task.filters + kFilters - 1) / kFilters),
                  1, static_cast<unsigned>(task.groups * task.splits));
  return launch_clusters(kernel, grid, threads, bytes, dim3(1, 1, static_cast<unsigned>(splits)), given, stream);
}

}  // namespace forebay::cuda
