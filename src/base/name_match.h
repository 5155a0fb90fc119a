// "Did you mean": the names nearest to one that was not found.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace forebay {

// At most `count` of `names`, nearest first; none that is too far to be meant. Cost is bounded: long names are compared by their last
// 128 bytes, and beyond 200,000 names only those of equal length and last component are looked at.
std::vector<std::string> nearest_names(std::string_view wanted, std::span<const std::string> names, std::size_t count = 3);
// A hint: "did you mean \"a\" or \"b\"?", empty when nothing is near.
std::string did_you_mean(std::string_view wanted, std::span<const std::string> names);

}  // namespace forebay
