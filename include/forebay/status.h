// Status and Result: how every call of the library reports failure. No call throws.
//
// A Status is one pointer; null means ok. It carries a code to branch on, a message, the first source location, and where
// many things were wrong at once, the whole list of Problems. Status and Result are values: thread-compatible, movable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace forebay {

// Callers branch on codes, never on text. Values are stable.
enum class Code : std::uint8_t {
  ok = 0,
  invalid_argument = 1,     // the caller passed something that no state could accept
  invalid_model = 2,        // an ONNX model or plan is malformed, or newer than this reader
  unsupported = 3,          // well formed, but outside of what this build can do
  weight_mismatch = 4,      // a source tensor is missing, of another dtype or shape, or not identical
  corruption = 5,           // a digest differs, or a file is shorter than it states
  resource_exhausted = 6,   // beyond a budget or a stated limit
  out_of_memory = 7,        // the host or the device refused memory inside the budget
  unavailable = 8,          // a device, driver or kernel feature is not there
  device_lost = 9,          // the device reported a sticky error; nothing further runs on it
  io_error = 10,            // a read, write, sync or rename failed
  not_found = 11,           // a file or a name does not exist
  failed_precondition = 12, // the call is right, but not in this state
  cancelled = 13,           // stopped on request
  gate_failed = 14,         // a comparison or gate did not hold
  internal = 15,            // a bug of forebay
};
std::string_view to_string(Code code);

// One thing that is wrong. Empty members do not apply.
struct Problem {
  std::string code;     // stable word, for example "weight_missing"
  std::string message;  // what and why
  std::string file;     // relative to the model's folder; never a path outside of it
  std::string tensor;
  std::string node;
  std::string op;
  std::optional<std::uint64_t> offset;  // bytes from the start of `file`
  std::string hint;                     // what to do next
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message,
         std::source_location where = std::source_location::current());
  Status(Code code, Problem problem,
         std::source_location where = std::source_location::current());
  // All of `problems` at once; `message` sums them up. `problems` must not be empty.
  Status(Code code, std::string message, std::vector<Problem> problems,
         std::source_location where = std::source_location::current());
  Status(const Status& other);
  Status(Status&&) noexcept = default;
  Status& operator=(const Status& other);
  Status& operator=(Status&&) noexcept = default;
  ~Status() = default;

  bool ok() const { return rep_ == nullptr; }
  Code code() const { return rep_ ? rep_->code : Code::ok; }
  const std::string& message() const;
  // Never empty for a failure: holds at least the one problem that the message tells.
  const std::vector<Problem>& problems() const;
  std::source_location location() const;
  // "code: message [file=.. tensor=.. offset=..] (hint)", for logs and terminals.
  std::string to_string() const;

  // Adds what the caller was doing, once a layer: "reading chunk 17 of model.plan: ...".
  Status&& with_context(std::string_view doing) &&;
  // Fill members of the first problem that are still empty.
  Status&& with_file(std::string_view file) &&;
  Status&& with_tensor(std::string_view tensor) &&;
  Status&& with_offset(std::uint64_t offset) &&;
  Status&& with_hint(std::string_view hint) &&;

 private:
  struct Rep {
    Code code;
    std::string message;
    std::vector<Problem> problems;
    std::source_location where;
  };
  std::unique_ptr<Rep> rep_;
};

// The process exit code that the command line gives for a status (README has the table).
int exit_code(const Status& status);

// Either a value or a failed Status. value() on a failure is a bug and aborts.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<1>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Status status) : state_(std::in_place_index<0>, std::move(status)) {}  // NOLINT
  bool ok() const { return state_.index() == 1; }
  explicit operator bool() const { return ok(); }
  const Status& status() const& {
    static const Status kOk;
    return ok() ? kOk : std::get<0>(state_);
  }
  Status status() && { return ok() ? Status() : std::move(std::get<0>(state_)); }
  T& value() & { return std::get<1>(state_); }
  const T& value() const& { return std::get<1>(state_); }
  T&& value() && { return std::move(std::get<1>(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<Status, T> state_;
};

}  // namespace forebay
