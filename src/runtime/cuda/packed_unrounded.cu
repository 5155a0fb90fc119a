// Products of one row by large packed [n,k] weights whose values stay f32 (MatMulNBits; f32 graphs): the sums of packed_row_dot.cu in the
// same order, the same bits.
//
// The ring of packed_stream.cu; A lies widened in shared memory, so that an element of the weight is a bit operation, one FMA that makes its
// value and one that adds it: behind a leading one a code is a float, and its zero point and scale come on exactly, for scales of 11 bits.
// Scales and zero points that do not lie at multiples of 16 bytes are copied in words of 4 by all lanes.
#include <algorithm>

#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/packed_launch.h"
#include "runtime/cuda/row_parts.cuh"

namespace forebay::cuda {
namespace {

#ifndef FB_ROWS
#define FB_ROWS 2
#endif
constexpr int kWarps = 16, kRows = FB_ROWS;
constexpr std::size_t kLeastShared = 116 << 10, kMostShared = 227 << 10;  // above half of a multiprocessor's (row_stream_cuda.cu)
constexpr int kColumns = 4096 / kRows, kLeastBlock = 16, kMostStages = 3;

// How values are made: of 16-bit scales and zero points that are codes, exactly, by one FMA or two operations; or of any.
enum class Scales { f16, bf16, any };

template <int kBits, Scales kScales>
struct Ring {
  static constexpr int kBlocks = kColumns / kLeastBlock, kSpare = 16;
  static constexpr int kCodeBytes = kColumns * kBits / 8;
  static constexpr int kScaleBytes = kBlocks * (kScales == Scales::any ? 4 : 2) + kSpare;
  static constexpr int kZeroBytes = (kScales == Scales::any ? kBlocks * 4 : kBlocks * kBits / 8) + kSpare;
  static constexpr int kScalesAt = kCodeBytes, kZerosAt = kScalesAt + kScaleBytes, kSkipsAt = kZerosAt + kZeroBytes;
  static constexpr int kRowBytes = kSkipsAt + 16, kStageBytes = kRows * kRowBytes;
};

struct UnroundedStream {
  ProductTask task;
  PackedWeight weight;
  PackedSlabs slabs;
  int shift = 0, stages = 0;          // of columns to their block; of the ring
  int scale_bits = 0, zero_bits = 0;  // of one; zero points that are absent have none
  bool pieces = false;                // scales and zero points come in words
  // Signed codes are counted from the least one: what turns them, bytes, and 4 bits behind a leading one at bit 12 or 16.
  std::uint32_t flip = 0, low = 0x45000000u, high = 0x43000000u;
  float from = 0;  // what goes off them where zero points are no codes, the leading one included
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // bulk copies
__device__ inline void copy_bulk(unsigned to, const std::byte* from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}
// The words that hold so many bytes, every 16th from `first` on. A word with a byte of a tensor is readable: tensors begin at multiples of 64.
__device__ inline void copy_words(unsigned to, const std::byte* from, int bytes, int first) {
  const auto skip = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) % 4);
  for (int at = first * 4; at < skip + bytes; at += 16 * 4)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to + static_cast<unsigned>(at)), "l"(from - skip + at) : "memory");
}

