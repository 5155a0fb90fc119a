#include "base/digest.h"

#include <gtest/gtest.h>

#include "support/random.h"

namespace forebay {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// FIPS 180-2 test vectors.
TEST(Digest, Sha256Vectors) {
  EXPECT_EQ(to_hex(sha256(bytes_of(""))), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(to_hex(sha256(bytes_of("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// The value that xxhsum -H2 prints for nothing.
TEST(Digest, Xxh128Vector) { EXPECT_EQ(to_hex(xxh128(bytes_of(""))), "99aa06d3014798d86001c324468d497f"); }

TEST(Digest, StreamsEqualWholes) {
  std::string text(100'003, '\0');
  test::Random random(3);
  random.fill(std::as_writable_bytes(std::span(text)));
  Xxh128Stream xxh;
  Sha256Stream sha;
  for (int round = 0; round < 2; ++round) {  // finish starts anew
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t piece = std::min<std::size_t>(1 + random.below(9000), text.size() - at);
      xxh.update(bytes_of(text).subspan(at, piece));
      sha.update(bytes_of(text).subspan(at, piece));
      at += piece;
    }
    EXPECT_EQ(xxh.finish(), xxh128(bytes_of(text)));
    EXPECT_EQ(sha.finish(), sha256(bytes_of(text)));
  }
}

TEST(Digest, EveryBitCounts) {
  std::string text(64, 'x');
  const Xxh128 whole = xxh128(bytes_of(text));
  for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(xxh128(bytes_of(flipped)), whole);
  }
}

}  // namespace
}  // namespace forebay
