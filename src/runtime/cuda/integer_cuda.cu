#include "runtime/cuda/integer_numbers.cuh"

namespace forebay::cuda {
namespace {

__device__ inline void requantize(const IntegerProduct& task, std::int64_t row, std::int64_t n, std::int32_t sum) {
  const float scale = scale_of(task.a_scale, row) * scale_of(task.b_scale, n) / scale_of(task.y_scale, row);
  const float value = rintf(static_cast<float>(sum) * scale + 0.0f) + static_cast<float>(zero_of(task.y_zero, row));
  const bool is_signed = task.y_type == DType::i8;
  static_cast<std::uint8_t*>(task.y)[row * task.n + n] =
      static_cast<std::uint8_t>(static_cast<int>(limited(value, is_signed ? -128.0f : 0.0f, is_signed ? 127.0f : 255.0f)));
}

constexpr int kTile = 64, kWords = 16, kTileThreads = 256;  // words of four codes along k

// Four codes of a row of A from k on, as signed; zeros behind the last.
__device__ inline std::uint32_t row_word(const std::uint8_t* row, std::int64_t k, std::int64_t depth, bool aligned, std::uint32_t flip) {
  if (aligned && k + 4 <= depth) return *reinterpret_cast<const std::uint32_t*>(row + k) ^ (flip * 0x01010101u);
  std::uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (k + j < depth) word |= (row[k + j] ^ flip) << (8 * j);
  return word;
}

// Codes are taken as signed (u8 less 128) by tensor cores; their zero points come off at the end: sum(a b) - za sum(b) - zb sum(a) + k za
// zb, which wraps as the plain sum would. Eight warps, each 32 rows by 16 columns.
__global__ void __launch_bounds__(kTileThreads) integer_tiles(const __grid_constant__ IntegerProduct task) {
  __shared__ std::uint32_t as[kWords][kTile + 8], bs[kWords][kTile + 8];
  __shared__ int a_sums[kTile], b_sums[kTile];
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.y) * kTile, n0 = static_cast<std::int64_t>(blockIdx.x) * kTile,
                     batch = blockIdx.z;
  const auto* a = static_cast<const std::uint8_t*>(task.a) + batch * task.a_batch;
  const auto* b = static_cast<const std::uint8_t*>(task.b) + batch * task.b_batch;
  const std::uint32_t a_flip = task.a_type == DType::u8 ? 0x80u : 0u, b_flip = task.b_type == DType::u8 ? 0x80u : 0u;
  const bool aligned = (reinterpret_cast<std::uintptr_t>(a) | static_cast<std::uintptr_t>(task.a_row)) % 4 == 0;
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp_m = tid / 32 / 4 * 32, warp_n = tid / 32 % 4 * 16;
  const std::int64_t column = n0 + tid % kTile;  // of B, which this thread gathers
  int sums[2][2][4] = {}, own_a[4] = {}, own_b = 0;
  if (tid < kTile) a_sums[tid] = b_sums[tid] = 0;
  for (std::int64_t k0 = 0; k0 < task.k; k0 += kWords * 4) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = tid / kWords + r * (kTileThreads / kWords), word = tid % kWords;
      const bool inside = m0 + row < task.m;
      const std::uint32_t bits = inside ? row_word(a + (m0 + row) * task.a_row, k0 + word * 4, task.k, aligned, a_flip) : 0u;
      as[word][row] = bits;
      own_a[r] = __dp4a(static_cast<int>(bits), 0x01010101, own_a[r]);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int word = tid / kTile + r * (kTileThreads / kTile);
      std::uint32_t bits = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int64_t k = k0 + word * 4 + j;
        if (column < task.n && k < task.k) bits |= (b[k * task.b_row + column] ^ b_flip) << (8 * j);
      }
      bs[word][tid % kTile] = bits;
      own_b = __dp4a(static_cast<int>(bits), 0x01010101, own_b);
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < kWords; half += 8) multiply_tiles(sums, as, bs, half, warp_m, warp_n, lane);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) atomicAdd(&a_sums[tid / kWords + r * (kTileThreads / kWords)], own_a[r]);
  atomicAdd(&b_sums[tid % kTile], own_b);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int at = warp_m + i / 8 * 16 + lane / 4 + i / 2 % 2 * 8, to = warp_n + i / 4 % 2 * 8 + lane % 4 * 2 + i % 2;
    const std::int64_t m = m0 + at, n = n0 + to;
    if (m >= task.m || n >= task.n) continue;
    const std::int64_t row = batch * task.m + m;
    const auto za = static_cast<std::uint32_t>(zero_of(task.a_zero, row) - static_cast<int>(a_flip)),
               zb = static_cast<std::uint32_t>(zero_of(task.b_zero, n) - static_cast<int>(b_flip));
    const std::uint32_t own = static_cast<std::uint32_t>(sums[i / 8][i / 4 % 2][i % 4]) - za * static_cast<std::uint32_t>(b_sums[to]) -
                              zb * static_cast<std::uint32_t>(a_sums[at]) + static_cast<std::uint32_t>(task.k) * za * zb;
    const std::uint32_t before = task.first ? 0u : static_cast<std::uint32_t>(task.sums[row * task.n + n]);
    const auto sum = static_cast<std::int32_t>(before + own);
    if (task.y != nullptr && task.last) {
      requantize(task, row, n, sum);
    } else {
      task.sums[row * task.n + n] = sum;
    }
  }
}

