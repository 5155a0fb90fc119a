// Convolutions of 8-bit integers on tensor cores: patches are gathered as they are read, padding is the zero point and adds nothing.
#include "runtime/cuda/integer_conv_task.h"
#include "runtime/cuda/integer_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kTile = 64, kWords = 16, kDepth = 4 * kWords, kThreads = 256;

struct Place {  // of an output pixel: the image and where its window begins
  std::int64_t image;
  int z, y, x;
};
__device__ inline Place place_of(const IntegerConv& task, std::int64_t pixel) {
  const int at = static_cast<int>(pixel % task.out_size), x = at % task.out[2], y = at / task.out[2] % task.out[1],
            z = at / (task.out[2] * task.out[1]);
  return {pixel / task.out_size, z * task.stride[0] - task.pad[0], y * task.stride[1] - task.pad[1], x * task.stride[2] - task.pad[2]};
}
__device__ inline bool inside(int at, int size) {
  return static_cast<unsigned>(at) < static_cast<unsigned>(size);
}

// The sum is (W - w zero) * (X - x zero); filter and pixel are those of y.
__device__ inline void finish(const IntegerConv& task, int filter, std::int64_t image, int at, std::uint32_t sum) {
  if (!task.float_bias && task.bias.data != nullptr) sum += static_cast<std::uint32_t>(integer_at(task.bias.type, task.bias.data, filter));
  const std::int64_t to = (image * task.all_filters + filter) * task.out_size + at;
  const auto exact = static_cast<std::int32_t>(sum);
  if (task.y_type == DType::i32) {
    static_cast<std::int32_t*>(task.y)[to] = exact;
    return;
  }
  const float step = scale_of(task.y_scale, 0);
  const float scale = scale_of(task.x_scale, 0) * scale_of(task.w_scale, filter) / step;
  const float bias = task.float_bias && task.bias.data != nullptr ? read_number(task.bias.type, task.bias.data, filter) : 0.0f;
  const float value = rintf(static_cast<float>(exact) * scale + bias / step) + static_cast<float>(zero_of(task.y_zero, 0));
  const bool is_signed = task.y_type == DType::i8;
  static_cast<std::uint8_t*>(task.y)[to] =
      static_cast<std::uint8_t>(static_cast<int>(limited(value, is_signed ? -128.0f : 0.0f, is_signed ? 127.0f : 255.0f)));
}

// Four codes of a filter from k on, as signed; zeros behind the last.
__device__ inline std::uint32_t filter_word(const std::uint8_t* row, int k, int depth, bool whole, std::uint32_t flip) {
  if (whole) return k < depth ? *reinterpret_cast<const std::uint32_t*>(row + k) ^ (flip * 0x01010101u) : 0u;
  std::uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (k + j < depth) word |= (row[k + j] ^ flip) << (8 * j);
  return word;
}

// Codes are taken as signed (u8 less 128), their zero points come off at the end, as in integer_cuda.cu. Eight warps, each 32 filters by
// 16 pixels; a block has filters of one group.
__global__ void __launch_bounds__(kThreads) conv_tiles(const __grid_constant__ IntegerConv task) {
  __shared__ std::uint32_t ws[kWords][kTile + 8], xs[kWords][kTile + 8];
  __shared__ int tap_at[kDepth], tap_z[kDepth], tap_y[kDepth], tap_x[kDepth], w_sums[kTile], x_sums[kTile];
  const int each = task.all_filters / task.groups, group = task.first / each + static_cast<int>(blockIdx.z);
  const int begin = max(task.first, group * each), end = min(task.first + task.filters, (group + 1) * each);
  const int f0 = begin + static_cast<int>(blockIdx.y) * kTile;
  if (f0 >= end) return;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) * kTile, pixels = static_cast<std::int64_t>(task.batch) * task.out_size;
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp_m = tid / 32 / 4 * 32, warp_n = tid / 32 % 4 * 16;
  const int depth = task.channels * task.taps, plane = task.in[1] * task.in[2];
  const std::uint32_t w_flip = task.w_type == DType::u8 ? 0x80u : 0u, x_flip = task.x_type == DType::u8 ? 0x80u : 0u;
  const std::uint32_t outside = (static_cast<std::uint32_t>(zero_of(task.x_zero, 0)) & 0xffu) ^ x_flip;
  const auto* const w = static_cast<const std::uint8_t*>(task.w);
  // This thread gathers for one pixel.
  const std::int64_t pixel = n0 + tid % kTile;
  const Place mine = place_of(task, pixel < pixels ? pixel : 0);
  const auto* const image = static_cast<const std::uint8_t*>(task.x) +
                            (mine.image * task.groups + group) * task.channels * static_cast<std::int64_t>(task.in_size);
  if (tid < kTile) w_sums[tid] = x_sums[tid] = 0;
  int sums[2][2][4] = {}, own_w[4] = {}, own_x = 0;
  for (int k0 = 0; k0 < depth; k0 += kDepth) {
    if (tid < kDepth) {
      const int k = k0 + tid < depth ? k0 + tid : 0, tap = k % task.taps;
      tap_z[tid] = tap / (task.kernel[1] * task.kernel[2]) * task.dilation[0];
      tap_y[tid] = tap / task.kernel[2] % task.kernel[1] * task.dilation[1];
      tap_x[tid] = tap % task.kernel[2] * task.dilation[2];
      tap_at[tid] = k / task.taps * task.in_size;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int f = tid / kWords + r * (kThreads / kWords), word = tid % kWords;
      const std::uint8_t* const row = w + static_cast<std::int64_t>(f0 + f - task.first) * depth;
      const std::uint32_t bits = f0 + f < end ? filter_word(row, k0 + word * 4, depth, depth % 4 == 0, w_flip) : 0u;
      ws[word][f] = bits;
      own_w[r] = __dp4a(static_cast<int>(bits), 0x01010101, own_w[r]);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int word = tid / kTile + r * (kThreads / kTile);
      std::uint32_t bits = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int k = word * 4 + j;
        if (pixel >= pixels || k0 + k >= depth) continue;
        const int z = mine.z + tap_z[k], y = mine.y + tap_y[k], x = mine.x + tap_x[k];
        const bool there = inside(z, task.in[0]) && inside(y, task.in[1]) && inside(x, task.in[2]);
        bits |= (there ? image[tap_at[k] + z * plane + y * task.in[2] + x] ^ x_flip : outside) << (8 * j);
      }
      xs[word][tid % kTile] = bits;
      own_x = __dp4a(static_cast<int>(bits), 0x01010101, own_x);
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < kWords; half += 8) multiply_tiles(sums, ws, xs, half, warp_m, warp_n, lane);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) atomicAdd(&w_sums[tid / kWords + r * (kThreads / kWords)], own_w[r]);
  atomicAdd(&x_sums[tid % kTile], own_x);
  __syncthreads();
  const auto zx = static_cast<std::uint32_t>(zero_of(task.x_zero, 0)) - x_flip;
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int f = warp_m + i * 16 + lane / 4 + e / 2 * 8, n = warp_n + j * 8 + lane % 4 * 2 + e % 2;
        if (f0 + f >= end || n0 + n >= pixels) continue;
        const auto zw = static_cast<std::uint32_t>(zero_of(task.w_zero, f0 + f)) - w_flip;
        const std::uint32_t sum = static_cast<std::uint32_t>(sums[i][j][e]) - zw * static_cast<std::uint32_t>(x_sums[n]) -
                                  zx * static_cast<std::uint32_t>(w_sums[f]) + static_cast<std::uint32_t>(depth) * zw * zx;
        finish(task, f0 + f, (n0 + n) / task.out_size, static_cast<int>((n0 + n) % task.out_size), sum);
      }
    }
  }
}

