// As nhwc_tma.cu for short sums, which leave little time between what is read and what is written: a block goes from tile to tile, so that
// the next tile is on its way while a warp writes its share of this one, by itself. The same order of additions.
#include "runtime/cuda/nhwc_tma.cuh"

namespace forebay::cuda {
namespace tma {
namespace {

constexpr int kPixels = 128, kWarps = kMultiplying / 32, kOwnPitch = 72;  // floats from pixel to pixel of a warp's 16, 64 filters at a time
constexpr int kOwnBytes = 16 * kOwnPitch * static_cast<int>(sizeof(float));
constexpr unsigned kMostBlocks = 264;  // two a multiprocessor of a large device

template <int kFilters>
struct FlowTiles {
  int across, count, steps;
  __host__ __device__ explicit FlowTiles(const NhwcConvTask& task)
      : across((task.filters + kFilters - 1) / kFilters),
        count((task.batch * task.window.out[0] * task.window.out[1] + kPixels - 1) / kPixels * across),
        steps((task.window.kernel[0] * task.window.kernel[1] * task.channels + kDepth - 1) / kDepth) {}
};

// One thread: the copies of all steps of all tiles of this block.
template <int kFilters, int kStages>
__device__ inline void copy_tiles(const NhwcTmaTask& given, const FlowTiles<kFilters>& tiles,
                                  const Stages<kPixels, kFilters, kStages>& stages) {
  const NhwcConvTask& task = given.conv;
  const Maps& maps = given.maps;
  const NhwcWindow& window = task.window;
  const int slab_rows = static_cast<int>(task.w.rows), out_size = window.out[0] * window.out[1];
  expect_map(maps.x);
  int i = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count; tile += static_cast<int>(gridDim.x)) {
    const int m0 = tile / tiles.across * kPixels, n0 = tile % tiles.across * kFilters;
    const int copies = (min(kFilters, task.filters - n0) + maps.tile_rows - 1) / maps.tile_rows;
    const int image = m0 / out_size, pixel = m0 - image * out_size, oy = pixel / window.out[1];
    const int x = (pixel - oy * window.out[1]) * window.stride[1] - window.pad[1], y = oy * window.stride[0] - window.pad[0];
    int c = 0, ky = 0, kx = 0;
    for (int step = 0; step < tiles.steps; ++step, ++i) {
      if (i >= kStages) await_turn(stages.read(i), i / kStages - 1);
      expect_bytes(stages.come(i), (kPixels + copies * maps.tile_rows) * kRowBytes);
      for (int copy = 0; copy < copies; ++copy) {
        const int row = n0 + copy * maps.tile_rows, slab = row / slab_rows;
        copy_tile(stages.w(i) + static_cast<unsigned>(copy * maps.tile_rows * kRowBytes), maps.w[slab], stages.come(i), step * kDepth,
                  row - slab * slab_rows);
      }
      if (i == 0) after_previous();
      if (maps.dense) {
        copy_tile(stages.x(i), maps.x, stages.come(i), c, m0);
      } else {
        copy_pixels(stages.x(i), maps.x, stages.come(i), c, x, y, image, kx * window.dilation[1], ky * window.dilation[0]);
      }
      c += kDepth;
      if (c < task.channels) continue;
      c = 0;  // several taps: channels are a multiple of the depth
      if (++kx < window.kernel[1]) continue;
      kx = 0;
      ++ky;
    }
  }
}

// 16 pixels of a warp by 64 filters, in its own shared memory, become outputs. What is added to them is asked for before anything is
// written: otherwise each piece would wait for memory by itself.
template <typename T>
__device__ inline void write_own(const NhwcConvTask& task, const float* own, int pixel0, int pixels, int n0) {
  const int lane = static_cast<int>(threadIdx.x) % 32, column = lane % 8 * 8, n = n0 + column, count = task.filters - n;
  if (count <= 0) return;
  const int f = task.first + n;
  const bool whole = count >= 8 && task.all_filters % 8 == 0 && f % 8 == 0;
  const T *const sum = static_cast<const T*>(task.sum), *const bias = static_cast<const T*>(task.bias);
  uint4 added[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int pixel = pixel0 + lane / 8 + r * 4;
    added[r] = make_uint4(0, 0, 0, 0);
    if (whole && sum != nullptr && pixel < pixels)
      added[r] = *reinterpret_cast<const uint4*>(sum + static_cast<std::int64_t>(pixel) * task.all_filters + f);
  }
  float shift[8] = {};
  if (whole && bias != nullptr) widen_eight(bias + f, shift);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 8 + r * 4, pixel = pixel0 + row;
    if (pixel >= pixels) continue;
    const float4 low = *reinterpret_cast<const float4*>(own + row * kOwnPitch + column),
                 high = *reinterpret_cast<const float4*>(own + row * kOwnPitch + column + 4);
    float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if (!whole) {
      finish_eight<T>(task, pixel, f, count < 8 ? count : 8, v);
      continue;
    }
    if (bias != nullptr) {
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] += shift[e];
    }
    if (sum != nullptr) {
      float more[8];
      widen_eight(reinterpret_cast<const T*>(&added[r]), more);
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] += more[e];
    }
    activate_eight(task.activation, task.alpha, task.beta, v);
    store_eight(static_cast<T*>(task.y) + static_cast<std::int64_t>(pixel) * task.all_filters + f, v);
  }
}

