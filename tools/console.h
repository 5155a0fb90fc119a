// stderr: log lines and progress. Progress is drawn only on a terminal, log lines pass through spdlog. Also SIGINT and SIGTERM.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "forebay/builder.h"
#include "forebay/logger.h"

namespace forebay::tools {

// The first SIGINT or SIGTERM asks the work to stop (exit 130 with nothing half-written), the second one ends the process.
void install_signal_handlers();
bool interrupted();
// cancelled when a signal came; for loops between passes.
Status check_interrupted();

class Console final : public Logger {
 public:
  explicit Console(int verbosity);
  ~Console() override;
  void log(LogLevel level, std::string_view line) noexcept override;  // thread-safe
  // Draws stage, percent, rate and time left; returns false once interrupted. One at a time.
  ProgressFunction progress();
  void clear_progress();
  void write_error(std::string_view text);
  bool color() const;  // stderr is a colour terminal

 private:
  struct State;
  std::unique_ptr<State> state_;
};

bool color_wanted(int descriptor);  // a terminal, TERM is not dumb, NO_COLOR is not set

}  // namespace forebay::tools
