// What kernels tell of themselves to a product that may do their work in its own launch (row_group.h).
#pragma once

#include <optional>

#include "runtime/cuda/cuda_launch.h"
#include "runtime/op.h"

namespace forebay::cuda {

class RowNorm {
 public:
  virtual ~RowNorm() = default;
  virtual NormTask norm_task(const KernelCall& call) const = 0;
};

class PairProduct {
 public:
  virtual ~PairProduct() = default;
  // Where the call multiplies `n` elements at a by those at b, of this type, its result goes.
  virtual void* product_of(const KernelCall& call, DType type, const void* a, const void* b, std::int64_t n) const = 0;
};

}  // namespace forebay::cuda
