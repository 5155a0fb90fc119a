// Assertions that print the status.
#pragma once

#include <utility>

#include <gtest/gtest.h>

#include "forebay/status.h"

namespace forebay::test {
inline Status status_of(Status status) { return status; }
template <typename T>
Status status_of(const Result<T>& result) {
  return result.status();
}
}  // namespace forebay::test

#define EXPECT_OK(expression)                                                  \
  do {                                                                         \
    const ::forebay::Status fb_seen = ::forebay::test::status_of(expression);  \
    EXPECT_TRUE(fb_seen.ok()) << #expression << " gave " << fb_seen.to_string(); \
  } while (false)
#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const ::forebay::Status fb_seen = ::forebay::test::status_of(expression);  \
    ASSERT_TRUE(fb_seen.ok()) << #expression << " gave " << fb_seen.to_string(); \
  } while (false)
#define EXPECT_CODE(expression, wanted)                                        \
  do {                                                                         \
    const ::forebay::Status fb_seen = ::forebay::test::status_of(expression);  \
    EXPECT_EQ(::forebay::to_string(fb_seen.code()), ::forebay::to_string(wanted)) << #expression << " gave " << fb_seen.to_string(); \
  } while (false)
// ASSERT_VALUE(auto x, call()): the value of a Result, or the test ends.
#define FB_TEST_CONCAT_INNER(a, b) a##b
#define FB_TEST_CONCAT(a, b) FB_TEST_CONCAT_INNER(a, b)
#define ASSERT_VALUE(target, expression) FB_TEST_VALUE_INNER(FB_TEST_CONCAT(fb_test_result_, __LINE__), target, expression)
#define FB_TEST_VALUE_INNER(temporary, target, expression)                                            \
  auto temporary = (expression);                                                                      \
  ASSERT_TRUE(temporary.ok()) << #expression << " gave " << temporary.status().to_string();           \
  target = std::move(temporary).value()
