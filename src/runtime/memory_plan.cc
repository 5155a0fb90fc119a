#include "runtime/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/checked.h"

namespace forebay {
namespace {

struct Placed {
  std::uint64_t begin, end;
  std::uint32_t first, last;
};

// What is placed, by the stretches of steps in which it lives: most values live for a few steps, and a growing decoder plans every pass
// anew.
class Neighbours {
 public:
  explicit Neighbours(std::span<const Lifetime> values) {
    std::uint32_t last = 0;
    for (const Lifetime& value : values) last = std::max(last, value.last);
    stretches_.resize(last / kSteps + 1);
  }
  void add(const Placed& placed) {
    for (std::uint32_t s = placed.first / kSteps; s <= placed.last / kSteps; ++s) stretches_[s].push_back(placed);
  }
  // Those that live beside a value, by where they begin; some more than once.
  const std::vector<Placed>& beside(const Lifetime& value) {
    found_.clear();
    for (std::uint32_t s = value.first / kSteps; s <= value.last / kSteps; ++s) {
      for (const Placed& p : stretches_[s]) {
        if (p.last >= value.first && value.last >= p.first) found_.push_back(p);
      }
    }
    std::sort(found_.begin(), found_.end(), [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
    return found_;
  }

 private:
  static constexpr std::uint32_t kSteps = 32;
  std::vector<std::vector<Placed>> stretches_;
  std::vector<Placed> found_;
};

}  // namespace

std::uint64_t plan_memory(std::span<Lifetime> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a].bytes != values[b].bytes ? values[a].bytes > values[b].bytes : a < b; });
  Neighbours neighbours(values);
  std::uint64_t total = 0;
  for (const std::size_t index : order) {
    Lifetime& value = values[index];
    const std::uint64_t bytes = align_up(std::max<std::uint64_t>(value.bytes, 1), 64);
    std::uint64_t at = 0, best = UINT64_MAX, best_gap = UINT64_MAX;
    for (const Placed& p : neighbours.beside(value)) {
      if (p.begin > at && p.begin - at >= bytes && p.begin - at < best_gap) {
        best = at;
        best_gap = p.begin - at;
      }
      at = std::max(at, p.end);
    }
    value.offset = best != UINT64_MAX ? best : at;
    neighbours.add({value.offset, value.offset + bytes, value.first, value.last});
    total = std::max(total, value.offset + bytes);
  }
  return total;
}

}  // namespace forebay
