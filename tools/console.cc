#include "console.h"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <mutex>

#include "option_parse.h"

namespace forebay::tools {
namespace {

std::atomic<bool> g_interrupted{false};  // the one global: a signal handler can reach nothing else
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_signal(int number) {
  g_interrupted.store(true);
  std::signal(number, SIG_DFL);
}

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(descriptor, text.data(), text.size());
    if (wrote <= 0) return;  // nobody is left to tell
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // reads and writes go on; the work asks interrupted()
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

bool interrupted() { return g_interrupted.load(); }

Status check_interrupted() {
  return interrupted() ? Status(Code::cancelled, "interrupted") : Status();
}

bool color_wanted(int descriptor) {
  const char* no_color = std::getenv("NO_COLOR");  // NOLINT
  const char* term = std::getenv("TERM");          // NOLINT
  if (no_color != nullptr && *no_color != 0) return false;
  if (term == nullptr || std::string_view(term) == "dumb") return false;
  return ::isatty(descriptor) == 1;
}

struct Console::State {
  using Clock = std::chrono::steady_clock;
  // Log lines clear the progress line first, so both live on one terminal.
  class Sink final : public spdlog::sinks::base_sink<std::mutex> {
   public:
    explicit Sink(State& state) : state_(state) {}

   private:
    void sink_it_(const spdlog::details::log_msg& message) override {
      spdlog::memory_buf_t buffer;
      formatter_->format(message, buffer);
      const std::lock_guard<std::mutex> lock(state_.mutex);
      state_.erase();
      write_all(STDERR_FILENO, {buffer.data(), buffer.size()});
    }
    void flush_() override {}
    State& state_;
  };

  void erase() {
    if (drawn) write_all(STDERR_FILENO, "\r\033[K");
    drawn = false;
  }
  void draw(std::string_view name, std::uint64_t done, std::uint64_t total) {
    const auto now = Clock::now();
    const std::lock_guard<std::mutex> lock(mutex);
    if (name != stage) {
      stage = name;
      stage_start = now;
      stage_first = done;
      last = {};
    }
    const bool end = total > 0 && done >= total;
    if (!end && now - last < std::chrono::milliseconds(100)) return;
    last = now;
    const double seconds = std::chrono::duration<double>(now - stage_start).count();
    const double rate = seconds > 0.05 ? static_cast<double>(done - std::min(done, stage_first)) / seconds : 0;
    std::string line = fmt::format("\r\033[K{}", stage);
    if (total > 0) line += fmt::format(" {:3.0f}% of {}", 100.0 * static_cast<double>(done) / static_cast<double>(total), format_size(total));
    else if (done > 0) line += fmt::format(" {}", format_size(done));
    if (rate > 0) line += fmt::format("  {:.2f} GB/s", rate / 1e9);
    if (rate > 0 && total > done) line += fmt::format("  {:.0f} s left", static_cast<double>(total - done) / rate);
    write_all(STDERR_FILENO, line);
    drawn = true;
  }

  std::mutex mutex;
  std::shared_ptr<spdlog::logger> logger;
  bool terminal = false, color = false, drawn = false;
  std::string stage;
  Clock::time_point stage_start{}, last{};
  std::uint64_t stage_first = 0;
};

Console::Console(int verbosity) : state_(std::make_unique<State>()) {
  const char* term = std::getenv("TERM");  // NOLINT
  state_->terminal = ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
  state_->color = color_wanted(STDERR_FILENO);
  state_->logger = std::make_shared<spdlog::logger>("forebay", std::make_shared<State::Sink>(*state_));
  state_->logger->set_pattern(verbosity >= 2 ? "%H:%M:%S.%e %l %v" : "forebay: %l: %v");
  state_->logger->set_level(verbosity >= 2 ? spdlog::level::debug : verbosity == 1 ? spdlog::level::info : spdlog::level::warn);
}

Console::~Console() { clear_progress(); }

void Console::log(LogLevel level, std::string_view line) noexcept {
  static constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn, spdlog::level::err};
  try {
    state_->logger->log(kLevels[static_cast<std::size_t>(level)], "{}", line);
  } catch (...) {  // a log line that cannot be formatted is dropped
    return;
  }
}

ProgressFunction Console::progress() {
  return [this](const char* stage, std::uint64_t done, std::uint64_t total) {
    if (state_->terminal) state_->draw(stage, done, total);
    return !interrupted();
  };
}

void Console::clear_progress() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->erase();
}

void Console::write_error(std::string_view text) {
  clear_progress();
  write_all(STDERR_FILENO, text);
}

bool Console::color() const { return state_->color; }

}  // namespace forebay::tools
