#include "base/byte_size.h"

#include <cctype>
#include <cmath>
#include <string>

#include "base/printable.h"

namespace forebay {
namespace {

Status refuse(std::string_view text, std::string_view why) {
  return Status(Code::invalid_argument, "\"" + printable(text) + "\" " + std::string(why))
      .with_hint("write bytes as 4096, 512MiB, 8GB or 1.5G");
}

// Bytes of a unit, 0 when it is none.
std::uint64_t bytes_of(std::string_view unit) {
  std::string lower;
  for (const char c : unit) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (lower.empty() || lower == "b") return 1;
  const std::size_t power = std::string_view("kmgtp").find(lower.front());
  if (power == std::string_view::npos) return 0;
  const std::string rest = lower.substr(1);
  if (!rest.empty() && rest != "b" && rest != "ib") return 0;
  std::uint64_t bytes = 1;
  for (std::size_t i = 0; i <= power; ++i) bytes *= rest == "b" ? 1000 : 1024;
  return bytes;
}

}  // namespace

Result<std::uint64_t> parse_byte_size(std::string_view text) {
  std::size_t at = 0;
  std::uint64_t whole = 0;
  std::size_t digits = 0;
  const auto digit = [&] { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
  for (; digit(); ++at, ++digits) {
    if (__builtin_mul_overflow(whole, std::uint64_t{10}, &whole) ||
        __builtin_add_overflow(whole, static_cast<std::uint64_t>(text[at] - '0'), &whole)) {
      return refuse(text, "is more than 64 bits can hold");
    }
  }
  double fraction = 0;
  if (at < text.size() && text[at] == '.') {
    double scale = 0.1;
    for (++at; digit(); ++at, ++digits, scale /= 10) fraction += scale * (text[at] - '0');
  }
  if (digits == 0) return refuse(text, "is not a number of bytes");
  while (at < text.size() && text[at] == ' ') ++at;
  const std::uint64_t unit = bytes_of(text.substr(at));
  if (unit == 0) return refuse(text, "has an unknown unit");
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(whole, unit, &bytes) ||
      __builtin_add_overflow(bytes, static_cast<std::uint64_t>(std::floor(fraction * static_cast<double>(unit) + 1e-6)), &bytes)) {
    return refuse(text, "is more than 64 bits can hold");
  }
  return bytes;
}

}  // namespace forebay
