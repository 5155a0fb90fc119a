// Convolution as a product on tensor cores: filters x (channel, tap) times (channel, tap) x (image, pixel). The second matrix is never
// made: each thread gathers eight of its rows for one pixel, neighbouring threads neighbouring pixels. Order of additions: steps of 32 in
// order, within a split; splits are added in order by a second kernel.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/conv_tile.cuh"

namespace forebay::cuda {
namespace {

constexpr int kPitch = kConvDepth + 8;  // halves from row to row in shared memory: rows of a matrix load meet different banks
constexpr int kChunks = kConvDepth / 8;

// Where a thread reads x: one pixel; rows of the second matrix come from a table.
struct Reader {
  const unsigned short* x;   // of the group's first channel, at tap 0
  unsigned long long valid;  // bit i: tap i lies inside; kNowhere never does
};
constexpr int kNowhere = 63;
static_assert(kMostMaskTaps <= kNowhere);

__device__ inline Reader make_reader(const ConvTask& task, int group, int n) {
  Reader reader{nullptr, 0};
  if (n >= task.batch * task.out_size) return reader;
  const int image = n / task.out_size, pixel = n % task.out_size;
  const int o[3] = {pixel / (task.out[1] * task.out[2]), pixel / task.out[2] % task.out[1], pixel % task.out[2]};
  int at[3];
  for (int d = 0; d < 3; ++d) at[d] = o[d] * task.stride[d] - task.pad[d];
  reader.valid = task.masked ? 0 : 1;
  for (int t = 0; task.masked && t < task.taps; ++t) {
    const int place[3] = {at[0] + t / (task.kernel[1] * task.kernel[2]) * task.dilation[0],
                          at[1] + t / task.kernel[2] % task.kernel[1] * task.dilation[1], at[2] + t % task.kernel[2] * task.dilation[2]};
    bool inside = true;
    for (int d = 0; d < 3; ++d) inside = inside && place[d] >= 0 && place[d] < task.in[d];
    reader.valid |= static_cast<unsigned long long>(inside) << t;
  }
  const std::int64_t channel = (static_cast<std::int64_t>(image) * task.groups + group) * task.channels;
  reader.x = static_cast<const unsigned short*>(task.x) + channel * task.in_size +
             (static_cast<std::int64_t>(at[0]) * task.in[1] + at[1]) * task.in[2] + at[2];
  return reader;
}

// A row of the second matrix: the offset from a reader's x, and the bit that says whether it lies inside.
__device__ inline int2 row_place(const ConvTask& task, int k) {
  const int channel = k / task.taps, tap = k - channel * task.taps;
  if (channel >= task.channels) return make_int2(0, kNowhere);
  const int plane = task.kernel[1] * task.kernel[2], d = tap / plane, h = (tap - d * plane) / task.kernel[2],
            w = tap - d * plane - h * task.kernel[2];
  const int offset = (d * task.dilation[0] * task.in[1] + h * task.dilation[1]) * task.in[2] + w * task.dilation[2];
  return make_int2(channel * task.in_size + offset, task.masked ? tap : 0);
}

// Eight rows of the second matrix for one pixel.
__device__ inline uint4 gather(const Reader& reader, const int2* places) {
  unsigned v[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] = (reader.valid >> places[j].y & 1) != 0 ? __ldg(reader.x + places[j].x) : 0;
  return make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
}

// Eight weights of a row from k on; zeros behind the row's end.
__device__ inline uint4 weights(const unsigned short* row, int k, int depth) {
  if (row == nullptr || k >= depth) return make_uint4(0, 0, 0, 0);
  if (depth % 8 == 0) return __ldg(reinterpret_cast<const uint4*>(row + k));
  unsigned v[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] = k + j < depth ? __ldg(row + k + j) : 0;
  return make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
}

// kTile x kTile outputs, warps of kRows x 32.
template <typename T, int kTile, int kRows>
__global__ void __launch_bounds__(kTile / kRows * kTile, 2) conv_mma(const __grid_constant__ ConvTask task) {
  constexpr int kThreads = kTile / kRows * kTile, kPasses = kChunks * kTile / kThreads;
  constexpr int kAcross = kTile / 32;  // warps side by side
  __shared__ __align__(16) unsigned short shared[4][kTile * kPitch];
  unsigned short(*const a_tile)[kTile * kPitch] = shared;
  unsigned short(*const b_tile)[kTile * kPitch] = shared + 2;
  __shared__ __align__(16) int2 places[2][kConvDepth];  // of the steps that are fetched next
  const ConvPlace place{static_cast<int>(blockIdx.z) / task.splits, static_cast<int>(blockIdx.z) % task.splits,
                        static_cast<int>(blockIdx.y) * kTile, static_cast<int>(blockIdx.x) * kTile};
  const int depth = task.channels * task.taps, steps = (depth + kConvDepth - 1) / kConvDepth;
  const int begin = static_cast<int>(static_cast<std::int64_t>(steps) * place.split / task.splits),
            end = static_cast<int>(static_cast<std::int64_t>(steps) * (place.split + 1) / task.splits);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const auto look_up = [&](int step) {
    if (thread < kConvDepth) places[step & 1][thread] = row_place(task, step * kConvDepth + thread);
  };
  look_up(begin);
  look_up(begin + 1);
  __syncthreads();
  const int column = thread % kTile, chunk = thread / kTile;
  const Reader reader = make_reader(task, place.group, place.n0 + column);
  const unsigned short* rows[kPasses];
#pragma unroll
  for (int p = 0; p < kPasses; ++p) {
    const int m = place.m0 + (thread + p * kThreads) / kChunks;
    rows[p] = m < task.filters ? weight_row<unsigned short>(task, place.group * task.filters + m, depth) : nullptr;
  }
  uint4 a_next[kPasses], b_next[kPasses];
  const auto fetch = [&](int step) {
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      a_next[p] = weights(rows[p], step * kConvDepth + (thread + p * kThreads) % kChunks * 8, depth);
      b_next[p] = gather(reader, &places[step & 1][(chunk + p * (kThreads / kTile)) * 8]);
    }
  };
  const auto store = [&](int buffer) {
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int row = (thread + p * kThreads) / kChunks, part = (thread + p * kThreads) % kChunks;
      *reinterpret_cast<uint4*>(&a_tile[buffer][row * kPitch + part * 8]) = a_next[p];
      *reinterpret_cast<uint4*>(&b_tile[buffer][column * kPitch + (chunk + p * (kThreads / kTile)) * 8]) = b_next[p];
    }
  };
  float sums[kRows / 16][4][4] = {};
  const int row0 = warp / kAcross * kRows, column0 = warp % kAcross * 32;
  if (begin < end) {
    fetch(begin);
    store(begin & 1);
  }
  __syncthreads();
  for (int step = begin; step < end; ++step) {
    const int buffer = step & 1;
    if (step + 1 < end) fetch(step + 1);
    look_up(step + 2);
#pragma unroll
    for (int k = 0; k < kConvDepth; k += 16) {
      unsigned a[kRows / 16][4], b[2][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) load_matrices(a[i], &a_tile[buffer][(row0 + i * 16 + lane % 16) * kPitch + k + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 2; ++j)
        load_matrices(b[j], &b_tile[buffer][(column0 + j * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8]);
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
    if (step + 1 < end) store(buffer ^ 1);
    __syncthreads();
  }
  finish_tile<T, kTile, kRows, kThreads>(task, place, sums, reinterpret_cast<float*>(shared));
}

template <typename T>
__global__ void conv_join(const __grid_constant__ ConvTask task) {
  const int columns = task.batch * task.out_size;
  const std::int64_t total = static_cast<std::int64_t>(task.groups) * task.filters * columns,
                     step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    float sum = 0;
    for (int s = 0; s < task.splits; ++s) sum += task.sums[s * total + i];
    int column;
    const auto filter = static_cast<int>(divide(i, columns, column));
    finish_conv<T>(task, task.first + filter, column, sum);
  }
}

template <typename T, int kTile, int kRows>
cudaError_t start(const ConvTask& task, cudaStream_t stream) {
  const cudaError_t error = launch_split(conv_mma<T, kTile, kRows>, conv_grid(task, kTile), kTile / kRows * kTile, 0,
                                         task.clusters ? task.splits : 1, task, stream);
  return error == cudaSuccess ? cudaGetLastError() : error;
}

template <typename T>
cudaError_t start_tile(const ConvTask& task, ConvTile tile, cudaStream_t stream) {
  const bool dense = task.dense && task.channels % 8 == 0 && task.out_size % 4 == 0;
  const cudaError_t error = dense                     ? start_conv_point(task, tile, stream)
                            : tile == ConvTile::small ? start<T, 64, 32>(task, stream)
                                                      : start<T, 128, 64>(task, stream);
  if (error == cudaSuccess && task.splits > 1 && !task.clusters) {
    const std::int64_t total = static_cast<std::int64_t>(task.groups) * task.filters * task.batch * task.out_size;
    conv_join<T><<<blocks_for(total, 256), 256, 0, stream>>>(task);
  }
  return error == cudaSuccess ? cudaGetLastError() : error;
}

}  // namespace

cudaError_t launch_conv_mma(const ConvTask& task, ConvTile tile, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.batch) * task.out_size * task.filters == 0) return cudaSuccess;
  return by_types<__half, __nv_bfloat16>(task.type, [&](auto t) { return start_tile<decltype(t)>(task, tile, stream); });
}

}  // namespace forebay::cuda
