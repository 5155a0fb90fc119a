// What a verb works with: its options, the console, the JSON result and the text of stdout.
#pragma once

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "console.h"
#include "option_parse.h"

namespace forebay::tools {

namespace json = boost::json;

class Session {
 public:
  Session(const VerbSpec& v, ParsedOptions o) : options(std::move(o)), console(options.verbosity()), verb_(v) {
    result["schema"] = fmt::format("forebay.{}/1", v.name);
  }
  ParsedOptions options;
  Console console;
  json::object result;  // printed with --json

  const VerbSpec& verb() const { return verb_; }
  bool json_output() const { return options.has("json"); }
  const std::string& operand(std::size_t i = 0) const { return options.operands()[i]; }
  // Text for stdout; dropped with --json to stdout.
  template <typename... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    write(fmt::format(format, std::forward<Args>(args)...));
  }
  void write(std::string_view text);
  // Prints result or error in the form asked for, and returns the exit code.
  int finish(const Status& status);

 private:
  const VerbSpec& verb_;
  bool write_failed_ = false;
};

}  // namespace forebay::tools