// A lane's row of each group that its warp takes, stage by stage; the last row once more behind it.
template <int kBits, Scales kScales>
struct Source {
  using Place = Ring<kBits, kScales>;
  const UnroundedStream& work;
  const int lane;
  int row, at = 0;
  const std::byte *codes = nullptr, *scales = nullptr, *zeros = nullptr;
  __device__ inline Source(const UnroundedStream& w, int group, int l) : work(w), lane(l), row(group * kRows + l % kRows) { find(); }
  __device__ inline void find() {
    const int rows = static_cast<int>(work.task.n);
    if (row / kRows * kRows >= rows) {
      codes = nullptr;
      return;
    }
    const int here = min(row, rows - 1), each = static_cast<int>(work.slabs.rows), slab = here / each, own = here - slab * each;
    const std::int64_t whole = work.weight.first_row + here;
    codes = static_cast<const std::byte*>(work.slabs.codes[slab]) + own * work.weight.stride * kBits / 8;
    scales = static_cast<const std::byte*>(work.slabs.scales[slab]) +
             (work.weight.scale.cut ? own : whole) * work.weight.scale.row * work.scale_bits / 8;
    if (work.zero_bits > 0) {
      zeros = static_cast<const std::byte*>(work.slabs.zeros[slab]) +
              (work.weight.zero.cut ? own : whole) * work.weight.zero.row * work.zero_bits / 8;
    }
  }
  // All lanes; `to` is the place of this lane's row.
  __device__ inline void ask(std::byte* to, unsigned barrier) {
    if (codes == nullptr) return;
    const int columns = min(kColumns, static_cast<int>(work.task.k) - at), blocks = ((columns - 1) >> work.shift) + 1;
    const int code_bytes = columns * kBits / 8, scale_bytes = blocks * work.scale_bits / 8, zero_bytes = (blocks * work.zero_bits + 7) / 8;
    const unsigned place = shared_place(to);
    if (lane < kRows) {
      unsigned skips = 0;
      if (work.pieces)
        skips = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(scales) % 4 | reinterpret_cast<std::uintptr_t>(zeros) % 4 << 8);
      *reinterpret_cast<unsigned*>(to + Place::kSkipsAt) = skips;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                   "r"(work.pieces ? code_bytes : code_bytes + scale_bytes + zero_bytes)
                   : "memory");
      copy_bulk(place, codes, code_bytes, barrier);
      if (!work.pieces) {
        copy_bulk(place + Place::kScalesAt, scales, scale_bytes, barrier);
        if (zero_bytes > 0) copy_bulk(place + Place::kZerosAt, zeros, zero_bytes, barrier);
      }
    }
    if (work.pieces) {
      copy_words(place + Place::kScalesAt, scales, scale_bytes, lane / kRows);
      copy_words(place + Place::kZerosAt, zeros, zero_bytes, lane / kRows);
      arrive_behind_copies(barrier);
    }
    codes += code_bytes;
    scales += blocks * work.scale_bits / 8;
    zeros += blocks * work.zero_bits / 8;
    at += columns;
    if (at < work.task.k) return;
    at = 0;
    row += static_cast<int>(gridDim.x) * kWarps * kRows;
    find();
  }
};

// (bits & kMask) ^ ones in one instruction: two constants of the text would take two.
template <std::uint32_t kMask>
__device__ inline float behind_one(std::uint32_t bits, std::uint32_t ones) {
  std::uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(out) : "r"(bits), "n"(kMask), "r"(ones));
  return __uint_as_float(out);
}
// Byte `i` of four as a float behind 2^15, so that (2^15 + zero point) * scale has a place in f32 for scales of 8 bits; else behind 2^23.
template <Scales kScales>
__device__ inline float byte_behind_one(std::uint32_t word, unsigned i) {
  if (kScales == Scales::bf16) return __uint_as_float(__byte_perm(word, 0x47000000u, 0x7404u | i << 4));
  return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440u | i));
}

// Scales and zero points of a row's stage.
template <int kBits, Scales kScales, bool kZeros>
struct Sides {
  const std::byte *scales, *zeros;
  __device__ inline float scale(const UnroundedStream& work, int block) const {
    if (kScales == Scales::any && work.scale_bits == 32) return reinterpret_cast<const float*>(scales)[block];
    const auto bits = reinterpret_cast<const unsigned short*>(scales)[block];
    if (kScales == Scales::f16 || (kScales == Scales::any && work.weight.scale.type == DType::f16)) return __half2float(__ushort_as_half(bits));
    return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
  }
  // A zero point that is a code, behind the leading one that codes have (of 4 bits: the upper one).
  __device__ inline float from(const UnroundedStream& work, int block) const {
    if (!kZeros || (kScales == Scales::any && work.zero_bits > 8)) return work.from;
    const auto byte = static_cast<std::uint32_t>(zeros[kBits == 4 ? block / 2 : block]);
    if constexpr (kBits == 4) return behind_one<0xf0000u>(byte << (16 - block % 2 * 4), work.high);
    return byte_behind_one<kScales>(byte ^ (work.flip & 255u), 0);
  }
  __device__ inline float rest(const UnroundedStream& work, int block) const {
    return kZeros && kScales == Scales::any && work.zero_bits > 8 ? read_number(work.weight.zero.type, zeros, block) : 0.0f;
  }
};

