// Trilu, OneHot, TensorScatter, and Sum, Mean, Min, Max and PRelu over up to three operands.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// Rows of columns; upper keeps columns from the diagonal `k` on, else those up to it.
struct TriluTask {
  std::int64_t all_rows = 0, rows = 1, columns = 0, k = 0;
  bool upper = true;
};
cudaError_t launch_trilu(int element_bytes, const TriluTask& task, void* y, const void* a, cudaStream_t stream);

// y [outer, depth, inner]: values[1] at the index of [outer, inner], values[0] elsewhere.
struct OneHotTask {
  std::int64_t total = 0, depth = 1, inner = 1;
  bool wide = true;  // indices of 8 bytes, else 4
};
cudaError_t launch_one_hot(int element_bytes, const OneHotTask& task, void* y, const void* indices, const void* values,
                           cudaStream_t stream);

// y [batch, outer, length, inner] is the cache but for `updates` rows from the batch's position on. *worst becomes the first batch whose
// position is wrong; it is all ones where there is none.
struct CacheTask {
  std::int64_t batch = 0, outer = 1, length = 0, updates = 0, inner = 1;
  const std::int64_t* positions = nullptr;  // null: 0
  bool circular = false;
};
cudaError_t launch_check_positions(const CacheTask& task, std::uint64_t* worst, cudaStream_t stream);
cudaError_t launch_cache_rows(int element_bytes, const CacheTask& task, void* y, const void* updates, cudaStream_t stream);

enum class Fold : int { sum, mean, min, max, prelu };
// Operand 0 of the walk is y. f32, f16, bf16: in f32, rounded once.
struct FoldTask {
  static constexpr int kMost = 3;
  Fold fold = Fold::sum;
  DType type = DType::f32;
  int count = 0;
  Walk walk;
  const void* from[kMost] = {};
  void* y = nullptr;
};
cudaError_t launch_fold(const FoldTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
