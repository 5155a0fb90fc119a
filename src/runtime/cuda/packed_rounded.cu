// Packed weights whose values are rounded to 16 bits, in few instructions: codes get a leading one behind which they are exact 16-bit (or
// 32-bit) floats, the zero point goes off exactly, and the product by the scale is rounded once, as the CPU's f32 product is, which holds
// all bits of it.
#include <cuda_fp8.h>

#include "runtime/cuda/packed_stream.cuh"

#pragma nv_diag_suppress 177  // names that only kernels for 9.0 use

namespace forebay::cuda {
namespace {

enum class Codes { nibble, byte, e4m3, e5m2 };

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
template <Codes kCodes, typename V, bool kWithZeros>
struct Rounded {
  using T = V;
  static constexpr int kBits = kCodes == Codes::nibble ? 4 : 8, kScaleBits = 16, kZeroBits = kBits;
  static constexpr bool kZeros = kWithZeros, kWideX = false, kNorms = true;
  using Two = typename Pairs<V>::Two;

  __device__ static inline unsigned zero_of(const PackedStream& work, const std::byte* zeros, int block) {
    if constexpr (!kZeros) return static_cast<unsigned>(work.from);
    if constexpr (kCodes == Codes::nibble) return ((static_cast<unsigned>(zeros[block / 2]) >> (block % 2 * 4)) ^ work.flip) & 15u;
    return static_cast<unsigned>(zeros[block]) ^ (work.flip & 255u);
  }
  __device__ static inline void values(const PackedStream& work, const std::byte* codes, int run, const std::byte* scales,
                                       const std::byte* zeros, int block, float (&w)[8]) {
    const unsigned short scale = reinterpret_cast<const unsigned short*>(scales)[block];
    const Two by = as_two<V>(scale * 0x10001u);
    const unsigned zero = zero_of(work, zeros, block);
    if constexpr (kCodes == Codes::nibble) {
      const std::uint32_t word = reinterpret_cast<const std::uint32_t*>(codes)[run], ones = Pairs<V>::kOnes ^ (work.flip & 0x000f000fu);
      const Two from = as_two<V>(Pairs<V>::kOnes + zero * 0x10001u);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Two code = as_two<V>(((word >> (4 * i)) & 0x000f000fu) ^ ones);
        Pairs<V>::widen(__hmul2(__hsub2(code, from), by), w[i], w[i + 4]);
      }
    } else {
      const uint2 both = reinterpret_cast<const uint2*>(codes)[run];
      const std::uint32_t words[2] = {both.x, both.y};
      const __half2 from = as_two<__half>(Pairs<__half>::kOnes + zero * 0x10001u);
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // every code and every difference of two is exact in f16
        __half2 code;
        if constexpr (kCodes == Codes::byte) {
          code = __hsub2(as_two<__half>(__byte_perm(words[i / 2] ^ work.flip, 0x64646464u, i % 2 == 0 ? 0x4140u : 0x4342u)), from);
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

template <Codes kCodes, typename V>
cudaError_t by_zeros(PackedStream& work, cudaStream_t stream, bool* there) {
  if constexpr (kCodes == Codes::nibble || kCodes == Codes::byte) {
    if (work.zero_bits > 0) return start_packed<Rounded<kCodes, V, true>>(work, stream, there);
  }
  return start_packed<Rounded<kCodes, V, false>>(work, stream, there);
}
template <Codes kCodes>
cudaError_t by_type(PackedStream& work, cudaStream_t stream, bool* there) {
  if (work.members[0].task.a_type == DType::f16) return by_zeros<kCodes, __half>(work, stream, there);
  return by_zeros<kCodes, __nv_bfloat16>(work, stream, there);
}

}  // namespace

cudaError_t launch_packed_rounded(PackedStream& work, cudaStream_t stream, bool* there) {
  switch (work.code) {
    case DType::f8e4m3fn:
      return by_type<Codes::e4m3>(work, stream, there);
    case DType::f8e5m2:
      return by_type<Codes::e5m2>(work, stream, there);
    default:
      return work.bits == 4 ? by_type<Codes::nibble>(work, stream, there) : by_type<Codes::byte>(work, stream, there);
  }
}

}  // namespace forebay::cuda
