#include "tools/command_runner.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

namespace forebay::tools_test {
namespace {

void child(const std::vector<std::string>& arguments, const CommandOptions& options, int out, int err) {
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  const int null = ::open("/dev/null", O_RDONLY);
  ::dup2(null, STDIN_FILENO);
  for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<std::string> words{options.program.empty() ? std::string(FOREBAY_COMMAND) : options.program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

}  // namespace

boost::json::object CommandResult::json() const {
  boost::json::error_code error;
  const boost::json::value value = boost::json::parse(out, error);
  EXPECT_FALSE(error) << "not JSON: " << out << "\nstderr: " << err;
  EXPECT_TRUE(value.is_object());
  return value.is_object() ? value.as_object() : boost::json::object();
}

CommandResult run_command(const std::vector<std::string>& arguments, const CommandOptions& options) {
  int out[2], err[2];
  CommandResult result;
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) return result;
  const pid_t pid = ::fork();
  if (pid == 0) child(arguments, options, out[1], err[1]);
  ::close(out[1]);
  ::close(err[1]);
  const auto start = std::chrono::steady_clock::now();
  bool sent = options.signal_after_ms < 0;
  pollfd waits[2] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  int open_ends = 2;
  while (open_ends > 0) {
    int wait = -1;
    if (!sent) {
      const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
      wait = std::max(0, options.signal_after_ms - static_cast<int>(passed));
    }
    const int ready = ::poll(waits, 2, wait);
    if (ready == 0 && !sent) {
      ::kill(pid, SIGINT);
      sent = true;
      continue;
    }
    for (int i = 0; i < 2; ++i) {
      if (waits[i].fd < 0 || waits[i].revents == 0) continue;
      char buffer[8192];
      const ssize_t got = ::read(waits[i].fd, buffer, sizeof buffer);
      if (got > 0) {
        (i == 0 ? result.out : result.err).append(buffer, static_cast<std::size_t>(got));
      } else {
        waits[i].fd = -1;
        --open_ends;
      }
    }
  }
  ::close(out[0]);
  ::close(err[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  result.exit = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

WorkFolder::WorkFolder() {
  path_ = (std::filesystem::temp_directory_path() / "forebay-command-XXXXXX").string();
  EXPECT_NE(::mkdtemp(path_.data()), nullptr);
}
WorkFolder::~WorkFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> WorkFolder::names() const {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
    found.push_back(std::filesystem::relative(entry.path(), path_).string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace forebay::tools_test
