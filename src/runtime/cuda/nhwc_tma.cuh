// What convolutions share whose tiles the copy engine brings: the maps a kernel is given, copies, barriers, factors of channels.
#pragma once

#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/nhwc_conv.cuh"
#include "runtime/cuda/nhwc_tma.h"

namespace forebay::cuda::tma {

inline constexpr int kDepth = kMapColumns, kRowBytes = 2 * kDepth, kMultiplying = 256, kThreads = kMultiplying + 32;
inline constexpr unsigned kOnePiece = 16;

struct Maps {
  static constexpr int kMost = 32;  // slabs of a launch
  CUtensorMap x, w[kMost];
  int tile_rows;  // filters that a copy brings
  bool dense;     // x is a matrix
};
struct NhwcTmaTask {
  NhwcConvTask conv;
  Maps maps;
};

__device__ inline void expect_bytes(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void copy_tile(unsigned to, const CUtensorMap& map, unsigned barrier, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];\n" ::"r"(to),
               "l"(&map), "r"(barrier), "r"(column), "r"(row)
               : "memory");
}
__device__ inline void copy_pixels(unsigned to, const CUtensorMap& map, unsigned barrier, int channel, int x, int y, int image, int dx,
                                   int dy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, "
      "%8};\n" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(channel), "r"(x), "r"(y), "r"(image), "h"(static_cast<short>(dx)), "h"(static_cast<short>(dy))
      : "memory");
}

// What a block's copies and products share: stages of pixels and filters, and barriers for "has come" and "is read".
template <int kPixels, int kFilters, int kStages>
struct Stages {
  static constexpr int kBytes = (kPixels + kFilters) * kRowBytes;
  unsigned memory, full, empty;

  __device__ unsigned x(int i) const { return memory + static_cast<unsigned>(i % kStages * kBytes); }
  __device__ unsigned w(int i) const { return x(i) + kPixels * kRowBytes; }
  __device__ unsigned come(int i) const { return full + static_cast<unsigned>(i % kStages) * 8; }
  __device__ unsigned read(int i) const { return empty + static_cast<unsigned>(i % kStages) * 8; }
};

__device__ inline void expect_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}

// Multiplies a warpgroup's pixels by factors of their channels, rounding as a product by itself does.
template <typename T, int kUnits>
class PixelFactors {
 public:
  __device__ PixelFactors(const NhwcConvTask& task, const NhwcPlace& place, int row0) : task_(task), begin_(place.begin * kDepth) {
    const int thread = static_cast<int>(threadIdx.x) % 128, size = task.window.out[0] * task.window.out[1];
    row_ = row0 + thread / 8;
    piece_ = thread % 8;
#pragma unroll
    for (int r = 0; r < kUnits * 4; ++r) {
      const int m = place.m0 + row_ + r * 16;
      places_[r] = m < place.pixels ? m / size * task.scale_image : 0;
    }
  }
  __device__ void multiply(int step, unsigned char* pixels) const {
    const int k = begin_ + step * kDepth + piece_ * 8;
    if (k < task_.channels) {
#pragma unroll
      for (int r = 0; r < kUnits * 4; ++r) {
        T* const at = reinterpret_cast<T*>(pixels + (row_ + r * 16) * kRowBytes + ((piece_ ^ (row_ & 7)) << 4));
        float v[8], factors[8];
        widen_eight(static_cast<const T*>(task_.scale) + places_[r] + k, factors);
        widen_eight(at, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= factors[e];
        store_eight(at, v);
      }
    }
    show_copies();
    meet_some(2 + static_cast<int>(threadIdx.x) / 128, 128);
  }

 private:
  const NhwcConvTask& task_;
  int begin_, row_, piece_, places_[kUnits * 4];
};

bool make_maps(const NhwcConvTask& task, int pixels, int filters, Maps* maps);

}  // namespace forebay::cuda::tma
