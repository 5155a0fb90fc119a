// zstd chunks from anybody: exactly the stated size or an error, and no byte outside of it. The first four bytes state the size.
#include <cstring>
#include <vector>

#include "base/check.h"
#include "codec/chunk_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace forebay;
  if (size < 4) return 0;
  std::uint32_t stated = 0;
  std::memcpy(&stated, data, 4);
  stated %= 1u << 20;
  constexpr std::size_t kGuard = 64;
  std::vector<std::byte> out(stated + 2 * kGuard, std::byte{0x5a});
  static codec::ChunkCodec codec;  // one for all inputs: what one frame leaves behind must not matter to the next
  const auto stored = std::as_bytes(std::span(data + 4, size - 4));
  const auto place = std::span(out).subspan(kGuard, stated);
  const Status status = codec.decode(codec::kZstd, 1, stored, place);
  for (std::size_t i = 0; i < kGuard; ++i) FB_CHECK(out[i] == std::byte{0x5a} && out[kGuard + stated + i] == std::byte{0x5a});
  if (status.ok()) {
    // Decoding is a function of the bytes.
    std::vector<std::byte> again(stated);
    codec::ChunkCodec fresh;
    FB_CHECK(fresh.decode(codec::kZstd, 1, stored, again).ok());
    FB_CHECK(stated == 0 || std::memcmp(again.data(), place.data(), stated) == 0);
  } else {
    FB_CHECK(status.code() == Code::corruption);
  }
  return 0;
}
