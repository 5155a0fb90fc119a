// Names that come from outside, made fit for one line of a message: control bytes and broken UTF-8 are escaped, long ones are cut.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace forebay {

std::string printable(std::string_view text, std::size_t max_bytes = 160);
// Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace forebay