template <typename T, int kFilters, int kStages>
__device__ inline void make_tiles(const NhwcConvTask& task, const FlowTiles<kFilters>& tiles,
                                  const Stages<kPixels, kFilters, kStages>& stages, unsigned char* memory, float* own) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row0 = thread / 128 * 64;
  const int pixels = task.batch * task.window.out[0] * task.window.out[1];
  int i = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count; tile += static_cast<int>(gridDim.x)) {
    const NhwcPlace place{tile / tiles.across * kPixels, tile % tiles.across * kFilters, 0, 0, 0, tiles.steps, 0, pixels};
    const PixelFactors<T, 1> factors(task, place, row0);
    float sums[kFilters / 8][4] = {};
    for (int step = 0; step < tiles.steps; ++step, ++i) {
      await_turn(stages.come(i), i / kStages);
      if (task.scale != nullptr) factors.multiply(step, memory + (stages.x(i) - stages.memory));
      fence_products();
#pragma unroll
      for (unsigned k = 0; k < kDepth / 16; ++k)
        add_product<T, false>(sums, product_matrix(stages.x(i) + static_cast<unsigned>(row0 * kRowBytes) + k * 32, kOnePiece),
                              product_matrix(stages.w(i) + k * 32, kOnePiece));
      commit_products();
      await_products<1>();
      if (step > 0 && lane == 0) arrive_at(stages.read(i - 1));
    }
    await_products<0>();
    if (lane == 0) arrive_at(stages.read(i - 1));
#pragma unroll
    for (int first = 0; first < kFilters; first += 64) {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; e += 2)
          *reinterpret_cast<float2*>(own + (lane / 4 + e / 2 * 8) * kOwnPitch + j * 8 + lane % 4 * 2) =
              make_float2(sums[first / 8 + j][e], sums[first / 8 + j][e + 1]);
      }
      __syncwarp();
      write_own<T>(task, own, place.m0 + thread / 32 * 16, pixels, place.n0 + first);
    }
  }
}

template <typename T, int kFilters, int kStages>
__global__ void __launch_bounds__(kThreads, 2) nhwc_flow(const __grid_constant__ NhwcTmaTask given) {
  extern __shared__ uint4 shared[];
  __shared__ std::uint64_t barriers[2 * kStages];
  const FlowTiles<kFilters> tiles(given.conv);
  const unsigned begin = shared_place(shared), aligned = (begin + 1023) / 1024 * 1024, gates = shared_place(barriers);
  const Stages<kPixels, kFilters, kStages> stages{aligned, gates, gates + kStages * 8};
  unsigned char* const memory = reinterpret_cast<unsigned char*>(shared) + (aligned - begin);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == kMultiplying) {
    for (int i = 0; i < kStages; ++i) {
      begin_barrier(stages.come(i), 1);
      begin_barrier(stages.read(i), kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  if (thread >= kMultiplying) {
    if (thread == kMultiplying) copy_tiles(given, tiles, stages);
    return;
  }
  after_previous();
  make_tiles<T>(given.conv, tiles, stages, memory,
                reinterpret_cast<float*>(memory + kStages * Stages<kPixels, kFilters, kStages>::kBytes + thread / 32 * kOwnBytes));
}

template <typename T, int kFilters, int kStages>
cudaError_t start(const NhwcConvTask& conv, cudaStream_t stream) {
  constexpr int kBytes = Stages<kPixels, kFilters, kStages>::kBytes * kStages + kWarps * kOwnBytes + 1024;
  static_assert(2 * (kBytes + 1024) <= 228 << 10);
  NhwcTmaTask task{conv, {}};
  if (!make_maps(conv, kPixels, kFilters, &task.maps)) return cudaErrorInvalidValue;
  const auto count = static_cast<unsigned>(FlowTiles<kFilters>(conv).count);
  return launch_after(nhwc_flow<T, kFilters, kStages>, dim3(std::min(count, kMostBlocks)), kThreads, static_cast<std::size_t>(kBytes),
                      stream, task);
}

template <typename T>
cudaError_t start_tile(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  return tile == NhwcTile::flow ? start<T, 64, 3>(task, stream) : start<T, 128, 2>(task, stream);
}

}  // namespace
}  // namespace tma

cudaError_t launch_nhwc_flow(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  if (tile != NhwcTile::flow && tile != NhwcTile::flow_large) return cudaErrorInvalidValue;
  return task.type == DType::f16 ? tma::start_tile<__half>(task, tile, stream) : tma::start_tile<__nv_bfloat16>(task, tile, stream);
}

}  // namespace forebay::cuda
