// Convolution of channels-last images as a product on tensor cores: (image, pixel) x (tap, channel) times (tap, channel) x filters. Runs of
// channels are fetched as they lie, a few steps ahead. Order of additions: by 16 in order within a split, splits in order.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/nhwc_conv.cuh"
#include "runtime/cuda/nhwc_tma.h"

namespace forebay::cuda {
namespace {

template <int kDepth, int kWide>
struct Padded {
  static constexpr int kPitch = kDepth + 8;  // rows of a matrix load meet different banks
  __device__ static int at(int row, int part) { return row * kPitch + part * kWide; }
};

// kPixels x kFilters outputs, warps of kRows x kColumns; steps of kDepth, kWide channels a copy.
template <typename T, int kPixels, int kFilters, int kRows, int kColumns, int kDepth, int kStages, int kWide>
__global__ void __launch_bounds__(kPixels / kRows * (kFilters / kColumns) * 32, 2) nhwc_conv(const __grid_constant__ NhwcConvTask task) {
  constexpr int kThreads = kPixels / kRows * (kFilters / kColumns) * 32, kAcross = kFilters / kColumns;
  using Layout = Padded<kDepth, kWide>;
  constexpr int kPitch = Layout::kPitch, kStage = (kPixels + kFilters) * kPitch, kTilePitch = kFilters + 4;
  extern __shared__ __align__(16) unsigned short shared[];
  const NhwcPlace place = nhwc_place<kPixels, kFilters, kDepth>(task);
  NhwcFetch<kPixels, kFilters, kThreads, kDepth, kWide, Layout> fetch(task, place);
  const auto stage_of = [&](int step) { return shared + (step - place.begin) % kStages * kStage; };
  for (int step = place.begin; step < place.begin + kStages - 1; ++step) fetch.weights(step, stage_of(step));
  after_previous();
  for (int step = place.begin; step < place.begin + kStages - 1; ++step) {
    fetch.images(step, stage_of(step));
    end_copies();
  }
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  float sums[kRows / 16][kColumns / 8][4] = {};
  const int row0 = warp / kAcross * kRows, column0 = warp % kAcross * kColumns;
  for (int step = place.begin; step < place.end; ++step) {
    await_copies<kStages - 2>();
    fetch.template scale<T>(step, stage_of(step));
    __syncthreads();
    fetch.weights(step + kStages - 1, stage_of(step + kStages - 1));
    fetch.images(step + kStages - 1, stage_of(step + kStages - 1));
    end_copies();
    const unsigned short* const x_tile = stage_of(step);
    const unsigned short* const w_tile = x_tile + kPixels * kPitch;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      unsigned a[kRows / 16][4], b[kColumns / 16][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) load_matrices(a[i], &x_tile[(row0 + i * 16 + lane % 16) * kPitch + k + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < kColumns / 16; ++j)
        load_matrices(b[j], &w_tile[(column0 + j * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8]);
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  await_copies<0>();
  __syncthreads();
  float* const tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(tile + (row0 + i * 16 + lane / 4 + e / 2 * 8) * kTilePitch + column0 + j * 8 + lane % 4 * 2) =
            make_float2(sums[i][j][e], sums[i][j][e + 1]);
    }
  }
  finish_nhwc<T, kPixels, kFilters, kThreads>(task, place, tile);
}

template <typename T, int kPixels, int kFilters, int kRows, int kColumns, int kDepth, int kStages, int kWide>
cudaError_t start(const NhwcConvTask& task, cudaStream_t stream) {
  constexpr int kThreads = kPixels / kRows * (kFilters / kColumns) * 32;
  constexpr int kBytes = kStages * (kPixels + kFilters) * (kDepth + 8) * static_cast<int>(sizeof(unsigned short));
  static_assert(kBytes >= kPixels * (kFilters + 4) * static_cast<int>(sizeof(float)));
  return launch_nhwc<kPixels, kFilters>(nhwc_conv<T, kPixels, kFilters, kRows, kColumns, kDepth, kStages, kWide>, kThreads, kBytes, task,
                                        task, stream);
}

template <typename T>
cudaError_t start_tile(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  if (task.channels % 8 != 0) {  // an image's own: few filters
    return tile == NhwcTile::small ? start<T, 64, 64, 32, 32, 32, 4, 4>(task, stream) : start<T, 128, 64, 64, 32, 32, 4, 4>(task, stream);
  }
  switch (tile) {
    case NhwcTile::small:
      return start<T, 64, 64, 32, 32, 32, 4, 8>(task, stream);
    case NhwcTile::small_deep:
      return start<T, 64, 64, 32, 32, 64, 4, 8>(task, stream);
    case NhwcTile::narrow:
      return start<T, 64, 32, 16, 32, 64, 4, 8>(task, stream);
    case NhwcTile::wide:
      return start<T, 128, 64, 64, 32, 32, 4, 8>(task, stream);
    case NhwcTile::wide_deep:
      return start<T, 128, 64, 64, 32, 64, 3, 8>(task, stream);
    case NhwcTile::large:
      return start<T, 128, 128, 64, 32, 32, 4, 8>(task, stream);
    case NhwcTile::large_deep:
      return start<T, 128, 128, 64, 64, 64, 3, 8>(task, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

bool has_nhwc_hopper([[maybe_unused]] int capability) {
#ifdef FOREBAY_CUDA_HOPPER
  return capability == 90;
#else
  return false;
#endif
}

cudaError_t launch_nhwc_conv(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.batch) * task.window.out[0] * task.window.out[1] * task.filters == 0) return cudaSuccess;
  if (tile == NhwcTile::stem) return launch_nhwc_stem(task, stream);
#ifdef FOREBAY_CUDA_HOPPER
  if (tile >= NhwcTile::tma_wide) return launch_nhwc_tma(task, tile, stream);
  if (tile >= NhwcTile::hopper_wide) return launch_nhwc_hopper(task, tile, stream);
#endif
  return by_types<__half, __nv_bfloat16>(task.type, [&](auto t) { return start_tile<decltype(t)>(task, tile, stream); });
}

}  // namespace forebay::cuda
