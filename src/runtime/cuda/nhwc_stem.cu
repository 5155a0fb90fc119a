// The first convolution of an image model: few channels, padded to four, and a step of two pixels across. Two pixels are 16 bytes, so a
// matrix load reads the taps of neighbouring windows straight from a patch of the image in shared memory. Order of additions: rows of taps,
// four taps at a time, the last ones with zeros behind them.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/nhwc_conv.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 128, kHigh = 8, kAcross = 16;  // output pixels of a tile; a warp has two rows of them

// Blocks of a multiprocessor; they go from tile to tile, so many as a large device has room for.
constexpr int room_for(int filters) {
  return filters > 32 ? 3 : 6;
}
constexpr unsigned kMultiprocessors = 132;

// What a block holds in shared memory: filters, two patches of the image, sums of 16 pixels a warp.
template <int kFilters>
struct StemPlaces {
  int taps, pitch, rows, columns;  // of a row of taps, with zeros; values from filter to filter; pixels of a patch

  __host__ __device__ explicit StemPlaces(const NhwcWindow& w)
      : taps((w.kernel[1] + 3) / 4 * 4),
        pitch(w.kernel[0] * taps * 4 + 8),
        rows((kHigh - 1) * w.stride[0] + (w.kernel[0] - 1) * w.dilation[0] + 1),
        columns((kAcross - 1) * 2 + taps) {}
  __host__ __device__ int patch() const { return rows * columns * 4; }
  __host__ __device__ int tiles_at() const { return (kFilters * pitch + 2 * patch()) * 2; }
  __host__ __device__ int bytes() const { return tiles_at() + kThreads / 32 * 16 * (kFilters + 4) * 4; }
};

struct StemTile {
  int image, oy, ox;
  __device__ StemTile(const NhwcWindow& w, unsigned index) {
    const unsigned across = static_cast<unsigned>(w.out[1] + kAcross - 1) / kAcross,
                   down = static_cast<unsigned>(w.out[0] + kHigh - 1) / kHigh;
    const unsigned line = index / across;
    image = static_cast<int>(line / down);
    oy = static_cast<int>(line % down) * kHigh;
    ox = static_cast<int>(index % across) * kAcross;
  }
};

template <int kFilters>
__device__ inline void fetch_filters(const NhwcConvTask& task, const StemPlaces<kFilters>& places, int n0, unsigned short* to) {
  const NhwcWindow& w = task.window;
  const int each = w.kernel[0] * places.taps, slab_rows = static_cast<int>(task.w.rows);
  for (int i = static_cast<int>(threadIdx.x); i < kFilters * each; i += kThreads) {
    const int f = i / each, tap = i - f * each, ky = tap / places.taps, kx = tap - ky * places.taps, row = n0 + f, slab = row / slab_rows;
    const bool there = row < task.filters && kx < w.kernel[1];
    const auto* const from = static_cast<const unsigned short*>(task.w.slabs[there ? slab : 0]);
    const std::int64_t at = (static_cast<std::int64_t>(row - slab * slab_rows) * w.kernel[0] + ky) * w.kernel[1] + kx;
    copy_async<8>(to + f * places.pitch + tap * 4, there ? from + at * 4 : nullptr);
  }
}

template <int kFilters>
__device__ inline void fetch_patch(const NhwcConvTask& task, const StemPlaces<kFilters>& places, unsigned index, unsigned short* to) {
  const NhwcWindow& w = task.window;
  const StemTile tile(w, index);
  const int top = tile.oy * w.stride[0] - w.pad[0], left = tile.ox * 2 - w.pad[1];
  const auto* const x = static_cast<const unsigned short*>(task.x) + static_cast<std::int64_t>(tile.image) * w.in[0] * w.in[1] * 4;
  int r = static_cast<int>(threadIdx.x) / places.columns, c = static_cast<int>(threadIdx.x) - r * places.columns;
  const int down = kThreads / places.columns, across = kThreads - down * places.columns;
  for (; r < places.rows;) {
    const int iy = top + r, ix = left + c;
    const bool there =
        static_cast<unsigned>(iy) < static_cast<unsigned>(w.in[0]) && static_cast<unsigned>(ix) < static_cast<unsigned>(w.in[1]);
    copy_async<8>(to + (r * places.columns + c) * 4, there ? x + (static_cast<std::int64_t>(iy) * w.in[1] + ix) * 4 : nullptr);
    r += down;
    c += across;
    if (c < places.columns) continue;
    c -= places.columns;
    ++r;
  }
}

