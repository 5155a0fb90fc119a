// A matrix product through oneDNN on one thread: one fixed shape, made in prepare. Null where this build or machine has none: callers keep our own kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay::cpu {

struct DnnlMatmulShape {
  std::int64_t m = 0, n = 0, k = 0;
  DType dtype = DType::f32;         // of A and B: f32 or bf16; C is f32
  std::int64_t a_row = 0, a_col = 1;  // strides in elements
  std::int64_t b_row = 0, b_col = 1;
  std::int64_t c_row = 0;
  bool accumulate = false;          // C += A * B
};

class DnnlMatmul {
 public:
  virtual ~DnnlMatmul() = default;
  // Null, with no error, when oneDNN is not there or does not serve the shape.
  static std::unique_ptr<DnnlMatmul> create(const DnnlMatmulShape& shape);
  virtual std::uint64_t scratch_bytes() const = 0;
  virtual Status run(const std::byte* a, const std::byte* b, float* c, std::byte* scratch) = 0;
};

// "2.6.3", or empty without oneDNN: part of numerics_id.
const char* dnnl_version_text();

}  // namespace forebay::cpu
