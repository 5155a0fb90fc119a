#include "forebay/status.h"

#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "forebay/logger.h"

namespace forebay {

std::string_view to_string(Code code) {
  switch (code) {
    case Code::ok: return "ok";
    case Code::invalid_argument: return "invalid_argument";
    case Code::invalid_model: return "invalid_model";
    case Code::unsupported: return "unsupported";
    case Code::weight_mismatch: return "weight_mismatch";
    case Code::corruption: return "corruption";
    case Code::resource_exhausted: return "resource_exhausted";
    case Code::out_of_memory: return "out_of_memory";
    case Code::unavailable: return "unavailable";
    case Code::device_lost: return "device_lost";
    case Code::io_error: return "io_error";
    case Code::not_found: return "not_found";
    case Code::failed_precondition: return "failed_precondition";
    case Code::cancelled: return "cancelled";
    case Code::gate_failed: return "gate_failed";
    case Code::internal: return "internal";
  }
  return "internal";
}

Status::Status(Code code, std::string message, std::source_location where) {
  if (code == Code::ok) return;
  Problem problem;
  problem.code = forebay::to_string(code);
  problem.message = message;
  rep_ = std::make_unique<Rep>(Rep{code, std::move(message), {std::move(problem)}, where});
}

Status::Status(Code code, Problem problem, std::source_location where) {
  if (code == Code::ok) return;
  if (problem.code.empty()) problem.code = forebay::to_string(code);
  std::string message = problem.message;
  rep_ = std::make_unique<Rep>(Rep{code, std::move(message), {std::move(problem)}, where});
}

Status::Status(Code code, std::string message, std::vector<Problem> problems, std::source_location where) {
  if (code == Code::ok) return;
  for (Problem& problem : problems) {
    if (problem.code.empty()) problem.code = forebay::to_string(code);
  }
  rep_ = std::make_unique<Rep>(Rep{code, std::move(message), std::move(problems), where});
}

Status::Status(const Status& other) : rep_(other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr) {}

Status& Status::operator=(const Status& other) {
  if (this != &other) rep_ = other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr;
  return *this;
}

const std::string& Status::message() const {
  static const std::string kEmpty;
  return rep_ ? rep_->message : kEmpty;
}

const std::vector<Problem>& Status::problems() const {
  static const std::vector<Problem> kEmpty;
  return rep_ ? rep_->problems : kEmpty;
}

std::source_location Status::location() const { return rep_ ? rep_->where : std::source_location(); }

std::string Status::to_string() const {
  if (ok()) return "ok";
  std::string text(forebay::to_string(rep_->code));
  text += ": " + rep_->message;
  const Problem& first = rep_->problems.front();
  std::string where;
  if (!first.file.empty()) where += " file=" + first.file;
  if (!first.tensor.empty()) where += " tensor=" + first.tensor;
  if (first.offset) where += " offset=" + std::to_string(*first.offset);
  if (!where.empty()) text += " [" + where.substr(1) + "]";
  if (!first.hint.empty()) text += " (" + first.hint + ")";
  return text;
}

Status&& Status::with_context(std::string_view doing) && {
  if (rep_) {
    rep_->message = std::string(doing) + ": " + rep_->message;
    if (rep_->problems.size() == 1) rep_->problems.front().message = rep_->message;
  }
  return std::move(*this);
}
Status&& Status::with_file(std::string_view file) && {
  if (rep_ && rep_->problems.front().file.empty()) rep_->problems.front().file = file;
  return std::move(*this);
}
Status&& Status::with_tensor(std::string_view tensor) && {
  if (rep_ && rep_->problems.front().tensor.empty()) rep_->problems.front().tensor = tensor;
  return std::move(*this);
}
Status&& Status::with_offset(std::uint64_t offset) && {
  if (rep_ && !rep_->problems.front().offset) rep_->problems.front().offset = offset;
  return std::move(*this);
}
Status&& Status::with_hint(std::string_view hint) && {
  if (rep_ && rep_->problems.front().hint.empty()) rep_->problems.front().hint = hint;
  return std::move(*this);
}

int exit_code(const Status& status) {
  switch (status.code()) {
    case Code::ok: return 0;
    case Code::gate_failed: return 1;
    case Code::invalid_argument: return 2;
    case Code::invalid_model:
    case Code::unsupported: return 3;
    case Code::weight_mismatch: return 4;
    case Code::corruption: return 5;
    case Code::resource_exhausted:
    case Code::out_of_memory: return 6;
    case Code::unavailable:
    case Code::device_lost: return 7;
    case Code::io_error:
    case Code::not_found: return 8;
    case Code::failed_precondition:
    case Code::internal: return 9;
    case Code::cancelled: return 130;
  }
  return 9;
}

void check_failed(const char* expression, const char* file, int line) {
  // A bug of ours: state may be inconsistent, so nothing but these bytes is written before the process ends.
  std::fprintf(stderr, "forebay: check failed: %s at %s:%d; please report this\n", expression, file, line);
  std::abort();
}

namespace {
class NullLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) noexcept override {}
};
}  // namespace

Logger& null_logger() {
  static NullLogger logger;
  return logger;
}

}  // namespace forebay
