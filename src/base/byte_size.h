// Byte counts as people write and read them: "4096", "512MiB", "1.5G". All units are powers of 1024.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "forebay/status.h"

namespace forebay {

// Number, then nothing, "B", or one of K, M, G, T with "B" or "iB" after it; letter case does not matter. Fractions of a byte are dropped.
Result<std::uint64_t> parse_byte_size(std::string_view text);
// "512 B", "1.50 KiB", "6.00 GiB".
std::string format_byte_size(std::uint64_t bytes);

}  // namespace forebay