// Eight neighbouring values: (code - zero) * scale.
template <int kBits, Scales kScales, bool kZeros>
__device__ inline void make_values(const UnroundedStream& work, const std::byte* codes, int run, const Sides<kBits, kScales, kZeros>& sides,
                                   int block, float (&w)[8]) {
  const float scale = sides.scale(work, block), from = sides.from(work, block), rest = sides.rest(work, block), by = -from * scale;
  if constexpr (kBits == 4) {
    const std::uint32_t bits = reinterpret_cast<const std::uint32_t*>(codes)[run];
    const float low_from = from + 1920.0f, low_by = -low_from * scale;
    const std::uint32_t turned[4] = {(bits << 16) | (bits >> 16), bits << 8, bits, bits >> 8};
    constexpr int kLow[4] = {7, 1, 3, 5}, kHigh[4] = {0, 2, 4, 6};
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // a code counts from bit 12 behind 2048, from bit 16 behind 128
      const float low = behind_one<0xf000u>(turned[i], work.low), high = behind_one<0xf0000u>(turned[i], work.high);
      if constexpr (kScales == Scales::any) {
        w[kLow[i]] = __fmul_rn(__fsub_rn(low, low_from) - rest, scale);
        w[kHigh[i]] = __fmul_rn(__fsub_rn(high, from) - rest, scale);
      } else {
        w[kLow[i]] = __fmaf_rn(low, scale, low_by);
        w[kHigh[i]] = __fmaf_rn(high, scale, by);
      }
    }
  } else {
    const uint2 both = reinterpret_cast<const uint2*>(codes)[run];
    const std::uint32_t words[2] = {both.x ^ work.flip, both.y ^ work.flip};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float code = byte_behind_one<kScales>(words[i / 4], static_cast<unsigned>(i % 4));
      if constexpr (kScales == Scales::bf16) {
        w[i] = __fmaf_rn(code, scale, by);
      } else {
        w[i] = __fmul_rn(__fsub_rn(code, from) - rest, scale);
      }
    }
  }
}

// Sums of a warp's rows over one stage, `columns` of it.
template <int kBits, Scales kScales, bool kZeros, bool kWhole>
__device__ inline void add_stage(const UnroundedStream& work, const std::byte* stage, const float4* x, int columns, int lane,
                                 float (&sums)[kRows][1][8]) {
  using Place = Ring<kBits, kScales>;
  Sides<kBits, kScales, kZeros> sides[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const std::byte* const own = stage + r * Place::kRowBytes;
    const unsigned skips = *reinterpret_cast<const unsigned*>(own + Place::kSkipsAt);
    sides[r].scales = own + Place::kScalesAt + (skips & 255u);
    sides[r].zeros = own + Place::kZerosAt + (skips >> 8);
  }
#pragma unroll
  for (int u = 0; u < kColumns / 256; ++u) {
    if (!kWhole && u * 256 + lane * 8 >= columns) break;
    const int block = (u * 256 + lane * 8) >> work.shift;
    const float4 low = x[u * 64 + lane], high = x[u * 64 + 32 + lane];
    const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float w[8];
      make_values<kBits, kScales, kZeros>(work, stage + r * Place::kRowBytes, u * 32 + lane, sides[r], block, w);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[r][0][i] = __fmaf_rn(w[i], values[i], sums[r][0][i]);
    }
  }
}