__device__ inline std::int64_t scale_place(const ScalePlaces& p, std::int64_t i) {
  if (p.single) return 0;
  const std::int64_t a = i / p.inner % p.axis;
  return p.block == 0 ? a : (i / (p.inner * p.axis) * p.scale_axis + a / p.block) * p.inner + i % p.inner;
}

template <typename T>
__device__ inline void put_integer(void* y, std::int64_t i, float value, float low, float high) {
  static_cast<T*>(y)[i] = static_cast<T>(value != value ? 0.0f : limited(value, low, high));
}

__global__ void quantize(const __grid_constant__ LinearQuantTask task) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < task.count; i += step) {
    const std::int64_t at = scale_place(task.places, i);
    const float divided = read_number(task.x_type, task.x, i) / read_number(task.scale_type, task.scale, at);
    const float value = rintf(divided) + (task.zero != nullptr ? static_cast<float>(integer_at(task.zero_type, task.zero, at)) : 0.0f);
    switch (task.y_type) {
      case DType::i8:
        put_integer<std::int8_t>(task.y, i, value, -128.0f, 127.0f);
        break;
      case DType::u8:
        put_integer<std::uint8_t>(task.y, i, value, 0.0f, 255.0f);
        break;
      case DType::i16:
        put_integer<std::int16_t>(task.y, i, value, -32768.0f, 32767.0f);
        break;
      default:
        put_integer<std::uint16_t>(task.y, i, value, 0.0f, 65535.0f);
        break;
    }
  }
}

__global__ void dequantize(const __grid_constant__ LinearQuantTask task) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const bool plain = task.x_type == DType::i16 || task.x_type == DType::u16 || task.x_type == DType::i32;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < task.count; i += step) {
    const std::int64_t at = scale_place(task.places, task.first + i);
    const void* const codes = task.each > 0 ? task.slabs.slabs[i / task.each] : task.x;
    const std::int64_t own = task.each > 0 ? i % task.each : i;
    float code;
    if (plain) {
      const std::int64_t zero = task.zero != nullptr ? integer_at(task.zero_type, task.zero, at) : 0;
      code = static_cast<float>(integer_at(task.x_type, codes, own) - zero);
    } else {
      code = code_value(task.x_type, codes, own) - (task.zero != nullptr ? code_value(task.zero_type, task.zero, at) : 0.0f);
    }
    write_number(task.y_type, task.y, task.first + i, code * read_number(task.scale_type, task.scale, at));
  }
}