__device__ inline int byte_of(DType type, const void* data, std::int64_t i) {
  return type == DType::i8 ? static_cast<const std::int8_t*>(data)[i] : static_cast<const std::uint8_t*>(data)[i];
}

// Few filters a group: an output a thread.
__global__ void __launch_bounds__(kThreads) conv_outputs(const __grid_constant__ IntegerConv task) {
  const int each = task.all_filters / task.groups, depth = task.channels * task.taps, x_zero = zero_of(task.x_zero, 0);
  const std::int64_t total = static_cast<std::int64_t>(task.batch) * task.filters * task.out_size,
                     step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const int at = static_cast<int>(i % task.out_size), own = static_cast<int>(i / task.out_size % task.filters), filter = task.first + own;
    const std::int64_t batch = i / task.out_size / task.filters;
    const Place place = place_of(task, at);
    const int w_zero = zero_of(task.w_zero, filter);
    std::uint32_t sum = 0;
    for (int c = 0; c < task.channels; ++c) {
      const std::int64_t from = ((batch * task.groups + filter / each) * task.channels + c) * task.in_size;
      for (int tap = 0; tap < task.taps; ++tap) {
        const int z = place.z + tap / (task.kernel[1] * task.kernel[2]) * task.dilation[0],
                  y = place.y + tap / task.kernel[2] % task.kernel[1] * task.dilation[1],
                  x = place.x + tap % task.kernel[2] * task.dilation[2];
        if (!inside(z, task.in[0]) || !inside(y, task.in[1]) || !inside(x, task.in[2])) continue;
        const int left = byte_of(task.w_type, task.w, static_cast<std::int64_t>(own) * depth + c * task.taps + tap) - w_zero;
        const int right = byte_of(task.x_type, task.x, from + (static_cast<std::int64_t>(z) * task.in[1] + y) * task.in[2] + x) - x_zero;
        sum += static_cast<std::uint32_t>(left * right);
      }
    }
    finish(task, filter, batch, at, sum);
  }
}

}  // namespace

cudaError_t launch_integer_conv(const IntegerConv& task, cudaStream_t stream) {
  const std::int64_t pixels = static_cast<std::int64_t>(task.batch) * task.out_size;
  if (pixels == 0 || task.filters == 0) return cudaSuccess;
  const int each = task.all_filters / task.groups;
  if (each < 8) {
    conv_outputs<<<blocks_for(pixels * task.filters, kThreads), kThreads, 0, stream>>>(task);
    return cudaGetLastError();
  }
  const int groups = (task.first + task.filters - 1) / each - task.first / each + 1, rows = each < task.filters ? each : task.filters;
  const dim3 grid(static_cast<unsigned>((pixels + kTile - 1) / kTile), static_cast<unsigned>((rows + kTile - 1) / kTile),
                  static_cast<unsigned>(groups));
  conv_tiles<<<grid, kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
