#include "runtime/cpu/convert_floats.h"

#include <immintrin.h>

#include <cstring>

#include "base/check.h"
#include "base/half.h"

namespace forebay::cpu {

InstructionSet cpu_instruction_set() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return InstructionSet::baseline;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
  return wide ? InstructionSet::avx512 : InstructionSet::avx2;
}

bool native_bf16() { return cpu_instruction_set() == InstructionSet::avx512 && __builtin_cpu_supports("avx512bf16"); }

std::string_view instruction_set_name(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512: return "avx512";
    case InstructionSet::avx2: return "avx2";
    case InstructionSet::baseline: break;
  }
  return "x86-64-v2";
}

namespace {

// NaNs keep their payload in both directions the way base/half.h does; the vector forms below match it bit for bit.
__attribute__((target("avx2,fma,f16c"))) std::int64_t widen_f16(const std::uint16_t* from, std::int64_t count, float* to) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
  return i;
}

__attribute__((target("avx2,fma,f16c"))) std::int64_t widen_bf16(const std::uint16_t* from, std::int64_t count, float* to) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
  }
  return i;
}

__attribute__((target("avx2,fma,f16c"))) std::int64_t narrow_f16(const float* from, std::int64_t count, std::uint16_t* to) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
  return i;
}

__attribute__((target("avx2,fma,f16c"))) std::int64_t narrow_bf16(const float* from, std::int64_t count, std::uint16_t* to) {
  const __m256i bias = _mm256_set1_epi32(0x7fff), one = _mm256_set1_epi32(1), quiet = _mm256_set1_epi32(0x40);
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 value = _mm256_loadu_ps(from + i);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, bias), _mm256_and_si256(high, one)), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i result = _mm256_blendv_epi8(rounded, _mm256_or_si256(high, quiet), nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(result, result), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_castsi256_si128(packed));
  }
  return i;
}

}  // namespace

void to_f32(DType dtype, const std::byte* from, std::int64_t count, float* to, InstructionSet set) {
  if (count <= 0) return;
  const bool vector = set != InstructionSet::baseline;
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * 4);
  } else if (dtype == DType::f16) {
    const auto* source = reinterpret_cast<const std::uint16_t*>(from);
    for (std::int64_t i = vector ? widen_f16(source, count, to) : 0; i < count; ++i) to[i] = f16_to_f32(source[i]);
  } else if (dtype == DType::bf16) {
    const auto* source = reinterpret_cast<const std::uint16_t*>(from);
    for (std::int64_t i = vector ? widen_bf16(source, count, to) : 0; i < count; ++i) to[i] = bf16_to_f32(source[i]);
  } else {
    FB_CHECK(dtype == DType::f64);
    const auto* source = reinterpret_cast<const double*>(from);
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(source[i]);
  }
}

void from_f32(DType dtype, const float* from, std::int64_t count, std::byte* to, InstructionSet set) {
  if (count <= 0) return;
  const bool vector = set != InstructionSet::baseline;
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * 4);
  } else if (dtype == DType::f16) {
    auto* target = reinterpret_cast<std::uint16_t*>(to);
    for (std::int64_t i = vector ? narrow_f16(from, count, target) : 0; i < count; ++i) target[i] = f32_to_f16(from[i]);
  } else if (dtype == DType::bf16) {
    auto* target = reinterpret_cast<std::uint16_t*>(to);
    for (std::int64_t i = vector ? narrow_bf16(from, count, target) : 0; i < count; ++i) target[i] = f32_to_bf16(from[i]);
  } else {
    FB_CHECK(dtype == DType::f64);
    auto* target = reinterpret_cast<double*>(to);
    for (std::int64_t i = 0; i < count; ++i) target[i] = from[i];
  }
}

}  // namespace forebay::cpu
