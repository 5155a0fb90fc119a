#include "runtime/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/checked.h"

namespace forebay {

std::uint64_t plan_memory(std::span<Lifetime> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return values[a].bytes != values[b].bytes ? values[a].bytes > values[b].bytes : a < b;
  });
  struct Placed {
    std::uint64_t begin, end;
    std::uint32_t first, last;
  };
  std::vector<Placed> placed;  // sorted by begin
  std::uint64_t total = 0;
  for (const std::size_t index : order) {
    Lifetime& value = values[index];
    const std::uint64_t bytes = align_up(std::max<std::uint64_t>(value.bytes, 1), 64);
    std::uint64_t at = 0, best = UINT64_MAX, best_gap = UINT64_MAX;
    for (const Placed& p : placed) {
      if (p.last < value.first || value.last < p.first) continue;
      if (p.begin > at && p.begin - at >= bytes && p.begin - at < best_gap) {
        best = at;
        best_gap = p.begin - at;
      }
      at = std::max(at, p.end);
    }
    value.offset = best != UINT64_MAX ? best : at;
    const Placed entry{value.offset, value.offset + bytes, value.first, value.last};
    placed.insert(std::upper_bound(placed.begin(), placed.end(), entry, [](const Placed& a, const Placed& b) { return a.begin < b.begin; }), entry);
    total = std::max(total, entry.end);
  }
  return total;
}

}  // namespace forebay
