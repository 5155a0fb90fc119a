// What refit says about values: non-finite ones, and casts that lose more than precision.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "forebay/status.h"
#include "forebay/types.h"
#include "plan/plan_data.h"

namespace forebay::refit {

struct Found {
  std::uint64_t count = 0;
  std::uint64_t first = 0;  // element index of the first, when count is not 0
  void add(const Found& other, std::uint64_t base) {
    if (other.count != 0 && (count == 0 || other.first + base < first)) first = other.first + base;
    count += other.count;
  }
};

// Infinities and NaNs. Types that have none give 0.
Found count_non_finite(DType dtype, std::span<const std::byte> bytes);

// Finite values that a cast made infinite or clipped (overflow), and non-zero values of a float cast that became zero (flush).
struct CastLoss {
  Found overflow, flush;
};
CastLoss cast_loss(const ConstTensorView& from, const ConstTensorView& to);

// Collects over the chunks of a run; a chunk may be scanned by any thread, add() is called by one.
class FiniteScan {
 public:
  explicit FiniteScan(const plan::Plan& plan) : plan_(&plan) {}
  // One per part of the chunk that holds any.
  struct Hit {
    plan::WeightId weight = 0;
    Found found;
  };
  std::vector<Hit> scan(plan::ChunkId chunk, std::span<const std::byte> raw) const;  // thread-safe
  void add(const std::vector<Hit>& hits);
  std::vector<Problem> problems() const;

 private:
  const plan::Plan* plan_;
  std::map<plan::WeightId, Found> found_;
};

}  // namespace forebay::refit
