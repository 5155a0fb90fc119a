// Products of one row by large packed [n,k] weights: the sums of packed_row_dot.cu in the same order, the same bits.
//
// As in row_stream_cuda.cu a block a multiprocessor takes what it reads through rings of bulk copies, here two rows a warp, so that an
// element of A is widened once for both. A value is made in few instructions: codes get a leading one behind which they are exact 16-bit
// (or 32-bit) floats, the zero point goes off exactly, and the product by the scale is rounded once, as the CPU's f32 product is, which
// holds all bits of it. Everything that is one thing for the whole matrix (code, type, zero points) is a parameter of the template: asked
// element by element it took more than the arithmetic.
#include <cuda_fp8.h>

#include <algorithm>

#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/packed_launch.h"
#include "runtime/cuda/row_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kWarps = 16, kRows = 2;
constexpr std::size_t kLeastShared = 116 << 10;  // above half of a multiprocessor's (row_stream_cuda.cu)
constexpr int kColumns = 2048, kLeastBlock = 16;
constexpr std::int64_t kMostDepth = 32 << 10;

enum class Codes { nibble, byte, e4m3, e5m2 };

// A stage is 2048 columns of a pair of rows: enough that its barriers and copies cost little beside it.
template <Codes kCodes>
struct Ring {
  static constexpr int kBits = kCodes == Codes::nibble ? 4 : 8, kStages = kCodes == Codes::nibble ? 3 : 2;
  static constexpr int kBlocks = kColumns / kLeastBlock;
  static constexpr int kCodeBytes = kColumns * kBits / 8, kScaleBytes = kBlocks * 2, kZeroBytes = kBlocks * kBits / 8;
  static constexpr int kRowBytes = kCodeBytes + kScaleBytes + kZeroBytes, kStageBytes = kRows * kRowBytes;
  static constexpr int kBytes = kWarps * kStages * kStageBytes, kBarrierBytes = kWarps * kStages * 8;
};

struct PackedStream {
  ProductTask task;
  PackedWeight weight;
  PackedSlabs slabs;
  int shift = 0;                // of columns to their block of scales and zero points
  unsigned flip = 0, from = 0;  // signed codes are counted from the least one; the zero point where there are no others
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // bulk copies
template <typename V>
struct Pairs;
template <>
struct Pairs<__nv_bfloat16> {
  using Two = __nv_bfloat162;
  static constexpr std::uint32_t kOnes = 0x43004300u;  // 128: codes of 4 bits behind it
  __device__ static void widen(Two pair, float& low, float& high) {
    const auto bits = *reinterpret_cast<const std::uint32_t*>(&pair);
    low = __uint_as_float(bits << 16);
    high = __uint_as_float(bits & 0xffff0000u);
  }
  __device__ static float single(unsigned short bits) { return __uint_as_float(static_cast<std::uint32_t>(bits) << 16); }
};
template <>
struct Pairs<__half> {
  using Two = __half2;
  static constexpr std::uint32_t kOnes = 0x64006400u;  // 1024: codes of up to 8 bits behind it
  __device__ static void widen(Two pair, float& low, float& high) {
    low = __low2float(pair);
    high = __high2float(pair);
  }
};

template <typename V>
__device__ inline typename Pairs<V>::Two as_two(std::uint32_t bits) {
  return *reinterpret_cast<const typename Pairs<V>::Two*>(&bits);
}

// Eight neighbouring codes of a row as the values of elements 0 to 7: (code - zero) * scale, rounded to V.
template <Codes kCodes, typename V>
struct Eight {
  std::uint32_t words[Ring<kCodes>::kBits / 4];
  __device__ inline void load(const std::byte* codes, int run) {
    if constexpr (kCodes == Codes::nibble) {
      words[0] = reinterpret_cast<const std::uint32_t*>(codes)[run];
    } else {
      const uint2 both = reinterpret_cast<const uint2*>(codes)[run];
      words[0] = both.x;
      words[1] = both.y;
    }
  }
  __device__ inline void values(unsigned short scale, unsigned zero, unsigned flip, float (&w)[8]) const {
    using Two = typename Pairs<V>::Two;
    const std::uint32_t twice = scale * 0x10001u;
    const Two by = as_two<V>(twice);
    if constexpr (kCodes == Codes::nibble) {
      const std::uint32_t ones = Pairs<V>::kOnes ^ flip * 0x10001u;
      const Two zeros = as_two<V>(Pairs<V>::kOnes + zero * 0x10001u);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Two code = as_two<V>(((words[0] >> (4 * i)) & 0x000f000fu) ^ ones);
        Pairs<V>::widen(__hmul2(__hsub2(code, zeros), by), w[i], w[i + 4]);
      }
    } else {
      const std::uint32_t turn = flip * 0x01010101u;
      const __half2 zeros = as_two<__half>(Pairs<__half>::kOnes + zero * 0x10001u);
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // every code and every difference of two is exact in f16
        __half2 code;
        if constexpr (kCodes == Codes::byte) {
          code = __hsub2(as_two<__half>(__byte_perm(words[i / 2] ^ turn, 0x64646464u, i % 2 == 0 ? 0x4140u : 0x4342u)), zeros);
        } else {
          const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> (16 * (i % 2)));
          code = __half2(__nv_cvt_fp8x2_to_halfraw2(pair, kCodes == Codes::e4m3 ? __NV_E4M3 : __NV_E5M2));
        }
        if constexpr (std::is_same_v<V, __half>) {
          Pairs<V>::widen(__hmul2(code, by), w[2 * i], w[2 * i + 1]);
        } else {
          const float factor = Pairs<V>::single(scale);
          Pairs<V>::widen(__floats2bfloat162_rn(__low2float(code) * factor, __high2float(code) * factor), w[2 * i], w[2 * i + 1]);
        }
      }
    }
  }
};