// Element 8r + i of A, r of run: where its lane finds it without a bank being asked twice.
__device__ inline void widen_rows(const ProductTask& task, float4* x) {
  const int runs = static_cast<int>(task.k) / 8;
  for (int i = static_cast<int>(threadIdx.x); i < runs; i += kWarps * 32) {
    float v[8];
    if (task.a_type == DType::f32) {
      const float4 low = static_cast<const float4*>(task.a)[2 * i], high = static_cast<const float4*>(task.a)[2 * i + 1];
      x[i / 32 * 64 + i % 32] = low;
      x[i / 32 * 64 + 32 + i % 32] = high;
      continue;
    }
    const uint4 bits = static_cast<const uint4*>(task.a)[i];
    const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 pair = task.a_type == DType::f16
                              ? __half22float2(*reinterpret_cast<const __half2*>(&words[e]))
                              : make_float2(__uint_as_float(words[e] << 16), __uint_as_float(words[e] & 0xffff0000u));
      v[2 * e] = pair.x;
      v[2 * e + 1] = pair.y;
    }
    x[i / 32 * 64 + i % 32] = make_float4(v[0], v[1], v[2], v[3]);
    x[i / 32 * 64 + 32 + i % 32] = make_float4(v[4], v[5], v[6], v[7]);
  }
}
#endif

template <int kBits, Scales kScales, bool kZeros>
__global__ void __launch_bounds__(kWarps * 32, 1) unrounded_stream(const __grid_constant__ UnroundedStream work) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte memory[];
  using Place = Ring<kBits, kScales>;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, stages = work.stages;
  std::byte* const ring = memory + warp * stages * Place::kStageBytes;
  std::byte* const behind = memory + kWarps * stages * Place::kStageBytes;
  const unsigned barriers = shared_place(behind) + static_cast<unsigned>(warp * stages) * 8;
  auto* const x = reinterpret_cast<float4*>(behind + kWarps * stages * 8);
  const int first = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x) * kWarps;
  if (!work.task.constant_b) after_previous();
  Source<kBits, kScales> source(work, first, lane);
  std::byte* const place = ring + lane % kRows * Place::kRowBytes;
  if (lane == 0) {
    for (int s = 0; s < stages; ++s) begin_barrier(barriers + s * 8, work.pieces ? kRows + 32 : kRows);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    show_copies();
  }
  __syncwarp();
  for (int s = 0; s < stages; ++s) source.ask(place + s * Place::kStageBytes, barriers + s * 8);
  if (work.task.constant_b) after_previous();
  widen_rows(work.task, x);
  __syncthreads();
  const int k = static_cast<int>(work.task.k), rows = static_cast<int>(work.task.n);
  int stage = 0, turn = 0;
  for (int group = first; group * kRows < rows; group += step) {
    float sums[kRows][1][8] = {};
    for (int at = 0; at < k; at += kColumns) {
      await_turn(barriers + stage * 8, turn);
      const std::byte* const from = ring + stage * Place::kStageBytes;
      if (k - at >= kColumns) {
        add_stage<kBits, kScales, kZeros, true>(work, from, x + at / 4, kColumns, lane, sums);
      } else {
        add_stage<kBits, kScales, kZeros, false>(work, from, x + at / 4, k - at, lane, sums);
      }
      __syncwarp();
      source.ask(place + stage * Place::kStageBytes, barriers + stage * 8);
      if (++stage == stages) {
        stage = 0;
        ++turn;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (group * kRows + r < rows) finish_row<1>(work.task, sums[r], group * kRows + r, 0);
    }
  }
#endif
}

template <int kBits, Scales kScales, bool kZeros>
cudaError_t start(UnroundedStream& work, cudaStream_t stream, bool* there) {
  const auto kernel = unrounded_stream<kBits, kScales, kZeros>;
  cudaFuncAttributes made;
  cudaError_t error = cudaFuncGetAttributes(&made, kernel);
  *there = error == cudaSuccess && made.ptxVersion >= 90;
  if (!*there) return error;
  const auto wide = static_cast<std::size_t>((work.task.k + 255) / 256 * 1024), stage = std::size_t{kWarps} * (Ring<kBits, kScales>::kStageBytes + 8);
  work.stages = static_cast<int>(std::min<std::size_t>(kMostStages, wide < kMostShared ? (kMostShared - wide) / stage : 0));
  *there = work.stages >= 2;
  if (!*there) return cudaSuccess;
  int device = 0, processors = 0;
  error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  return launch_after(kernel, dim3(static_cast<unsigned>(processors)), kWarps * 32,
                      std::max(static_cast<std::size_t>(work.stages) * stage + wide, kLeastShared), stream, work);
}
template <int kBits, Scales kScales>
cudaError_t by_zeros(UnroundedStream& work, cudaStream_t stream, bool* there) {
  return work.zero_bits > 0 ? start<kBits, kScales, true>(work, stream, there) : start<kBits, kScales, false>(work, stream, there);
}
template <int kBits>
cudaError_t by_scales(UnroundedStream& work, cudaStream_t stream, bool* there) {
  const bool exact = work.scale_bits == 16 && work.zero_bits <= 8, bf16 = exact && work.weight.scale.type == DType::bf16;
  work.from += kBits == 4 ? 128.0f : bf16 ? 32768.0f : 8388608.0f;
  if (!exact) return by_zeros<kBits, Scales::any>(work, stream, there);
  return bf16 ? by_zeros<kBits, Scales::bf16>(work, stream, there) : by_zeros<kBits, Scales::f16>(work, stream, there);
}

