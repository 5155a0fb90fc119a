// Byte counts as people write them: "4096", "512MiB", "1.5G", "8GB".
#pragma once

#include <cstdint>
#include <string_view>

#include "forebay/status.h"

namespace forebay {

// Number, then nothing, "B", or a unit in any letter case: K, M, G, T, P and KiB ... PiB are powers of 1024, KB ... PB powers of 1000.
// Fractions of a byte are dropped.
Result<std::uint64_t> parse_byte_size(std::string_view text);

}  // namespace forebay