__device__ inline void copy_bulk(unsigned to, const void* from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}

// A lane's row of each pair that its warp takes, from pair `first` on at even steps, stage by stage; the last row once more behind it.
template <Codes kCodes, bool kZeros>
struct PackedSource {
  using Place = Ring<kCodes>;
  const PackedStream& work;
  int row, step, at = 0;
  const std::byte *codes = nullptr, *scales = nullptr, *zeros = nullptr;
  __device__ inline PackedSource(const PackedStream& w, int first, int pairs, int lane)
      : work(w), row(first * kRows + lane), step(pairs * kRows) {
    find();
  }
  __device__ inline void find() {
    const int rows = static_cast<int>(work.task.n);
    if (row / kRows * kRows >= rows) {
      codes = nullptr;
      return;
    }
    const int here = min(row, rows - 1), each = static_cast<int>(work.slabs.rows), slab = here / each, own = here - slab * each;
    const std::int64_t whole = work.weight.first_row + here;
    codes = static_cast<const std::byte*>(work.slabs.codes[slab]) + own * work.weight.stride * Ring<kCodes>::kBits / 8;
    scales = static_cast<const std::byte*>(work.slabs.scales[slab]) + (work.weight.scale.cut ? own : whole) * work.weight.scale.row * 2;
    if constexpr (kZeros) {
      zeros = static_cast<const std::byte*>(work.slabs.zeros[slab]) +
              (work.weight.zero.cut ? own : whole) * work.weight.zero.row * Ring<kCodes>::kBits / 8;
    }
  }
  __device__ inline void ask(unsigned to, unsigned barrier) {
    if (codes == nullptr) return;
    const int columns = min(kColumns, static_cast<int>(work.task.k) - at), blocks = columns >> work.shift;
    const int code_bytes = columns * Place::kBits / 8, scale_bytes = blocks * 2, zero_bytes = kZeros ? blocks * Place::kBits / 8 : 0;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(code_bytes + scale_bytes + zero_bytes)
                 : "memory");
    copy_bulk(to, codes, code_bytes, barrier);
    if (scale_bytes > 0) copy_bulk(to + Place::kCodeBytes, scales, scale_bytes, barrier);
    if (zero_bytes > 0) copy_bulk(to + Place::kCodeBytes + Place::kScaleBytes, zeros, zero_bytes, barrier);
    codes += code_bytes;
    scales += scale_bytes;
    zeros += zero_bytes;
    at += columns;
    if (at < work.task.k) return;
    at = 0;
    row += step;
    find();
  }
};

// Sums of a warp's pair over one stage, `columns` of it.
template <Codes kCodes, typename V, bool kZeros, bool kWhole>
__device__ inline void add_stage(const PackedStream& work, const std::byte* stage, const uint4* x, int columns, int lane,
                                 float (&sums)[kRows][1][8]) {
  using Place = Ring<kCodes>;
  const int blocks = 256 >> work.shift;
  int block = (lane * 8) >> work.shift;
#pragma unroll
  for (int u = 0; u < kColumns / 256; ++u, block += blocks) {
    if (!kWhole && u * 256 >= columns) break;
    const uint4 bits = x[u * 32 + lane];
    const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    float values[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) Pairs<V>::widen(as_two<V>(words[i]), values[2 * i], values[2 * i + 1]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const std::byte* const own = stage + r * Place::kRowBytes;
      Eight<kCodes, V> eight;
      eight.load(own, u * 32 + lane);
      unsigned zero = work.from;
      if constexpr (kZeros && kCodes == Codes::nibble) {
        zero = ((static_cast<unsigned>(own[Place::kCodeBytes + Place::kScaleBytes + block / 2]) >> (block % 2 * 4)) & 15u) ^ work.flip;
      } else if constexpr (kZeros) {
        zero = static_cast<unsigned>(own[Place::kCodeBytes + Place::kScaleBytes + block]) ^ work.flip;
      }
      float w[8];
      eight.values(reinterpret_cast<const unsigned short*>(own + Place::kCodeBytes)[block], zero, work.flip, w);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[r][0][i] = __fmaf_rn(w[i], values[i], sums[r][0][i]);
    }
  }
}

