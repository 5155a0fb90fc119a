// Chunk codecs: round trips, and every trick of a hostile zstd frame (F43).
#include <gtest/gtest.h>
#include <zstd.h>

#include <cstring>
#include <random>

#include "codec/chunk_codec.h"

namespace forebay::test {
namespace {

using codec::ChunkCodec;

std::vector<std::byte> sample(std::size_t bytes, std::uint64_t seed, int values) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(random() % static_cast<unsigned>(values));
  return out;
}

std::vector<std::byte> encode(std::span<const std::byte> raw, int level = 3) {
  ChunkCodec codec;
  std::vector<std::byte> stored;
  const Status status = codec.encode(codec::kZstd, raw, level, stored);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return stored;
}

// What the library makes with given parameters, to have frames that our writer never makes.
std::vector<std::byte> foreign_frame(std::span<const std::byte> raw, std::vector<std::pair<ZSTD_cParameter, int>> parameters,
                                     const char* dictionary = "", bool streamed = false) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  for (const auto& [parameter, value] : parameters) EXPECT_EQ(ZSTD_isError(ZSTD_CCtx_setParameter(context, parameter, value)), 0u);
  if (*dictionary != '\0') {
    EXPECT_EQ(ZSTD_isError(ZSTD_CCtx_loadDictionary(context, dictionary, std::strlen(dictionary))), 0u);
  }
  std::vector<std::byte> out(ZSTD_compressBound(raw.size()) + 64);
  std::size_t size = 0;
  if (streamed) {  // the size is not known at the start of the frame
    ZSTD_inBuffer in{raw.data(), raw.size() / 2, 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    ZSTD_compressStream2(context, &to, &in, ZSTD_e_continue);
    in.size = raw.size();
    ZSTD_compressStream2(context, &to, &in, ZSTD_e_end);
    size = to.pos;
  } else {
    size = ZSTD_compress2(context, out.data(), out.size(), raw.data(), raw.size());
  }
  EXPECT_EQ(ZSTD_isError(size), 0u);
  ZSTD_freeCCtx(context);
  out.resize(size);
  return out;
}

void expect_corrupt(std::span<const std::byte> stored, std::size_t out_bytes, const std::string& text) {
  ChunkCodec codec;
  // Canaries: nothing may be written outside of the stated size.
  std::vector<std::byte> out(out_bytes + 64, std::byte{0x5a});
  const Status status = codec.decode(codec::kZstd, 1, stored, std::span(out).subspan(32, out_bytes));
  ASSERT_FALSE(status.ok()) << "wanted: " << text;
  EXPECT_EQ(status.code(), Code::corruption) << status.to_string();
  EXPECT_NE(status.message().find(text), std::string::npos) << status.to_string();
  for (std::size_t i = 0; i < 32; ++i) {
    ASSERT_EQ(out[i], std::byte{0x5a});
    ASSERT_EQ(out[out_bytes + 32 + i], std::byte{0x5a});
  }
}

TEST(ChunkCodec, RoundTripsOfManySizes) {
  ChunkCodec codec;
  for (const std::size_t size : {0u, 1u, 2u, 7u, 255u, 256u, 257u, 4095u, 4096u, 65'791u, 65'792u, 300'000u, 3'000'000u}) {
    for (const int values : {1, 3, 256}) {
      const auto raw = sample(size, size + 1, values);
      for (const std::uint8_t id : {codec::kRaw, codec::kZstd}) {
        std::vector<std::byte> stored;
        ASSERT_TRUE(codec.encode(id, raw, 3, stored).ok());
        std::vector<std::byte> out(size, std::byte{1});
        const Status status = codec.decode(id, codec::codec_version(id), stored, out);
        ASSERT_TRUE(status.ok()) << size << " " << status.to_string();
        ASSERT_EQ(out, raw);
      }
    }
  }
}

TEST(ChunkCodec, EncodingIsDeterministicAcrossUses) {
  ChunkCodec codec;
  const auto first = sample(100'000, 1, 5), second = sample(50'000, 2, 9);
  std::vector<std::byte> a, b, c;
  ASSERT_TRUE(codec.encode(codec::kZstd, first, 3, a).ok());
  ASSERT_TRUE(codec.encode(codec::kZstd, second, 19, b).ok());
  ASSERT_TRUE(codec.encode(codec::kZstd, first, 3, c).ok());
  EXPECT_EQ(a, c);
}

TEST(ChunkCodec, UnknownCodecsAndLevels) {
  ChunkCodec codec;
  std::vector<std::byte> stored(8), out(8);
  for (const auto& [id, version] : {std::pair<int, int>{2, 1}, {3, 1}, {255, 0}, {0, 0}, {0, 2}, {1, 2}, {1, 255}}) {
    EXPECT_EQ(codec.decode(static_cast<std::uint8_t>(id), static_cast<std::uint8_t>(version), stored, out).code(), Code::unsupported);
    EXPECT_FALSE(codec::codec_known(static_cast<std::uint8_t>(id), static_cast<std::uint8_t>(version)));
  }
  EXPECT_EQ(codec.encode(codec::kHuffman, out, 3, stored).code(), Code::unsupported);
  EXPECT_EQ(codec.encode(codec::kZstd, out, 0, stored).code(), Code::invalid_argument);
  EXPECT_EQ(codec.encode(codec::kZstd, out, 100, stored).code(), Code::invalid_argument);
  EXPECT_STREQ(codec::codec_name(codec::kZstd), "zstd");
}

TEST(ChunkCodec, RawSizesMustAgree) {
  ChunkCodec codec;
  std::vector<std::byte> stored(8), out(9);
  EXPECT_EQ(codec.decode(codec::kRaw, 1, stored, out).code(), Code::corruption);
}

TEST(ZstdChunk, OtherSizesThanStatedAreRefused) {
  const auto stored = encode(sample(10'000, 1, 4));
  for (const std::size_t size : {0u, 1u, 9'999u, 10'001u, 1'000'000u}) expect_corrupt(stored, size, "it states 10000 bytes");
}

TEST(ZstdChunk, BombIsRefusedByItsStatedSize) {
  // 64 MiB of zeros in a few KiB, offered for a chunk of 4 KiB.
  const auto stored = encode(std::vector<std::byte>(64u << 20));
  ASSERT_LT(stored.size(), 10'000u);
  expect_corrupt(stored, 4096, "it states 67108864 bytes");
}

TEST(ZstdChunk, LyingContentSizeIsRefused) {
  auto stored = encode(std::vector<std::byte>(100'000));
  // Single segment, 4-byte content size: the size says 4096, the blocks hold 100,000 bytes.
  ASSERT_EQ(static_cast<unsigned>(stored[4]) >> 6, 2u);
  const std::uint32_t lie = 4096;
  std::memcpy(stored.data() + 5, &lie, 4);
  expect_corrupt(stored, 4096, "decoding");
}

TEST(ZstdChunk, EveryTruncationAndTail) {
  const auto raw = sample(2'000, 7, 6);
  const auto stored = encode(raw);
  for (std::size_t size = 0; size < stored.size(); ++size) expect_corrupt(std::span(stored).first(size), raw.size(), "");
  auto tail = stored;
  tail.push_back(std::byte{0});
  expect_corrupt(tail, raw.size(), "1 bytes follow");
  auto twice = stored;
  twice.insert(twice.end(), stored.begin(), stored.end());
  expect_corrupt(twice, raw.size(), "follow the frame");
  // A skippable frame after it is a tail too.
  auto skippable = stored;
  for (const unsigned char byte : {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}) skippable.push_back(std::byte{byte});
  expect_corrupt(skippable, raw.size(), "8 bytes follow");
}

// Bits that the format leaves unused decode to the same bytes; the digest of the stored chunk finds those. Nothing ever decodes to other
// bytes.
TEST(ZstdChunk, NoFlippedBitGivesOtherBytes) {
  const auto raw = sample(1'500, 9, 5);
  auto stored = encode(raw);
  ChunkCodec codec;
  std::vector<std::byte> out(raw.size());
  std::size_t refused = 0;
  for (std::size_t i = 0; i < stored.size() * 8; ++i) {
    stored[i / 8] ^= static_cast<std::byte>(1 << (i % 8));
    const Status status = codec.decode(codec::kZstd, 1, stored, out);
    ASSERT_TRUE(!status.ok() || out == raw) << i;
    refused += status.ok() ? 0 : 1;
    stored[i / 8] ^= static_cast<std::byte>(1 << (i % 8));
  }
  EXPECT_GT(refused, stored.size() * 7);
}

TEST(ZstdChunk, SkippableAndLegacyFramesAreRefused) {
  std::vector<std::byte> stored(16);
  const unsigned char skippable[] = {0x5f, 0x2a, 0x4d, 0x18, 8, 0, 0, 0};
  std::memcpy(stored.data(), skippable, sizeof(skippable));
  expect_corrupt(stored, 0, "skippable");
  stored[0] = std::byte{0x27};
  stored[1] = std::byte{0xb5};
  stored[2] = std::byte{0x2f};
  stored[3] = std::byte{0xfd};  // zstd 0.7
  expect_corrupt(stored, 0, "magic");
}

TEST(ZstdChunk, ChecksumIsRequiredAndChecked) {
  const auto raw = sample(5'000, 3, 4);
  expect_corrupt(foreign_frame(raw, {{ZSTD_c_checksumFlag, 0}}), raw.size(), "no checksum");
  auto stored = encode(raw);
  stored.back() ^= std::byte{1};
  expect_corrupt(stored, raw.size(), "checksum");
}

TEST(ZstdChunk, ContentSizeIsRequired) {
  const auto raw = sample(5'000, 3, 4);
  expect_corrupt(foreign_frame(raw, {{ZSTD_c_checksumFlag, 1}, {ZSTD_c_contentSizeFlag, 0}}), raw.size(), "no content size");
  expect_corrupt(foreign_frame(raw, {{ZSTD_c_checksumFlag, 1}}, "", true), raw.size(), "no content size");
}

TEST(ZstdChunk, DictionariesAreRefused) {
  const auto raw = sample(5'000, 3, 4);
  const auto stored = encode(raw);
  // A dictionary id in the header: descriptor bit 0, one byte after the (absent) window byte.
  std::vector<std::byte> with_id(stored.begin(), stored.begin() + 5);
  with_id[4] |= std::byte{1};
  with_id.push_back(std::byte{42});
  with_id.insert(with_id.end(), stored.begin() + 5, stored.end());
  expect_corrupt(with_id, raw.size(), "dictionary");
  // Made with a raw-content dictionary, which leaves no id: what it refers to is not there.
  std::string words;
  for (int i = 0; i < 400; ++i) words += "word" + std::to_string(i * 7919);
  const auto text = std::as_bytes(std::span(words));
  const auto hidden = foreign_frame(text, {{ZSTD_c_checksumFlag, 1}}, words.c_str());
  ASSERT_LT(hidden.size(), words.size() / 4);
  expect_corrupt(hidden, words.size(), "");
}

TEST(ZstdChunk, WindowsAboveTheCapAreRefused) {
  const auto raw = sample(5'000, 3, 4);
  const auto stored = encode(raw);
  ASSERT_EQ(static_cast<unsigned>(stored[4]) & 0xe0u, 0x60u);  // single segment, two bytes of size
  for (const unsigned log : {28u, 31u, 41u}) {
    std::vector<std::byte> wide(stored.begin(), stored.begin() + 5);
    wide[4] &= ~std::byte{0x20};
    wide.push_back(static_cast<std::byte>((log - 10) << 3));
    wide.insert(wide.end(), stored.begin() + 5, stored.end());
    expect_corrupt(wide, raw.size(), "window");
    wide[5] = static_cast<std::byte>((20 - 10) << 3);  // the same with 1 MiB is fine
    ChunkCodec codec;
    std::vector<std::byte> out(raw.size());
    EXPECT_TRUE(codec.decode(codec::kZstd, 1, wide, out).ok());
    EXPECT_EQ(out, raw);
  }
}

TEST(ZstdChunk, ReservedBitIsRefused) {
  auto stored = encode(sample(100, 1, 3));
  stored[4] |= std::byte{8};
  expect_corrupt(stored, 100, "reserved bit");
}

TEST(ZstdChunk, DecoderServesOnAfterErrors) {
  ChunkCodec codec;
  const auto raw = sample(10'000, 5, 4);
  const auto good = encode(raw);
  auto broken = good;
  broken[broken.size() / 2] ^= std::byte{0xff};
  std::vector<std::byte> out(raw.size());
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(codec.decode(codec::kZstd, 1, broken, out).ok());
    ASSERT_TRUE(codec.decode(codec::kZstd, 1, good, out).ok());
    ASSERT_EQ(out, raw);
  }
}

}  // namespace
}  // namespace forebay::test
