// Parsed command line of one verb: command line over environment over default. Values are checked against the table when parsed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forebay/status.h"
#include "option_table.h"

namespace forebay::tools {

class ParsedOptions {
 public:
  bool has(std::string_view name) const { return values_.contains(std::string(name)); }  // given, here or by the environment
  bool flag(std::string_view name) const;
  // The value, or the table's default, or "".
  std::string text(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  double real(std::string_view name) const;
  std::optional<std::uint64_t> size(std::string_view name) const;  // empty for a word such as "auto", or when not given
  // All values; comma-separated ones are split.
  std::vector<std::string> list(std::string_view name) const;
  const std::vector<std::string>& operands() const { return operands_; }
  int verbosity() const { return verbosity_; }

 private:
  friend Result<ParsedOptions> parse_options(const VerbSpec& verb, std::span<const std::string> arguments);
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> operands_;
  int verbosity_ = 0;
};

// invalid_argument naming the option, with the nearest one as a hint. Reads the environment twins.
Result<ParsedOptions> parse_options(const VerbSpec& verb, std::span<const std::string> arguments);

// "1.2 GiB", "640 KiB", "12 B".
std::string format_size(std::uint64_t bytes);

}  // namespace forebay::tools