template <typename T, int kFilters, int kTaps>
__device__ inline void multiply_patch(const NhwcConvTask& task, const StemPlaces<kFilters>& places, const unsigned short* patch,
                                      const unsigned short* filters, float (&sums)[2][kFilters / 8][4]) {
  const NhwcWindow& w = task.window;
  const int lane = static_cast<int>(threadIdx.x) % 32, row = static_cast<int>(threadIdx.x) / 32 * 2, line = places.columns * 4;
  const unsigned short* const x = patch + row * w.stride[0] * line + lane % 16 * 8 + lane / 16 * 8;
  const unsigned short* const f = filters + (lane / 16 * 8 + lane % 8) * places.pitch + lane / 8 % 2 * 8;
#pragma unroll 2
  for (int ky = 0; ky < w.kernel[0]; ++ky) {
#pragma unroll
    for (int k = 0; k < kTaps * 4; k += 16) {
      unsigned a[2][4], b[kFilters / 16][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) load_matrices(a[i], x + (i * w.stride[0] + ky * w.dilation[0]) * line + k);
#pragma unroll
      for (int j = 0; j < kFilters / 16; ++j) load_matrices(b[j], f + j * 16 * places.pitch + ky * kTaps * 4 + k);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kFilters / 8; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

// A warp's rows of pixels, by way of its own shared memory.
template <typename T, int kFilters>
__device__ inline void write_pixels(const NhwcConvTask& task, const StemTile& tile, int n0, float* memory,
                                    const float (&sums)[2][kFilters / 8][4]) {
  constexpr int kPitch = kFilters + 4, kEach = kFilters / 8;
  const NhwcWindow& w = task.window;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float* const own = memory + warp * 16 * kPitch;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int oy = tile.oy + warp * 2 + i;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(own + (lane / 4 + e / 2 * 8) * kPitch + j * 8 + lane % 4 * 2) =
            make_float2(sums[i][j][e], sums[i][j][e + 1]);
    }
    __syncwarp();
    if (oy >= w.out[0]) continue;
    for (int o = lane; o < 16 * kEach; o += 32) {
      const int pixel = o / kEach, column = o % kEach * 8, count = task.filters - n0 - column;
      if (tile.ox + pixel >= w.out[1] || count <= 0) continue;
      const float4 low = *reinterpret_cast<const float4*>(own + pixel * kPitch + column),
                   high = *reinterpret_cast<const float4*>(own + pixel * kPitch + column + 4);
      const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      finish_eight<T>(task, (static_cast<std::int64_t>(tile.image) * w.out[0] + oy) * w.out[1] + tile.ox + pixel, task.first + n0 + column,
                      count < 8 ? count : 8, v);
    }
  }
}

template <typename T, int kFilters, int kTaps>
__global__ void __launch_bounds__(kThreads, room_for(kFilters)) nhwc_stem(const __grid_constant__ NhwcConvTask task, unsigned tiles) {
  extern __shared__ __align__(16) unsigned short shared[];
  const StemPlaces<kFilters> places(task.window);
  unsigned short* const patches = shared + kFilters * places.pitch;
  float* const memory = reinterpret_cast<float*>(reinterpret_cast<char*>(shared) + places.tiles_at());
  const int n0 = static_cast<int>(blockIdx.y) * kFilters;
  fetch_filters(task, places, n0, shared);
  after_previous();
  fetch_patch(task, places, blockIdx.x, patches);
  end_copies();
  int now = 0;
  for (unsigned index = blockIdx.x; index < tiles; index += gridDim.x, now ^= 1) {
    await_copies<0>();
    __syncthreads();  // nobody reads the other patch any more
    if (index + gridDim.x < tiles) fetch_patch(task, places, index + gridDim.x, patches + (now ^ 1) * places.patch());
    end_copies();
    float sums[2][kFilters / 8][4] = {};
    multiply_patch<T, kFilters, kTaps>(task, places, patches + now * places.patch(), shared, sums);
    write_pixels<T, kFilters>(task, StemTile(task.window, index), n0, memory, sums);
  }
}

template <typename T, int kFilters, int kTaps>
cudaError_t start(const NhwcConvTask& task, cudaStream_t stream) {
  const NhwcWindow& w = task.window;
  const auto tiles = static_cast<unsigned>(task.batch * ((w.out[0] + kHigh - 1) / kHigh) * ((w.out[1] + kAcross - 1) / kAcross));
  constexpr unsigned kMost = room_for(kFilters) * kMultiprocessors;
  const dim3 grid(tiles < kMost ? tiles : kMost, static_cast<unsigned>((task.filters + kFilters - 1) / kFilters));
  return launch_after(nhwc_stem<T, kFilters, kTaps>, grid, kThreads, static_cast<std::size_t>(StemPlaces<kFilters>(w).bytes()), stream,
                      task, tiles);
}

template <typename T>
cudaError_t start_filters(const NhwcConvTask& task, cudaStream_t stream) {
  const bool few = task.all_filters <= 32;
  if (task.window.kernel[1] <= 4) return few ? start<T, 32, 4>(task, stream) : start<T, 64, 4>(task, stream);
  return few ? start<T, 32, 8>(task, stream) : start<T, 64, 8>(task, stream);
}

}  // namespace

bool has_nhwc_stem(const NhwcConvTask& task) {
  const NhwcWindow& w = task.window;
  const bool small = w.kernel[0] <= 16 && w.kernel[1] <= 8 && w.stride[0] <= 16 && w.dilation[0] <= 16;
  return small && task.channels == 4 && task.groups == 1 && w.stride[1] == 2 && w.dilation[1] == 1 &&
         StemPlaces<64>(w).bytes() <= kNhwcMostShared;
}

cudaError_t launch_nhwc_stem(const NhwcConvTask& task, cudaStream_t stream) {
  return by_types<__half, __nv_bfloat16>(task.type, [&](auto t) { return start_filters<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
