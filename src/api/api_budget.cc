#include <charconv>
#include <cmath>

#include "base/byte_size.h"
#include "base/check.h"
#include "forebay/budget.h"

namespace forebay {

Result<Budget> Budget::parse(std::string_view text) {
  const auto refuse = [&](const std::string& why) {
    return Status(Code::invalid_argument, "the budget '" + std::string(text) + "' " + why + "; use auto, 25% (of full), 6GiB or unlimited");
  };
  if (text == "auto") return Budget::automatic();
  if (text == "unlimited") return Budget::unlimited();
  if (!text.empty() && text.back() == '%') {
    double percent = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size() - 1, percent);
    if (error != std::errc() || end != text.data() + text.size() - 1) return refuse("is no percentage");
    if (!(percent > 0) || percent > 100) return refuse("is not above 0% and at most 100%");
    return Budget::of_percent(percent);
  }
  auto bytes = parse_byte_size(text);
  if (!bytes.ok()) return refuse("is no size");
  if (*bytes == 0) return refuse("is zero");
  return Budget::of_bytes(*bytes);
}

std::string Budget::to_string() const {
  switch (kind) {
    case Kind::automatic: return "auto";
    case Kind::unlimited: return "unlimited";
    case Kind::bytes: return std::to_string(bytes);
    case Kind::percent: {
      std::string text = std::to_string(percent);
      text.erase(text.find_last_not_of('0') + 1);
      if (!text.empty() && text.back() == '.') text.pop_back();
      return text + "%";
    }
  }
  return "auto";
}

}  // namespace forebay
