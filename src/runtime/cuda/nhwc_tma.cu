// As nhwc_hopper.cu with the device's copy engine: one thread asks for tiles of pixels and filters, several steps ahead, two warpgroups
// multiply them. The same order of additions.
#include "runtime/cuda/nhwc_tma.cuh"

namespace forebay::cuda {
namespace tma {
namespace {

// One thread: the copies of all steps.
template <int kPixels, int kFilters, int kStages>
__device__ inline void copy_steps(const NhwcTmaTask& given, const NhwcPlace& place, const Stages<kPixels, kFilters, kStages>& stages) {
  const NhwcConvTask& task = given.conv;
  const Maps& maps = given.maps;
  const NhwcWindow& window = task.window;
  const int steps = place.end - place.begin, slab_rows = static_cast<int>(task.w.rows);
  const int copies = (min(kFilters, task.filters - place.n0) + maps.tile_rows - 1) / maps.tile_rows;
  const auto copy_filters = [&](int i) {
    expect_bytes(stages.come(i), (kPixels + copies * maps.tile_rows) * kRowBytes);
    for (int c = 0; c < copies; ++c) {
      const int row = place.n0 + c * maps.tile_rows, slab = row / slab_rows;
      copy_tile(stages.w(i) + static_cast<unsigned>(c * maps.tile_rows * kRowBytes), maps.w[slab], stages.come(i),
                (place.begin + i) * kDepth, row - slab * slab_rows);
    }
  };
  expect_map(maps.x);
  for (int i = 0; i < min(steps, kStages); ++i) copy_filters(i);
  after_previous();
  const int out_size = window.out[0] * window.out[1], image = place.m0 / out_size, pixel = place.m0 - image * out_size;
  const int oy = pixel / window.out[1], x = (pixel - oy * window.out[1]) * window.stride[1] - window.pad[1];
  const int y = oy * window.stride[0] - window.pad[0], k = place.begin * kDepth, tap = k / task.channels;
  int c = k - tap * task.channels, ky = tap / window.kernel[1], kx = tap - ky * window.kernel[1];
  for (int i = 0; i < steps; ++i) {
    if (i >= kStages) {
      await_turn(stages.read(i), i / kStages - 1);
      copy_filters(i);
    }
    if (maps.dense) {
      copy_tile(stages.x(i), maps.x, stages.come(i), c, place.m0);
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

// A warpgroup's kUnits * 64 pixels by all filters of the block.
template <typename T, int kUnits, int kPixels, int kFilters, int kStages>
__device__ inline void multiply_steps(const NhwcConvTask& task, const NhwcPlace& place, const Stages<kPixels, kFilters, kStages>& stages,
                                      float* tile) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row0 = thread / 128 * kUnits * 64, steps = place.end - place.begin;
  const PixelFactors<T, kUnits> factors(task, place, row0);
  float sums[kUnits][kFilters / 8][4] = {};
  for (int i = 0; i < steps; ++i) {
    await_turn(stages.come(i), i / kStages);
    if (task.scale != nullptr) factors.multiply(i, reinterpret_cast<unsigned char*>(tile) + (stages.x(i) - stages.memory));
    fence_products();
#pragma unroll
    for (unsigned k = 0; k < kDepth / 16; ++k) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        add_product<T, false>(sums[u], product_matrix(stages.x(i) + static_cast<unsigned>((row0 + u * 64) * kRowBytes) + k * 32, kOnePiece),
                              product_matrix(stages.w(i) + k * 32, kOnePiece));
    }
    commit_products();
    await_products<1>();
    if (i > 0 && lane == 0) arrive_at(stages.read(i - 1));
  }
  await_products<0>();
  meet_some(1, kMultiplying);  // nobody reads stages any more
  const int row = row0 + thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
#pragma unroll
    for (int j = 0; j < kFilters / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(tile + (row + u * 64 + e / 2 * 8) * (kFilters + 4) + j * 8 + lane % 4 * 2) =
            make_float2(sums[u][j][e], sums[u][j][e + 1]);
    }
  }
}

template <typename T, int kUnits, int kFilters, int kStages, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) nhwc_tma(const __grid_constant__ NhwcTmaTask given) {
  constexpr int kPixels = kUnits * 128;
  extern __shared__ uint4 shared[];
  __shared__ std::uint64_t barriers[2 * kStages];
  const NhwcPlace place = nhwc_place<kPixels, kFilters, kDepth>(given.conv);
  const unsigned begin = shared_place(shared), aligned = (begin + 1023) / 1024 * 1024, gates = shared_place(barriers);
  const Stages<kPixels, kFilters, kStages> stages{aligned, gates, gates + kStages * 8};
  float* const tile = reinterpret_cast<float*>(reinterpret_cast<char*>(shared) + (aligned - begin));
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == kMultiplying) {
    for (int i = 0; i < kStages; ++i) {
      begin_barrier(stages.come(i), 1);
      begin_barrier(stages.read(i), kMultiplying / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  if (thread >= kMultiplying) {
    if (thread == kMultiplying) copy_steps(given, place, stages);
    __syncwarp();
    after_previous();
  } else {
    after_previous();
    multiply_steps<T, kUnits>(given.conv, place, stages, tile);
  }
  finish_nhwc<T, kPixels, kFilters, kThreads>(given.conv, place, tile);
}

// As many filters a copy as divide a slab's.
int filters_together(std::int64_t slab_rows, int most) {
  int together = most;
  while (slab_rows % together != 0) together /= 2;
  return together;
}

// Resident slabs mostly do.
bool lie_together(const NhwcConvTask& task, int slabs) {
  const std::int64_t bytes = task.w.rows * task.window.kernel[0] * task.window.kernel[1] * task.channels * 2;
  for (int i = 1; i < slabs; ++i) {
    if (static_cast<const char*>(task.w.slabs[i]) != static_cast<const char*>(task.w.slabs[0]) + i * bytes) return false;
  }
  return true;
}

template <typename T, int kUnits, int kFilters, int kStages, int kBlocks>
cudaError_t start(const NhwcConvTask& conv, cudaStream_t stream) {
  constexpr int kPixels = kUnits * 128, kBytes = kStages * (kPixels + kFilters) * kRowBytes + 1024;
  static_assert(kBytes >= kPixels * (kFilters + 4) * static_cast<int>(sizeof(float)) + 1024);
  NhwcTmaTask task{conv, {}};
  if (!make_maps(conv, kPixels, kFilters, &task.maps)) return cudaErrorInvalidValue;
  return launch_nhwc<kPixels, kFilters>(nhwc_tma<T, kUnits, kFilters, kStages, kBlocks>, kThreads, kBytes, conv, task, stream);
}

template <typename T>
cudaError_t start_tile(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  switch (tile) {
    case NhwcTile::tma_wide:
      return start<T, 1, 64, 4, 2>(task, stream);
    case NhwcTile::tma_large:
      return start<T, 1, 128, 3, 2>(task, stream);
    case NhwcTile::tma_tall:
      return start<T, 2, 64, 2, 2>(task, stream);
    case NhwcTile::tma_most:
      return start<T, 2, 128, 4, 1>(task, stream);
    default:
      return launch_nhwc_flow(task, tile, stream);
  }
}
cudaError_t start_type(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  return task.type == DType::f16 ? start_tile<__half>(task, tile, stream) : start_tile<__nv_bfloat16>(task, tile, stream);
}

}  // namespace

bool make_maps(const NhwcConvTask& task, int pixels, int filters, Maps* maps) {
  const NhwcWindow& window = task.window;
  const std::int64_t depth = static_cast<std::int64_t>(window.kernel[0]) * window.kernel[1] * task.channels;
  const int slabs = static_cast<int>((task.filters + task.w.rows - 1) / task.w.rows);
  maps->tile_rows = slabs > 1 ? filters_together(task.w.rows, filters) : filters;
  for (int i = 0; i < slabs; ++i) {
    const std::int64_t rows = i + 1 < slabs ? task.w.rows : task.filters - i * task.w.rows;
    if (!make_tensor_map(MatrixMap{task.type, task.w.slabs[i], rows, depth, depth, maps->tile_rows}, &maps->w[i])) return false;
  }
  const ImageMap images = nhwc_image_map(task, pixels);
  maps->dense = window.kernel[0] * window.kernel[1] == 1 && images.in[0] == images.out[0] && images.in[1] == images.out[1] &&
                images.pad[0] == 0 && images.pad[1] == 0;
  if (!maps->dense) return make_tensor_map(images, &maps->x);
  const std::int64_t all = images.batch * images.in[0] * images.in[1];
  return make_tensor_map(MatrixMap{task.type, task.x, all, task.channels, task.channels, pixels}, &maps->x);
}

}  // namespace tma

cudaError_t launch_nhwc_tma(const NhwcConvTask& given, NhwcTile tile, cudaStream_t stream) {
  NhwcConvTask task = given;
  int slabs = static_cast<int>((task.filters + task.w.rows - 1) / task.w.rows);
  if (tma::lie_together(task, slabs)) {
    task.w.rows = task.filters;
    slabs = 1;
  }
  for (int first = 0; first < slabs; first += tma::Maps::kMost) {
    NhwcConvTask part = task;
    const std::int64_t begin = first * task.w.rows, end = std::min<std::int64_t>(task.filters, begin + tma::Maps::kMost * task.w.rows);
    std::copy(task.w.slabs + first, task.w.slabs + std::min(slabs, first + tma::Maps::kMost), part.w.slabs);
    part.first += static_cast<int>(begin);
    part.filters = static_cast<int>(end - begin);
    const cudaError_t error = tma::start_type(part, tile, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace forebay::cuda
