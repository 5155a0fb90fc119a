// Bytes to time kernels with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace forebay {

// 1 MiB of small finite numbers in every float type: arithmetic on zeros takes less power than the real thing, and runs faster.
inline std::vector<std::byte> trial_bytes() {
  std::vector<std::byte> bytes(std::size_t{1} << 20);
  std::uint64_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::byte>(0x30u | ((state >> 57) & 0x8fu));
  }
  return bytes;
}

}  // namespace forebay
