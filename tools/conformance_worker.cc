#include "conformance_worker.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

namespace forebay::tools {
namespace {

using Clock = std::chrono::steady_clock;

struct Answer {  // the reason's bytes follow
  CaseStatus status = CaseStatus::wrong;
  std::uint32_t reason_bytes = 0;
};
constexpr std::uint32_t kMostReason = 1 << 20;

bool write_all(int descriptor, const void* data, std::size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t wrote = ::write(descriptor, at, bytes);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    at += wrote;
    bytes -= static_cast<std::size_t>(wrote);
  }
  return true;
}

enum class Read : std::uint8_t { whole, ended, timed_out };
Read read_all(int descriptor, void* data, std::size_t bytes, Clock::time_point end = Clock::time_point::max()) {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    if (end != Clock::time_point::max()) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
      pollfd wait{descriptor, POLLIN, 0};
      const int ready = left > 0 ? ::poll(&wait, 1, static_cast<int>(left)) : 0;
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) return Read::timed_out;
    }
    const ssize_t got = ::read(descriptor, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Read::ended;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return Read::whole;
}

}  // namespace

// In the child: an index comes, a result goes, until nothing comes any more.
void CaseWorker::serve(int orders, int answers) const {
  std::uint64_t index = 0;
  while (read_all(orders, &index, sizeof index) == Read::whole && index < cases_.size()) {
    CaseResult result = run_case(cases_[index], options_);
    result.reason.resize(std::min<std::size_t>(result.reason.size(), kMostReason));
    const Answer answer{result.status, static_cast<std::uint32_t>(result.reason.size())};
    if (!write_all(answers, &answer, sizeof answer) || !write_all(answers, result.reason.data(), result.reason.size())) return;
  }
}

bool CaseWorker::begin() {
  std::array<int, 2> to{-1, -1}, from{-1, -1};
  if (::pipe(to.data()) == 0 && ::pipe(from.data()) == 0) child_ = ::fork();
  if (child_ == 0) {
    ::close(to[1]);
    ::close(from[0]);
    serve(to[0], from[1]);
    ::_exit(0);
  }
  orders_ = to[1];
  answers_ = from[0];
  for (const int descriptor : {to[0], from[1]}) {
    if (descriptor >= 0) ::close(descriptor);
  }
  if (child_ > 0) return true;
  end(false);
  return false;
}

int CaseWorker::end(bool kill) {
  for (int* descriptor : {&orders_, &answers_}) {
    if (*descriptor >= 0) ::close(*descriptor);
    *descriptor = -1;
  }
  int outcome = 0;
  if (child_ > 0) {
    if (kill) ::kill(child_, SIGKILL);
    while (::waitpid(child_, &outcome, 0) < 0 && errno == EINTR) continue;
  }
  child_ = -1;
  return outcome;
}

CaseResult CaseWorker::run(std::size_t index) {
  if (child_ < 0 && !begin()) return {CaseStatus::wrong, "no child process"};
  const std::uint64_t order = index;
  const auto until = Clock::now() + std::chrono::seconds(options_.timeout_seconds);
  Answer answer;
  CaseResult result;
  Read read = write_all(orders_, &order, sizeof order) ? read_all(answers_, &answer, sizeof answer, until) : Read::ended;
  if (read == Read::whole && answer.reason_bytes <= kMostReason) {
    result.status = answer.status;
    result.reason.resize(answer.reason_bytes);
    read = read_all(answers_, result.reason.data(), result.reason.size(), until);
  }
  if (read == Read::whole) {
    if (result.status == CaseStatus::wrong) end(false);
    return result;
  }
  const int outcome = end(read == Read::timed_out);
  if (read == Read::timed_out) return {CaseStatus::wrong, fmt::format("no answer within {} s", options_.timeout_seconds)};
  if (WIFSIGNALED(outcome)) return {CaseStatus::wrong, fmt::format("crashed with signal {}", WTERMSIG(outcome))};
  return {CaseStatus::wrong, fmt::format("the child ended with exit status {}", WEXITSTATUS(outcome))};
}

}  // namespace forebay::tools
