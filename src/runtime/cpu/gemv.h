// Products with at most kGemvRows rows of activations: they run at memory speed, so the layout of the weight decides the kernel.
//
// [N,K] form (row_dot): a row's dot product is 256 interleaved fp32 FMA partial sums (sum i takes elements i, i+256, ...; missing ones
// are skipped) and one fixed tree: each run of eight by pairs ((0+1)+(2+3))+((4+5)+(6+7)), then the 32 results folded by halves
// (16, 8, 4, 2, 1). The bits are the same on every instruction set, for every number of rows and threads, and on a GPU warp.
//
// [K,N] form (axpy): one fp32 accumulator per output, FMA in the order of k. Calls may be chained over ranges of k: same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "forebay/types.h"
#include "runtime/cpu/gemv_isa.h"

namespace forebay::cpu {

inline constexpr std::int64_t kGemvRows = 8;

struct GemvTask {
  const std::byte* weights = nullptr;  // row-major [n,k] or [k,n], dense
  DType dtype = DType::f32;            // f32, f16, bf16
  std::int64_t n = 0, k = 0;
  const float* x = nullptr;  // [m, k], rows x_stride apart
  std::int64_t x_stride = 0;
  std::int64_t m = 1;        // 1 to kGemvRows
  float* y = nullptr;        // [m, n], rows y_stride apart
  std::int64_t y_stride = 0;
};

// y[:, begin..end) = x * weights[begin..end)^T.
void gemv_row_dot(InstructionSet set, const GemvTask& task, std::int64_t begin, std::int64_t end);
// y[:, begin..end) += x * weights[:, begin..end): the caller zeroes y before the first range of k.
void gemv_axpy(InstructionSet set, const GemvTask& task, std::int64_t begin, std::int64_t end);

// The same bodies per instruction set; gemv.cc picks.
namespace gemv_baseline {
float fold(const float* sums);  // the fixed tree over 256 sums
void row_dot(const GemvTask& task, std::int64_t begin, std::int64_t end);
void axpy(const GemvTask& task, std::int64_t begin, std::int64_t end);
}
namespace gemv_avx2 {
void row_dot(const GemvTask& task, std::int64_t begin, std::int64_t end);
void axpy(const GemvTask& task, std::int64_t begin, std::int64_t end);
}
namespace gemv_avx512 {
void row_dot(const GemvTask& task, std::int64_t begin, std::int64_t end);
void axpy(const GemvTask& task, std::int64_t begin, std::int64_t end);
}

}  // namespace forebay::cpu
