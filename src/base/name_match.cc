#include "base/name_match.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "base/printable.h"

namespace forebay {
namespace {

constexpr std::size_t kCompared = 128;     // bytes of a name
constexpr std::size_t kManyNames = 200'000;

std::string_view tail(std::string_view name) { return name.size() > kCompared ? name.substr(name.size() - kCompared) : name; }

std::string_view last_component(std::string_view name) {
  const std::size_t at = name.find_last_of("./");
  return at == std::string_view::npos ? name : name.substr(at + 1);
}

// Edit distance, given up above `limit`.
std::size_t distance(std::string_view a, std::string_view b, std::size_t limit) {
  if (a.size() < b.size()) std::swap(a, b);
  if (a.size() - b.size() > limit) return limit + 1;
  std::array<std::size_t, kCompared + 1> row{};
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    std::size_t best = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t keep = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, keep});
      best = std::min(best, row[j]);
    }
    if (best > limit) return limit + 1;
  }
  return row[b.size()];
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view wanted, std::span<const std::string> names, std::size_t count) {
  std::vector<std::pair<std::size_t, std::size_t>> found;  // distance, index
  const std::string_view target = tail(wanted);
  const std::size_t limit = std::max<std::size_t>(2, target.size() / 3);
  for (std::size_t i = 0; i < names.size() && count != 0; ++i) {
    if (names.size() > kManyNames && names[i].size() != wanted.size() && last_component(names[i]) != last_component(wanted)) continue;
    // Only what would enter the list is computed to the end.
    const std::size_t bound = found.size() < count ? limit : std::min(limit, found.back().first);
    std::size_t far = distance(target, tail(names[i]), bound);
    // A prefix or suffix added by another exporter ("model.", ".weight") is nearer than letters changed at random.
    if (far > bound && wanted.size() >= 4 && (names[i].ends_with(wanted) || wanted.ends_with(names[i])) && names[i].size() >= 4)
      far = bound;
    if (far > bound) continue;
    const auto place = std::upper_bound(found.begin(), found.end(), std::pair(far, i));
    found.insert(place, std::pair(far, i));
    if (found.size() > count) found.pop_back();
  }
  std::vector<std::string> nearest;
  for (const auto& [far, index] : found) nearest.push_back(names[index]);
  return nearest;
}

std::string did_you_mean(std::string_view wanted, std::span<const std::string> names) {
  const std::vector<std::string> nearest = nearest_names(wanted, names);
  if (nearest.empty()) return "";
  std::string hint = "did you mean ";
  for (std::size_t i = 0; i < nearest.size(); ++i) {
    if (i != 0) hint += i + 1 == nearest.size() ? " or " : ", ";
    hint += "\"" + printable(nearest[i]) + "\"";
  }
  return hint + "?";
}

}  // namespace forebay
