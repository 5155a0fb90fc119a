// Packed weights whose values stay f32 (MatMulNBits; f32 graphs): an element is a bit operation, one FMA that makes its value and one that
// adds it. Behind a leading one a code is a float, and its zero point and scale come on exactly, for scales of 11 bits (below 2^112).
#include "runtime/cuda/packed_stream.cuh"

#pragma nv_diag_suppress 177  // names that only kernels for 9.0 use

namespace forebay::cuda {
namespace {

// (bits & kMask) ^ ones in one instruction: two constants of the text would take two.
template <std::uint32_t kMask>
__device__ inline float behind_one(std::uint32_t bits, std::uint32_t ones) {
  std::uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(out) : "r"(bits), "n"(kMask), "r"(ones));
  return __uint_as_float(out);
}

// Scales of 16 bits, A's type, with zero points that are codes; or any.
enum class Scales { f16, bf16, any };

template <int kCodeBits, Scales kScales, bool kWithZeros>
struct Unrounded {
  using T = std::conditional_t<kScales == Scales::bf16, __nv_bfloat16, __half>;
  static constexpr bool kAny = kScales == Scales::any, kZeros = kWithZeros, kWideX = true, kNorms = !kAny;
  static constexpr int kBits = kCodeBits, kScaleBits = kAny ? 32 : 16, kZeroBits = kAny ? 32 : kBits;

  // Byte `i` of four as a float behind 2^15, so that (2^15 + zero point) * scale has a place in f32 for scales of 8 bits; else behind 2^23.
  __device__ static inline float byte_behind_one(std::uint32_t word, unsigned i) {
    if (kScales == Scales::bf16) return __uint_as_float(__byte_perm(word, 0x47000000u, 0x7404u | i << 4));
    return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440u | i));
  }
  static float base() { return kBits == 4 ? 128.0f : kScales == Scales::bf16 ? 32768.0f : 8388608.0f; }

  __device__ static inline float scale_of(const PackedStream& work, const std::byte* scales, int block) {
    if (kAny && work.scale_bits == 32) return reinterpret_cast<const float*>(scales)[block];
    const auto bits = reinterpret_cast<const unsigned short*>(scales)[block];
    if (kScales == Scales::f16 || (kAny && work.scale_type == DType::f16)) return __half2float(__ushort_as_half(bits));
    return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
  }
  // A zero point that is a code, behind the leading one that codes have (of 4 bits: the upper one).
  __device__ static inline float from_of(const PackedStream& work, const std::byte* zeros, int block) {
    if (!kZeros || (kAny && work.zero_bits > 8)) return work.from;
    const auto byte = static_cast<std::uint32_t>(zeros[kBits == 4 ? block / 2 : block]);
    if constexpr (kBits == 4) return behind_one<0xf0000u>(byte << (16 - block % 2 * 4), work.high);
    return byte_behind_one(byte ^ (work.flip & 255u), 0);
  }
  // Eight neighbouring values: (code - zero) * scale.
  __device__ static inline void values(const PackedStream& work, const std::byte* codes, int run, const std::byte* scales,
                                       const std::byte* zeros, int block, float (&w)[8]) {
    const float scale = scale_of(work, scales, block), from = from_of(work, zeros, block), by = -from * scale;
    float rest = 0;
    if (kAny && kZeros && work.zero_bits > 8) rest = read_number(work.zero_type, zeros, block);
    if constexpr (kBits == 4) {
      const std::uint32_t bits = reinterpret_cast<const std::uint32_t*>(codes)[run];
      const float low_from = from + 1920.0f, low_by = -low_from * scale;
      const std::uint32_t turned[4] = {(bits << 16) | (bits >> 16), bits << 8, bits, bits >> 8};
      constexpr int kLow[4] = {7, 1, 3, 5}, kHigh[4] = {0, 2, 4, 6};
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // a code counts from bit 12 behind 2048, from bit 16 behind 128
        const float low = behind_one<0xf000u>(turned[i], work.low), high = behind_one<0xf0000u>(turned[i], work.high);
        if constexpr (kAny) {
          w[kLow[i]] = ((low - low_from) - rest) * scale;
          w[kHigh[i]] = ((high - from) - rest) * scale;
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
        const float code = byte_behind_one(words[i / 4], static_cast<unsigned>(i % 4));
        w[i] = kScales == Scales::bf16 ? __fmaf_rn(code, scale, by) : ((code - from) - rest) * scale;
      }
    }
  }
};

template <int kBits, Scales kScales>
cudaError_t by_zeros(PackedStream& work, cudaStream_t stream, bool* there) {
  work.from += Unrounded<kBits, kScales, false>::base();
  return work.zero_bits > 0 ? start_packed<Unrounded<kBits, kScales, true>>(work, stream, there)
                            : start_packed<Unrounded<kBits, kScales, false>>(work, stream, there);
}
template <int kBits>
cudaError_t by_scales(PackedStream& work, cudaStream_t stream, bool* there) {
  const DType type = work.scale_type;
  const bool exact = work.scale_bits == 16 && work.zero_bits <= 8 && type == work.members[0].task.a_type;
  if (!exact) return by_zeros<kBits, Scales::any>(work, stream, there);
  return type == DType::bf16 ? by_zeros<kBits, Scales::bf16>(work, stream, there) : by_zeros<kBits, Scales::f16>(work, stream, there);
}

}  // namespace

cudaError_t launch_packed_unrounded(PackedStream& work, cudaStream_t stream, bool* there) {
  return work.bits == 4 ? by_scales<4>(work, stream, there) : by_scales<8>(work, stream, there);
}

}  // namespace forebay::cuda
