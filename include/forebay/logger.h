// The logger that the library is given. The library itself never writes to stderr.
#pragma once

#include <cstdint>
#include <string_view>

namespace forebay {

enum class LogLevel : std::uint8_t { debug, info, warning, error };

// Thread-safe: calls may come from any thread. One line a call, "key=value" with the unit in the key. Must not throw.
class Logger {
 public:
  virtual ~Logger() = default;
  virtual void log(LogLevel level, std::string_view line) noexcept = 0;
};

// Drops everything. Lives for ever.
Logger& null_logger();

}  // namespace forebay