// A scale that stands for a whole row is the first of each of its stages: no copy writes there.
template <Codes kCodes>
__device__ inline void put_row_scales(const PackedStream& work, std::byte* ring, int pair, int lane) {
  using Place = Ring<kCodes>;
  if (lane >= kRows) return;
  const int row = min(pair * kRows + lane, static_cast<int>(work.task.n) - 1), slab = row / static_cast<int>(work.slabs.rows);
  const std::int64_t at = work.weight.scale.cut ? row - slab * work.slabs.rows : work.weight.first_row + row;
  const auto scale = static_cast<const unsigned short*>(work.slabs.scales[slab])[at * work.weight.scale.row];
  for (int s = 0; s < Place::kStages; ++s)
    *reinterpret_cast<unsigned short*>(ring + s * Place::kStageBytes + lane * Place::kRowBytes + Place::kCodeBytes) = scale;
}
#endif

template <Codes kCodes, typename V, bool kZeros>
__global__ void __launch_bounds__(kWarps * 32, 1) packed_stream(const __grid_constant__ PackedStream work) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte memory[];
  using Place = Ring<kCodes>;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  std::byte* const ring = memory + warp * Place::kStages * Place::kStageBytes;
  const unsigned barriers = shared_place(memory + Place::kBytes) + static_cast<unsigned>(warp) * Place::kStages * 8;
  auto* const x = reinterpret_cast<uint4*>(memory + Place::kBytes + Place::kBarrierBytes);
  const int first = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x) * kWarps;
  if (!work.task.constant_b) after_previous();
  PackedSource<kCodes, kZeros> source(work, first, step, lane % kRows);
  const unsigned place = shared_place(ring) + static_cast<unsigned>(lane % kRows) * Place::kRowBytes;
  if (lane == 0) {
    for (int s = 0; s < Place::kStages; ++s) begin_barrier(barriers + s * 8, kRows);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    show_copies();
  }
  __syncwarp();
  if (lane < kRows) {
    for (int s = 0; s < Place::kStages; ++s) source.ask(place + s * Place::kStageBytes, barriers + s * 8);
  }
  if (work.task.constant_b) after_previous();
  const int k = static_cast<int>(work.task.k), rows = static_cast<int>(work.task.n);
  for (int i = static_cast<int>(threadIdx.x); i < k / 8; i += kWarps * 32) x[i] = static_cast<const uint4*>(work.task.a)[i];
  __syncthreads();
  int stage = 0, turn = 0;
  for (int pair = first; pair * kRows < rows; pair += step) {
    float sums[kRows][1][8] = {};
    if (work.shift == 31) {
      put_row_scales<kCodes>(work, ring, pair, lane);
      __syncwarp();
    }
    for (int at = 0; at < k; at += kColumns) {
      await_turn(barriers + stage * 8, turn);
      const std::byte* const from = ring + stage * Place::kStageBytes;
      if (k - at >= kColumns) {
        add_stage<kCodes, V, kZeros, true>(work, from, x + at / 8, kColumns, lane, sums);
      } else {
        add_stage<kCodes, V, kZeros, false>(work, from, x + at / 8, k - at, lane, sums);
      }
      __syncwarp();
      if (lane < kRows) source.ask(place + stage * Place::kStageBytes, barriers + stage * 8);
      if (++stage == Place::kStages) {
        stage = 0;
        ++turn;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (pair * kRows + r < rows) finish_row<1>(work.task, sums[r], pair * kRows + r, 0);
    }
  }
#endif
}

