#include "shape_argument.h"

#include <fmt/format.h>

#include <charconv>

#include "base/check.h"
#include "forebay/types.h"

namespace forebay::tools {

Result<std::pair<std::string, std::string>> split_assignment(const std::string& text, const std::string& option) {
  std::size_t at = text.find('=');
  if (at == std::string::npos) at = text.rfind(':');
  if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
    return Status(Code::invalid_argument, fmt::format("--{} \"{}\": expected NAME=VALUE", option, text));
  }
  return std::pair(text.substr(0, at), text.substr(at + 1));
}

Result<std::map<std::string, std::vector<std::int64_t>>> parse_shapes(const std::vector<std::string>& values, const std::string& option) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const std::string& value : values) {
    FB_ASSIGN(auto parts, split_assignment(value, option));
    std::vector<std::int64_t> dims;
    if (parts.second != "scalar") {
      std::size_t begin = 0;
      while (begin <= parts.second.size()) {
        const std::size_t end = std::min(parts.second.find('x', begin), parts.second.size());
        std::int64_t dim = 0;
        const char* last = parts.second.data() + end;
        const auto result = std::from_chars(parts.second.data() + begin, last, dim);
        if (result.ec != std::errc() || result.ptr != last || dim < 0) {
          return Status(Code::invalid_argument, fmt::format("--{} \"{}\": a shape is written 1x3x224x224", option, value));
        }
        dims.push_back(dim);
        begin = end + 1;
      }
    }
    if (dims.size() > static_cast<std::size_t>(kMaxRank)) {
      return Status(Code::invalid_argument, fmt::format("--{} \"{}\": at most {} dimensions", option, value, kMaxRank));
    }
    if (!shapes.emplace(parts.first, std::move(dims)).second) {
      return Status(Code::invalid_argument, fmt::format("--{} names \"{}\" twice", option, parts.first));
    }
  }
  return shapes;
}

Result<std::vector<ShapeRange>> join_shape_ranges(const std::vector<std::string>& min, const std::vector<std::string>& opt,
                                                  const std::vector<std::string>& max) {
  FB_ASSIGN(const auto lows, parse_shapes(min, "min-shapes"));
  FB_ASSIGN(const auto usual, parse_shapes(opt, "opt-shapes"));
  FB_ASSIGN(const auto highs, parse_shapes(max, "max-shapes"));
  std::map<std::string, ShapeRange> ranges;
  for (const auto& [name, dims] : lows) ranges[name].min = dims;
  for (const auto& [name, dims] : usual) ranges[name].opt = dims;
  for (const auto& [name, dims] : highs) ranges[name].max = dims;
  std::vector<ShapeRange> out;
  for (auto& [name, range] : ranges) {
    range.input = name;
    if (range.opt.empty()) range.opt = range.max.empty() ? range.min : range.max;
    if (range.min.empty()) range.min = range.opt;
    if (range.max.empty()) range.max = range.opt;
    bool ordered = range.min.size() == range.opt.size() && range.opt.size() == range.max.size();
    for (std::size_t i = 0; ordered && i < range.opt.size(); ++i) ordered = range.min[i] <= range.opt[i] && range.opt[i] <= range.max[i];
    if (!ordered) {
      return Status(Code::invalid_argument,
                    fmt::format("shapes of \"{}\": minimum, usual and maximum need the same rank and must not fall", name));
    }
    out.push_back(std::move(range));
  }
  return out;
}

}  // namespace forebay::tools