bool multiples(const void* const* pointers, std::int64_t count, std::int64_t row_bytes, std::uintptr_t of) {
  if (row_bytes % static_cast<std::int64_t>(of) != 0) return false;
  return std::all_of(pointers, pointers + count, [of](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % of == 0; });
}

// Rows of codes are copied 16 bytes at a time and begin at whole blocks; the rest is packed_row_dot.cu's.
bool streams(UnroundedStream& work, int bits) {
  const ProductTask& task = work.task;
  const PackedWeight& weight = work.weight;
  if (task.m != 1 || weight.value != DType::f32 || weight.row_block != 1 || weight.scale.col != 1) return false;
  if (task.k * bits / 8 % 16 != 0 || task.k % 8 != 0 || task.k > (1 << 29) || task.n > (1 << 29)) return false;
  if (reinterpret_cast<std::uintptr_t>(task.a) % 16 != 0) return false;
  const std::int64_t slabs = (task.n + work.slabs.rows - 1) / work.slabs.rows;
  if (!multiples(work.slabs.codes, slabs, weight.stride * bits / 8, 16)) return false;
  for (int shift = 4; shift < 12; ++shift) {
    if (weight.col_block == std::int64_t{1} << shift && weight.col_block <= kColumns) work.shift = shift;
  }
  if (work.shift == 0) return false;
  work.scale_bits = dtype_bits(weight.scale.type);
  const bool zeros = weight.zero.type != DType::none;
  if (zeros) {
    work.zero_bits = dtype_bits(weight.zero.type);
    // Sub-byte rows that begin within a byte, and stages that do.
    if (weight.zero.col != 1 || weight.zero.row * work.zero_bits % 8 != 0 || (kColumns >> work.shift) * work.zero_bits % 8 != 0) return false;
  }
  const auto sixteens = [&](const void* const* of, std::int64_t row, int each) {
    const std::int64_t whole = (kColumns >> work.shift) * each / 8, rest = ((task.k % kColumns + weight.col_block - 1) >> work.shift) * each / 8;
    return multiples(of, slabs, row * each / 8, 16) && whole % 16 == 0 && rest % 16 == 0;
  };
  work.pieces = !sixteens(work.slabs.scales, weight.scale.row, work.scale_bits) ||
                (zeros && !sixteens(work.slabs.zeros, weight.zero.row, work.zero_bits));
  return true;
}

}  // namespace

bool launch_packed_unrounded(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream,
                             cudaError_t* error) {
  UnroundedStream work;
  work.task = task;
  work.weight = weight;
  work.slabs = slabs;
  const bool four = weight.code == DType::i4 || weight.code == DType::u4;
  if ((!four && weight.code != DType::i8 && weight.code != DType::u8) || !streams(work, four ? 4 : 8)) return false;
  const bool is_signed = weight.code == DType::i4 || weight.code == DType::i8;
  if (is_signed) {
    work.flip = 0x80808080u;
    work.low ^= 0x8000u;
    work.high ^= 0x80000u;
  }
  work.from = (is_signed ? (four ? 8.0f : 128.0f) : 0.0f) + (work.zero_bits == 0 ? weight.zero_default : 0.0f);
  bool there = false;
  *error = four ? by_scales<4>(work, stream, &there) : by_scales<8>(work, stream, &there);
  return there || *error != cudaSuccess;
}

}  // namespace forebay::cuda
