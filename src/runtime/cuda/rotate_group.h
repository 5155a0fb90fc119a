// Rotary positions of several operands, as queries and keys, in one launch.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

struct RotateGroup {
  static constexpr int kMost = 2;
  struct Part {
    RotateTask task;
    void* y = nullptr;
    const void *x = nullptr, *cos = nullptr, *sin = nullptr;
  };
  int count = 0;
  Part parts[kMost];
};
cudaError_t launch_rotates(DType type, DType table_type, const RotateGroup& group, cudaStream_t stream);

}  // namespace forebay::cuda
