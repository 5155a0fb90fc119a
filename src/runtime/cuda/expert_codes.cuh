// Codes of experts' matrices as f32, eight neighbours at a time.
#pragma once

#include "runtime/cuda/expert_task.h"
#include "runtime/cuda/packed_numbers.cuh"

namespace forebay::cuda {

constexpr int kEach = 8;  // neighbours that a lane takes at once

// Row o of the call's expert `local`.
struct ExpertCodes {
  std::int64_t first, scale_at, zero_at;
  __device__ ExpertCodes(const ExpertTask& task, std::int64_t local, std::int64_t o)
      : first((local * task.out + o) * task.in),
        scale_at((local * task.out + o) * task.blocks),
        zero_at(local * task.zero_expert + o * task.zero_row) {}
  // Values k to k + 8, zeros behind the last; k is a multiple of 8, and below the row's length.
  __device__ void load(const ExpertTask& task, std::int64_t k, float (&to)[kEach]) const {
    const std::int64_t block = k / task.block;  // of all eight
    const int bits = code_bits(task.code);
    const float scale = read_number(task.scale_type, task.scales, scale_at + block);
    const float zero = task.zeros == nullptr ? static_cast<float>(1 << (bits - 1)) : code_value(task.code, task.zeros, zero_at + block);
    if (task.in % kEach != 0) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) to[i] = k + i < task.in ? (code_value(task.code, task.w, first + k + i) - zero) * scale : 0.0f;
      return;
    }
    const auto* const from = static_cast<const std::uint8_t*>(task.w) + (first + k) * bits / 8;
    std::uint64_t word = 0;
    if (bits == 8) {
      word = *reinterpret_cast<const std::uint64_t*>(from);
    } else {
      word = bits == 4 ? *reinterpret_cast<const std::uint32_t*>(from) : *reinterpret_cast<const std::uint16_t*>(from);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      to[i] = (static_cast<float>(static_cast<unsigned>(word >> (i * bits)) & ((1u << bits) - 1u)) - zero) * scale;
  }
};

}  // namespace forebay::cuda
