// Byte sizes, name hints, printable names, memory figures.
#include <gtest/gtest.h>

#include "base/byte_size.h"
#include "base/memory_info.h"
#include "base/name_match.h"
#include "base/printable.h"
#include "support/status_test.h"

namespace forebay {
namespace {

TEST(ByteSize, Parses) {
  const std::pair<const char*, std::uint64_t> good[] = {{"0", 0},
                                                        {"4096", 4096},
                                                        {"4096B", 4096},
                                                        {"512MiB", 512ull << 20},
                                                        {"6GiB", 6ull << 30},
                                                        {"1.5G", 3ull << 29},
                                                        {"2k", 2048},
                                                        {"1 KB", 1000},
                                                        {"0.5M", 1 << 19},
                                                        {"1T", 1ull << 40},
                                                        {"8gb", 8000000000},
                                                        {"1.5GB", 1500000000},
                                                        {"2PiB", 1ull << 51},
                                                        {".5K", 512},
                                                        {"18446744073709551615", UINT64_MAX},
                                                        {"2.3G", 2469606195ull}};
  for (const auto& [text, bytes] : good) {
    ASSERT_VALUE(const std::uint64_t got, parse_byte_size(text));
    EXPECT_EQ(got, bytes) << text;
  }
  for (const char* text : {"", "G", "-1", "1X", "1.2.3", "0x10", "1e9", "18446744073709551616", "99999999999T", " 1", "1GiBs", "."}) {
    const auto got = parse_byte_size(text);
    EXPECT_CODE(got, Code::invalid_argument);
    EXPECT_FALSE(got.status().problems().front().hint.empty());
  }
}

TEST(NameMatch, FindsWhatWasMeant) {
  const std::vector<std::string> names = {"model.layers.0.mlp.up.weight", "model.layers.1.mlp.up.weight", "lm_head.weight", "conv1.bias"};
  EXPECT_EQ(nearest_names("model.layers.1.mlp.up.wieght", names, 1), (std::vector<std::string>{"model.layers.1.mlp.up.weight"}));
  EXPECT_EQ(nearest_names("layers.0.mlp.up.weight", names, 1), (std::vector<std::string>{"model.layers.0.mlp.up.weight"}));
  EXPECT_TRUE(nearest_names("xyz", names).empty());
  EXPECT_TRUE(nearest_names("conv1.bias", names, 0).empty());
  EXPECT_EQ(did_you_mean("conv1.bais", names), "did you mean \"conv1.bias\"?");
  EXPECT_EQ(did_you_mean("q", std::vector<std::string>{}), "");
}

TEST(NameMatch, IsBounded) {
  std::vector<std::string> names;
  for (int i = 0; i < 300'000; ++i) names.push_back("tensor_number_" + std::to_string(i) + std::string(i % 7 == 0 ? 2000 : 0, 'x'));
  EXPECT_EQ(nearest_names("tensor_number_123456", names, 1), (std::vector<std::string>{"tensor_number_123456"}));
}

TEST(Printable, EscapesAndCuts) {
  EXPECT_EQ(printable("a\nb\x1b[31m\xff"), "a\\x0ab\\x1b[31m\\xff");
  EXPECT_EQ(printable("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
  EXPECT_LE(printable(std::string(1000, 'a')).size(), 163u);
  EXPECT_TRUE(is_utf8("\xf0\x9f\x98\x80"));
  for (const char* bad : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\x80", "\xc3"}) EXPECT_FALSE(is_utf8(bad));
}

TEST(MemoryInfo, KnowsThisProcess) {
  const MemoryInfo info = memory_info();
  EXPECT_GT(info.rss_bytes, 0u);
  EXPECT_GE(info.peak_rss_bytes, info.rss_bytes / 2);
  EXPECT_GT(info.available_bytes, 0u);
  EXPECT_GE(info.total_bytes, info.available_bytes / 2);
}

}  // namespace
}  // namespace forebay
