// What kernels tell of themselves to a product that may do their work in its own launch (row_group.h).
#pragma once

#include <algorithm>
#include <iterator>
#include <optional>

#include "runtime/cuda/cuda_launch.h"
#include "runtime/op.h"

namespace forebay::cuda {

class RowNorm {
 public:
  virtual ~RowNorm() = default;
  virtual NormTask norm_task(const KernelCall& call) const = 0;
};
// A block may make it for itself, of one row that is the activations at `a`, and read and write 16 bytes at a time.
inline bool norm_fits(const NormTask& norm, DType type, const void* a, std::int64_t k) {
  constexpr std::int64_t kMostLength = 8192;  // of which no scale is read twice
  if (norm.rows != 1 || norm.length != k || k % 8 != 0 || k > kMostLength || norm.type != type || norm.scale_type != type || norm.y != a)
    return false;
  const void* const all[] = {norm.x, norm.skip, norm.bias, norm.scale, norm.shift, norm.y, norm.sum};
  return std::all_of(std::begin(all), std::end(all), [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; });
}

class PairProduct {
 public:
  virtual ~PairProduct() = default;
  // Where the call multiplies `n` elements at a by those at b, of this type, its result goes.
  virtual void* product_of(const KernelCall& call, DType type, const void* a, const void* b, std::int64_t n) const = 0;
};

}  // namespace forebay::cuda
