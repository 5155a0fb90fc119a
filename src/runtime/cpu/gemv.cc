#include "runtime/cpu/gemv.h"

#include <cmath>

#include "base/half.h"

namespace forebay::cpu {

void gemv_row_dot(InstructionSet set, const GemvTask& task, std::int64_t begin, std::int64_t end) {
  switch (set) {
    case InstructionSet::avx512: return gemv_avx512::row_dot(task, begin, end);
    case InstructionSet::avx2: return gemv_avx2::row_dot(task, begin, end);
    case InstructionSet::baseline: return gemv_baseline::row_dot(task, begin, end);
  }
}

void gemv_axpy(InstructionSet set, const GemvTask& task, std::int64_t begin, std::int64_t end) {
  switch (set) {
    case InstructionSet::avx512: return gemv_avx512::axpy(task, begin, end);
    case InstructionSet::avx2: return gemv_avx2::axpy(task, begin, end);
    case InstructionSet::baseline: return gemv_baseline::axpy(task, begin, end);
  }
}

// Without FMA instructions std::fma rounds once in software: slow, the same bits.
namespace gemv_baseline {
namespace {

float element(DType dtype, const std::byte* data, std::int64_t index) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(data)[index];
  const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(data)[index];
  return dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

}  // namespace

float fold(const float* sums) {
  float runs[32];
  for (int i = 0; i < 32; ++i) {
    const float* s = sums + i * 8;
    runs[i] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
  }
  for (int half = 16; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) runs[i] += runs[i + half];
  }
  return runs[0];
}

void row_dot(const GemvTask& task, std::int64_t begin, std::int64_t end) {
  for (std::int64_t n = begin; n < end; ++n) {
    for (std::int64_t m = 0; m < task.m; ++m) {
      float sums[256] = {};
      const float* x = task.x + m * task.x_stride;
      for (std::int64_t k = 0; k < task.k; ++k) {
        sums[k & 255] = std::fma(element(task.dtype, task.weights, n * task.k + k), x[k], sums[k & 255]);
      }
      task.y[m * task.y_stride + n] = fold(sums);
    }
  }
}

void axpy(const GemvTask& task, std::int64_t begin, std::int64_t end) {
  for (std::int64_t m = 0; m < task.m; ++m) {
    float* y = task.y + m * task.y_stride;
    for (std::int64_t k = 0; k < task.k; ++k) {
      const float x = task.x[m * task.x_stride + k];
      for (std::int64_t n = begin; n < end; ++n) y[n] = std::fma(element(task.dtype, task.weights, k * task.n + n), x, y[n]);
    }
  }
}

}  // namespace gemv_baseline
}  // namespace forebay::cpu
