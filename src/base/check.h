// FB_TRY, FB_ASSIGN for statuses; FB_CHECK for bugs (on in release). Never FB_CHECK results of files, network or devices.
#pragma once

#include "forebay/status.h"

namespace forebay {
[[noreturn]] void check_failed(const char* expression, const char* file, int line);
}  // namespace forebay

#define FB_CONCAT_INNER(a, b) a##b
#define FB_CONCAT(a, b) FB_CONCAT_INNER(a, b)

// Returns the failed Status of `expression` (a Status) from the enclosing function.
#define FB_TRY(expression)                                     \
  do {                                                         \
    ::forebay::Status fb_status = (expression);                \
    if (!fb_status.ok()) return fb_status;                     \
  } while (false)

// FB_ASSIGN(auto x, call()): declares or assigns x from a Result, or returns its Status.
#define FB_ASSIGN(target, expression) FB_ASSIGN_INNER(FB_CONCAT(fb_result_, __LINE__), target, expression)
#define FB_ASSIGN_INNER(temporary, target, expression)         \
  auto temporary = (expression);                               \
  if (!temporary.ok()) return std::move(temporary).status();   \
  target = std::move(temporary).value()

#define FB_CHECK(condition)                                                     \
  do {                                                                          \
    if (!(condition)) [[unlikely]] ::forebay::check_failed(#condition, __FILE__, __LINE__); \
  } while (false)