template <Codes kCodes, typename V, bool kZeros>
cudaError_t start(const PackedStream& work, cudaStream_t stream, bool* there) {
  const auto kernel = packed_stream<kCodes, V, kZeros>;
  cudaFuncAttributes made;
  cudaError_t error = cudaFuncGetAttributes(&made, kernel);
  *there = error == cudaSuccess && made.ptxVersion >= 90;
  if (!*there) return error;
  int device = 0, processors = 0;
  error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const std::size_t bytes = Ring<kCodes>::kBytes + Ring<kCodes>::kBarrierBytes + static_cast<std::size_t>(work.task.k) * 2;
  return launch_after(kernel, dim3(static_cast<unsigned>(processors)), kWarps * 32, std::max(bytes, kLeastShared), stream, work);
}
template <Codes kCodes, typename V>
cudaError_t by_zeros(const PackedStream& work, bool zeros, cudaStream_t stream, bool* there) {
  if constexpr (kCodes == Codes::nibble || kCodes == Codes::byte) {
    if (zeros) return start<kCodes, V, true>(work, stream, there);
  }
  return start<kCodes, V, false>(work, stream, there);
}
template <Codes kCodes>
cudaError_t by_type(const PackedStream& work, bool zeros, cudaStream_t stream, bool* there) {
  if (work.task.a_type == DType::f16) return by_zeros<kCodes, __half>(work, zeros, stream, there);
  return by_zeros<kCodes, __nv_bfloat16>(work, zeros, stream, there);
}

bool sixteens(const void* const* pointers, std::int64_t count, std::int64_t row_bytes) {
  if (row_bytes % 16 != 0) return false;
  return std::all_of(pointers, pointers + count, [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; });
}

// What bulk copies and whole runs of 256 columns can serve; the rest is packed_row_dot.cu's.
bool streams(PackedStream& work, int bits) {
  const ProductTask& task = work.task;
  const PackedWeight& weight = work.weight;
  const bool sixteen = task.a_type == DType::f16 || task.a_type == DType::bf16, zeros = weight.zero.type != DType::none;
  if (task.m != 1 || !sixteen || weight.value != task.a_type || weight.scale.type != task.a_type || weight.row_block != 1) return false;
  if (task.k % 256 != 0 || task.k > kMostDepth || task.n > (1 << 29) || reinterpret_cast<std::uintptr_t>(task.a) % 16 != 0) return false;
  const std::int64_t slabs = (task.n + work.slabs.rows - 1) / work.slabs.rows;
  if (!sixteens(work.slabs.codes, slabs, weight.stride * bits / 8)) return false;
  work.shift = 31;
  const bool blocked = weight.scale.col != 0 || weight.zero.col != 0;
  if (!blocked) return !zeros;
  const std::int64_t whole = kColumns / weight.col_block, rest = task.k % kColumns / weight.col_block;  // blocks of stages
  for (int shift = 4; shift < 9; ++shift) {
    if (weight.col_block == std::int64_t{1} << shift) work.shift = shift;
  }
  if (work.shift == 31 || weight.scale.col != 1 || whole * 2 % 16 != 0 || rest * 2 % 16 != 0) return false;
  if (!sixteens(work.slabs.scales, slabs, weight.scale.row * 2)) return false;
  if (!zeros) return true;
  return weight.zero.type == weight.code && weight.zero.col == 1 && whole * bits / 8 % 16 == 0 && rest * bits / 8 % 16 == 0 &&
         sixteens(work.slabs.zeros, slabs, weight.zero.row * bits / 8);
}

}  // namespace

bool launch_packed_stream(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream,
                          cudaError_t* error) {
  PackedStream work;
  work.task = task;
  work.weight = weight;
  work.slabs = slabs;
  const bool zeros = weight.zero.type != DType::none, four = weight.code == DType::i4 || weight.code == DType::u4;
  const bool integers = four || weight.code == DType::i8 || weight.code == DType::u8;
  if ((!integers && weight.code != DType::f8e4m3fn && weight.code != DType::f8e5m2) || !streams(work, four ? 4 : 8)) return false;
  if (!integers && (zeros || weight.zero_default != 0.0f)) return false;
  if (weight.code == DType::i4) work.flip = 8;
  if (weight.code == DType::i8) work.flip = 128;
  work.from = static_cast<unsigned>(weight.zero_default) + work.flip;
  bool there = false;
  switch (weight.code) {
    case DType::f8e4m3fn:
      *error = by_type<Codes::e4m3>(work, false, stream, &there);
      break;
    case DType::f8e5m2:
      *error = by_type<Codes::e5m2>(work, false, stream, &there);
      break;
    default:
      *error = four ? by_type<Codes::nibble>(work, zeros, stream, &there) : by_type<Codes::byte>(work, zeros, stream, &there);
  }
  return there || *error != cudaSuccess;
}

}  // namespace forebay::cuda
