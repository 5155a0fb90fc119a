// Differences of tensors beside a tolerance: |a - b| <= atol + rtol * |b|. NaN equals NaN; integers and bools must be equal.
#pragma once

#include <string>

#include "forebay/types.h"

namespace forebay::tools {

struct Difference {
  double max_abs = 0, max_rel = 0;
  std::uint64_t beyond = 0, count = 0;  // elements beyond the tolerance, elements
  std::int64_t first = -1;              // index of the first of them
  std::string mismatch;                 // dtype or shape differ: told here
  bool pass() const { return mismatch.empty() && beyond == 0; }
};
Difference compare_tensors(const ConstTensorView& actual, const ConstTensorView& expected, double atol, double rtol);
double element_as_double(const ConstTensorView& tensor, std::int64_t i);

}  // namespace forebay::tools