constexpr int kThreads = 256;

// The smallest and largest of `count` values, and 0, over a block; the same in every thread.
__device__ inline void block_range(const float* lows, const float* highs, std::int64_t from, std::int64_t count, std::int64_t step,
                                   float* low, float* high) {
  __shared__ float l[kThreads], h[kThreads];
  float my_low = 0, my_high = 0;
  for (std::int64_t i = from; i < count; i += step) {
    my_low = fminf(my_low, lows[i]);
    my_high = fmaxf(my_high, highs[i]);
  }
  l[threadIdx.x] = my_low;
  h[threadIdx.x] = my_high;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      l[threadIdx.x] = fminf(l[threadIdx.x], l[threadIdx.x + half]);
      h[threadIdx.x] = fmaxf(h[threadIdx.x], h[threadIdx.x + half]);
    }
    __syncthreads();
  }
  *low = l[0];
  *high = h[0];
}

__global__ void __launch_bounds__(kThreads) find_range(const float* x, std::int64_t count, float* partial) {
  float low, high;
  block_range(x, x, static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x, count,
              static_cast<std::int64_t>(kRangeBlocks) * kThreads, &low, &high);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = low;
    partial[kRangeBlocks + blockIdx.x] = high;
  }
}
__global__ void __launch_bounds__(kThreads)
    quantize_range(const float* x, std::int64_t count, std::uint8_t* y, float* y_scale, std::uint8_t* y_zero, const float* partial) {
  float low, high;
  block_range(partial, partial + kRangeBlocks, threadIdx.x, kRangeBlocks, kThreads, &low, &high);
  const float range = (high - low) / 255.0f, scale = range == 0.0f ? 1.0f : range;
  const float zero = limited(rintf(0.0f - low / scale), 0.0f, 255.0f);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
    y[i] = static_cast<std::uint8_t>(limited(rintf(x[i] / scale) + zero, 0.0f, 255.0f));
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    if (y_scale != nullptr) *y_scale = scale;
    if (y_zero != nullptr) *y_zero = static_cast<std::uint8_t>(zero);
  }
}

}  // namespace

cudaError_t launch_integer_product(const IntegerProduct& task, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0 || task.batches == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((task.n + kTile - 1) / kTile), static_cast<unsigned>((task.m + kTile - 1) / kTile),
                  static_cast<unsigned>(task.batches));
  integer_tiles<<<grid, kTileThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

bool quantizes_to(DType type) {
  return type == DType::i8 || type == DType::u8 || type == DType::i16 || type == DType::u16;
}
bool dequantizes_from(DType type) {
  switch (type) {
    case DType::i32:
    case DType::i4:
    case DType::u4:
    case DType::i2:
    case DType::u2:
    case DType::f4e2m1:
    case DType::f8e4m3fn:
    case DType::f8e5m2:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2fnuz:
      return true;
    default:
      return quantizes_to(type);
  }
}
cudaError_t launch_quantize(const LinearQuantTask& task, cudaStream_t stream) {
  if (task.count == 0) return cudaSuccess;
  quantize<<<blocks_for(task.count, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}
cudaError_t launch_dequantize(const LinearQuantTask& task, cudaStream_t stream) {
  if (task.count == 0) return cudaSuccess;
  dequantize<<<blocks_for(task.count, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}
cudaError_t launch_dynamic_quantize(const float* x, std::int64_t count, std::uint8_t* y, float* scale, std::uint8_t* zero, float* partial,
                                    cudaStream_t stream) {
  find_range<<<kRangeBlocks, kThreads, 0, stream>>>(x, count, partial);
  const unsigned wanted = blocks_for(count, kThreads), blocks = wanted < 1024 ? wanted : 1024;
  quantize_range<<<blocks, kThreads, 0, stream>>>(x, count, y, scale, zero, partial);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
