// Parts of the attention of one query (attention_one.cu): how it reads runs of numbers and masks, and joins what warps and blocks have.
#pragma once

#include "runtime/cuda/attention_around.h"
#include "runtime/cuda/attention_tile.cuh"
#include "runtime/cuda/attention_unit.cuh"

namespace forebay::cuda {

// Eight numbers; zeros where they are not `wanted`.
template <bool kAligned, typename T>
__device__ __forceinline__ uint4 load_run(const T* from, bool wanted) {
  uint4 bits{};
  if (!wanted) return bits;
  if constexpr (kAligned) return *reinterpret_cast<const uint4*>(from);
  const auto* const x = reinterpret_cast<const std::uint16_t*>(from);
  const auto two = [&](int i) { return static_cast<unsigned>(x[i]) | static_cast<unsigned>(x[i + 1]) << 16; };
  return make_uint4(two(0), two(2), two(4), two(6));
}

__device__ __forceinline__ float table_at(const TurnedRows& by, const void* table, std::int64_t at) {
  if (by.table_type == DType::f32) return static_cast<const float*>(table)[at];
  if (by.table_type == DType::f16) return widen(static_cast<const __half*>(table)[at]);
  return widen(static_cast<const __nv_bfloat16*>(table)[at]);
}

// An 8 by 8 tile of 16-bit numbers turned about.
__device__ __forceinline__ unsigned turned(unsigned x) {
  unsigned y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
  return y;
}

// What a mask says of a key, as it lies, and what that is.
__device__ __forceinline__ std::uint32_t mask_bits(const AttentionTask& t, std::int64_t at) {
  if (t.mask_type == DType::f32) return static_cast<const std::uint32_t*>(t.mask)[at];
  if (t.mask_type == DType::boolean) return static_cast<const std::uint8_t*>(t.mask)[at];
  return static_cast<const std::uint16_t*>(t.mask)[at];
}
__device__ __forceinline__ float mask_number(const AttentionTask& t, std::uint32_t bits) {
  if (t.mask_type == DType::f32) return __uint_as_float(bits);
  if (t.mask_type == DType::boolean) return bits != 0 ? 0.0f : -INFINITY;
  if (t.mask_type == DType::bf16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

template <int kMost>
__device__ __forceinline__ void wait_for_all_but() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kMost) : "memory");
}

// In powers of two. The largest negative numbers stay finite: a row of nothing else is an even mixture.
__device__ __forceinline__ float power_score(const AttentionTask& t, std::uint32_t mask, float dot) {
  float x = capped(t, dot);
  if (t.mask != nullptr) x = masked_by(t, mask_number(t, mask), x);
  const float power = x * kLog2E;
  return power == -INFINITY && x != -INFINITY ? -3.402823466e38f : power;
}

// Sums of `count` parts under their largest level, in order; all are under way at once.
struct Joined {
  float most = -INFINITY, total = 0, mixed = 0;
  template <int kMost, typename Most, typename Total, typename Mixed>
  __device__ __forceinline__ void of(int count, const Most& tops, const Total& totals, const Mixed& parts) {
    float top[kMost], sums[kMost], mixture[kMost];
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int from = i < count ? i : 0;
      top[i] = tops(from);
      sums[i] = totals(from);
      mixture[i] = parts(from);
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) most = i < count ? fmaxf(most, top[i]) : most;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= count) break;
      const float factor = power_of_two(top[i] - finite_or_zero(most));
      total = fmaf(sums[i], factor, total);
      mixed = fmaf(mixture[i], factor, mixed);
    }
  }
};

template <typename T>
__device__ __forceinline__ void put_one(const AttentionTask& t, const Unit& unit, int row, int column, bool sees, const Joined& sum) {
  const std::int64_t head = unit.kv_head * unit.group + row;
  const float all = divisor(t, head, sum.total, sum.most, kLn2);
  static_cast<T*>(t.y)[unit.b * t.y_strides[0] + head * t.y_strides[1] + column] = narrow<T>(settle(t, sees, sum.mixed, all));
}

}  // namespace forebay::cuda
