#include <string>

#include <gtest/gtest.h>

#include "refit/safetensors_text.h"
#include "refit/safetensors_reader.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::test {
namespace {

using refit::parse_safetensors;
using refit::SafetensorsHeader;
using refit::SafetensorsLimits;

Result<SafetensorsHeader> parse(const std::string& file, const SafetensorsLimits& limits = {}) {
  return parse_safetensors(std::as_bytes(std::span(file)), "m.safetensors", limits);
}

// Every refusal names the file and says why in words of its own.
void expect_refused(const std::string& file, Code code, const std::string& why, const std::string& tensor = "") {
  const auto header = parse(file);
  ASSERT_FALSE(header.ok()) << "accepted, expected: " << why;
  EXPECT_EQ(to_string(header.status().code()), to_string(code)) << header.status().to_string();
  EXPECT_NE(header.status().message().find(why), std::string::npos) << header.status().to_string();
  EXPECT_EQ(header.status().problems()[0].file, "m.safetensors");
  if (!tensor.empty()) { EXPECT_EQ(header.status().problems()[0].tensor, tensor) << header.status().to_string(); }
}

std::string entries(const std::string& text) { return "{" + text + "}"; }

TEST(Safetensors, ReadsWhatTheFormatHas) {
  const HostTensor a = random_tensor(DType::f32, {3, 4}, 1), b = random_tensor(DType::bf16, {5}, 2),
                   c = random_tensor(DType::u8, {0, 7}, 3), d = random_tensor(DType::i64, {}, 4);
  ASSERT_VALUE(const SafetensorsHeader header,
               parse(safetensors_bytes({{"a", &a}, {"b.weight", &b}, {"empty", &c}, {"scalar", &d}}, 4096)));
  ASSERT_EQ(header.entries.size(), 4u);
  EXPECT_EQ(header.data_start % 4096, 0u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].shape, (Shape{3, 4}));
  EXPECT_EQ(header.entries[1].dtype, DType::bf16);
  EXPECT_EQ(header.entries[1].begin, 48u);
  EXPECT_EQ(header.entries[1].end, 58u);
  EXPECT_EQ(header.entries[2].begin, header.entries[2].end);
  EXPECT_EQ(header.entries[3].shape.rank(), 0);
}

TEST(Safetensors, EntriesMayStandInAnyOrderAndNamesMayHoldAnything) {
  const std::string name = "\\u00e4 \\\"q\\\" \\ud83d\\ude00/..\\n";
  ASSERT_VALUE(
      const SafetensorsHeader header,
      parse(safetensors_file(entries(safetensors_entry("z", "U8", "[2]", 3, 5) + "," + safetensors_entry(name, "U8", "[3]", 0, 3)),
                             "abcde")));
  EXPECT_EQ(header.entries[0].name, "\xc3\xa4 \"q\" \xf0\x9f\x98\x80/..\n");
  EXPECT_EQ(header.entries[1].name, "z");
}

TEST(Safetensors, EveryDtypeWord) {
  const struct { const char* word; DType dtype; int bits;
  } words[] = {
      {"BOOL", DType::boolean, 8},     {"U8", DType::u8, 8},          {"I8", DType::i8, 8},        {"F8_E5M2", DType::f8e5m2, 8},
      {"F8_E4M3", DType::f8e4m3fn, 8}, {"F8_E8M0", DType::f8e8m0, 8}, {"I16", DType::i16, 16},     {"U16", DType::u16, 16},
      {"F16", DType::f16, 16},         {"BF16", DType::bf16, 16},     {"I32", DType::i32, 32},     {"U32", DType::u32, 32},
      {"F32", DType::f32, 32},         {"F64", DType::f64, 64},       {"I64", DType::i64, 64},     {"U64", DType::u64, 64},
      {"F4", DType::f4e2m1, 4},        {"C64", DType::none, 64},      {"F6_E2M3", DType::none, 6}, {"F6_E3M2", DType::none, 6}};
  for (const auto& word : words) {
    const auto bytes = static_cast<std::uint64_t>(word.bits * 4 / 8);
    ASSERT_VALUE(const SafetensorsHeader header,
                 parse(safetensors_file(entries(safetensors_entry("t", word.word, "[4]", 0, bytes)), std::string(bytes, 'x'))));
    EXPECT_EQ(header.entries[0].dtype, word.dtype) << word.word;
    EXPECT_STREQ(header.entries[0].dtype_word, word.word);
  }
  expect_refused(safetensors_file(entries(safetensors_entry("t", "F4", "[3]", 0, 2)), "xx"), Code::invalid_model, "no valid size", "t");
  expect_refused(safetensors_file(entries(safetensors_entry("t", "F128", "[1]", 0, 16)), std::string(16, 'x')), Code::unsupported,
                 "unknown dtype 'F128'", "t");
}

TEST(Safetensors, LengthFieldIsCheckedBeforeAnythingIsRead) {
  expect_refused("", Code::corruption, "too few");
  expect_refused("1234567", Code::corruption, "too few");
  std::string file(8, '\xff');
  expect_refused(file, Code::invalid_model, "above the limit");
  file = std::string("\0\0\0\0\0\0\0\x80", 8);  // 2^63
  expect_refused(file + "{}", Code::invalid_model, "above the limit");
  const std::uint64_t most = 100'000'001;
  std::memcpy(file.data(), &most, 8);
  expect_refused(file, Code::invalid_model, "above the limit");
  expect_refused(std::string("\x03\0\0\0\0\0\0\0", 8) + "{}", Code::corruption, "the file is cut");
  expect_refused(std::string(8, '\0'), Code::invalid_model, "the header is empty");
  ASSERT_OK(parse(safetensors_file("{}", "")));
  ASSERT_OK(parse(safetensors_file("{}   ", "")));
}

TEST(Safetensors, RangesMustCoverTheBodyExactly) {
  const auto two = [](std::uint64_t b1, std::uint64_t e1, std::uint64_t b2, std::uint64_t e2, const std::string& body) {
    return safetensors_file(entries(safetensors_entry("a", "U8", "[" + std::to_string(e1 - b1) + "]", b1, e1) + "," +
                                    safetensors_entry("b", "U8", "[" + std::to_string(e2 - b2) + "]", b2, e2)), body);
  };
  ASSERT_OK(parse(two(0, 4, 4, 8, "12345678")));
  expect_refused(two(0, 4, 3, 7, "1234567"), Code::invalid_model, "overlap", "b");
  expect_refused(two(0, 4, 5, 8, "12345678"), Code::invalid_model, "gap", "b");
  expect_refused(two(1, 4, 4, 8, "12345678"), Code::invalid_model, "gap", "a");
  expect_refused(two(0, 4, 4, 8, "1234567"), Code::corruption, "the file is cut", "b");
  expect_refused(two(0, 4, 4, 8, "123456789"), Code::invalid_model, "belong to none");
  expect_refused(two(0, 4, 0, 4, "1234"), Code::invalid_model, "overlap", "b");
  expect_refused(safetensors_file(entries(safetensors_entry("a", "U8", "[4]", 4, 0)), "1234"), Code::invalid_model, "gap", "a");
  expect_refused(safetensors_file(entries(safetensors_entry("a", "U8", "[18446744073709551615]", 0, 18446744073709551615ull)), "1"),
                 Code::invalid_model, "above 2^63", "a");
  expect_refused(safetensors_file(entries(safetensors_entry("a", "U8", "[9223372036854775807,4]", 0, 4)), "1234"),
                 Code::invalid_model, "no valid size", "a");
  expect_refused(safetensors_file(entries(safetensors_entry("a", "F32", "[4294967296,4294967296]", 0, 0)), ""), Code::invalid_model,
                 "no valid size", "a");
  expect_refused(safetensors_file(entries(safetensors_entry("a", "F32", "[2]", 0, 4)), "1234"), Code::invalid_model,
                 "takes 8 bytes, the entry has 4", "a");
}

TEST(Safetensors, ForeignJsonIsRefused) {
  const std::string ok = "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]";
  const struct { std::string header; const char* why; } cases[] = {
      {" {}", "begin with '{'"},
      {"[]", "begin with '{'"},
      {"{ ", "not valid JSON"},
      {"{\"a\":{" + ok + "}", "not valid JSON"},
      {"{\"a\":{" + ok + "}} x", "goes on after"},
      {"{\"a\":{" + ok + "}}{}", "goes on after"},
      {"{\"a\":1}", "a number stands where"},
      {"{\"a\":[1]}", "an array stands where"},
      {"{\"a\":null}", "null"},
      {"{\"a\":{" + ok + ",\"extra\":1}}", "unknown key 'extra'"},
      {"{\"a\":{" + ok + ",\"dtype\":\"U8\"}}", "key 'dtype' twice"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "no data_offsets"},
      {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", "no dtype"},
      {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", "no shape"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", "negative"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", "no whole number"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e0],\"data_offsets\":[0,1]}}", "no whole number"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,1]}}", "no whole number"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]}}", "an array stands where"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", "a number stands where"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", "1 numbers in place of 2"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", "more than 2 numbers"},
      {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", "a number stands where"},
      {"{\"a\":{\"dtype\":{},\"shape\":[1],\"data_offsets\":[0,1]}}", "an object stands where"},
      {"{\"__metadata__\":{\"k\":1}}", "a number stands where"},
      {"{\"__metadata__\":{\"k\":{}}}", "an object stands where"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", "__metadata__ has the key 'k' twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", "__metadata__ occurs twice"},
      {"{\"a\":{" + ok + "},\"a\":{" + ok + "}}", "the tensor is listed twice"},
      {"{\"a\\u0000b\":{" + ok + "}}", "NUL"},
      {"{\"\xff\":{" + ok + "}}", "not valid JSON"},
      {"{\"\xc0\x80\":{" + ok + "}}", "not valid JSON"},
      {"{\"\\ud800\":{" + ok + "}}", "not valid JSON"},
      {"{/* c */}", "not valid JSON"},
      {"{\"a\":{" + ok + ",}}", "not valid JSON"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", "rank is above 8"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.header);
    const auto header = parse(safetensors_file(c.header, "x"));
    ASSERT_FALSE(header.ok());
    EXPECT_NE(header.status().message().find(c.why), std::string::npos) << header.status().to_string();
  }
  expect_refused(safetensors_file("{\"" + std::string(70'000, 'n') + "\":{" + ok + "}}", "x"), Code::invalid_model,
                 "a name is longer than 65536");
  std::string deep = "{\"a\":";
  deep += std::string(100'000, '[') + std::string(100'000, ']') + "}";
  expect_refused(safetensors_file(deep, "x"), Code::invalid_model, "an array stands where");
}

TEST(Safetensors, PiecesOfAnySizeGiveTheSameHeader) {
  const HostTensor a = random_tensor(DType::f16, {2, 3}, 1), b = random_tensor(DType::f64, {2}, 2);
  const std::string file = safetensors_bytes({{"first.\xc3\xa4", &a}, {"second", &b}}, 64);
  ASSERT_VALUE(const SafetensorsHeader whole, parse(file));
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  for (std::size_t piece = 1; piece <= length; ++piece) {
    refit::SafetensorsHeaderParser parser("m.safetensors", length, {});
    for (std::size_t at = 0; at < length; at += piece)
      ASSERT_OK(parser.feed({file.data() + 8 + at, std::min<std::size_t>(piece, length - at)}));
    ASSERT_VALUE(const SafetensorsHeader header, parser.finish(file.size()));
    ASSERT_EQ(header.entries.size(), whole.entries.size());
    for (std::size_t i = 0; i < header.entries.size(); ++i) {
      EXPECT_EQ(header.entries[i].name, whole.entries[i].name);
      EXPECT_EQ(header.entries[i].begin, whole.entries[i].begin);
      EXPECT_EQ(header.entries[i].shape, whole.entries[i].shape);
    }
  }
}

// Time is not asserted; a quadratic reader would not end within the test's limit.
TEST(Safetensors, HugeHeadersEndInLinearTime) {
  std::string header = "{";
  for (int i = 0; header.size() < 10'000'000; ++i)
    header += (i == 0 ? "" : ",") + safetensors_entry("tensor.number." + std::to_string(i), "U8", "[0]", 0, 0);
  header += "}";
  ASSERT_OK(parse(safetensors_file(header, "")));
  std::string many = "{";
  for (int i = 0; i <= 500'000; ++i)
    many += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,0]}";
  many += "}";
  expect_refused(safetensors_file(many, ""), Code::unsupported, "more than 500000 tensors");
  std::string same = "{";
  for (int i = 0; i < 200'000; ++i) same += (i == 0 ? "" : ",") + safetensors_entry("same", "U8", "[0]", 0, 0);
  expect_refused(safetensors_file(same + "}", ""), Code::invalid_model, "listed twice", "same");
  expect_refused(safetensors_file("{\"" + std::string(99'000'000, 'x'), ""), Code::invalid_model, "a name is longer");
  expect_refused(safetensors_file("{" + std::string(99'000'000, ' '), ""), Code::invalid_model, "not valid JSON");
}

TEST(Safetensors, EveryCutAndEveryByteFlipEndsWell) {
  const HostTensor a = random_tensor(DType::f32, {4}, 1), b = random_tensor(DType::bf16, {6}, 2);
  const std::string file = safetensors_bytes({{"a", &a}, {"b", &b}}, 8);
  for (std::size_t size = 0; size < file.size(); ++size) EXPECT_FALSE(parse(file.substr(0, size)).ok()) << size;
  EXPECT_FALSE(parse(file + "x").ok());
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  for (std::size_t at = 0; at < 8 + length; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = file;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      const auto header = parse(flipped);
      if (!header.ok()) continue;  // a flip within a name, a dtype of the same size or the padding may still be valid
      std::uint64_t sum = 0;
      for (const auto& entry : header->entries) sum += entry.end - entry.begin;
      EXPECT_EQ(header->data_start + sum, flipped.size());
    }
  }
}

TEST(SafetensorsFile, GivesRecordsThatRead) {
  TempFolder folder;
  const HostTensor a = random_tensor(DType::f32, {100, 7}, 1), b = random_tensor(DType::bf16, {33}, 2);
  write_file(folder / "m.safetensors", safetensors_bytes({{"a", &a}, {"b", &b}}, 4096));
  ASSERT_VALUE(const refit::SafetensorsFile file, refit::read_safetensors(posix_file_system(), folder / "m.safetensors", {}));
  ASSERT_EQ(file.tensors.size(), 2u);
  ASSERT_VALUE(const HostTensor read, load_source_tensor(file.tensors[1], 1 << 20));
  ASSERT_EQ(read.bytes(), b.bytes());
  EXPECT_EQ(std::memcmp(read.data(), b.data(), b.bytes()), 0);
}

TEST(SafetensorsIndex, ReadsTheMapAndNothingElse) {
  const auto parse_index = [](const std::string& text) { return refit::parse_safetensors_index(text, "index.json", {}); };
  ASSERT_VALUE(
      const refit::SafetensorsIndex index,
      parse_index(
          R"({"metadata":{"total_size":1.5e2,"x":[1,{"weight_map":{}}]},"weight_map":{"b":"m-2.safetensors","a":"m-1.safetensors"},"v":[{}]})"));
  EXPECT_EQ(index.weight_map.size(), 2u);
  EXPECT_EQ(index.weight_map.at("a"), "m-1.safetensors");
  EXPECT_EQ(index.total_size, 150u);
  const struct { const char* text; const char* why; } cases[] = {
      {"{}", "no weight_map"},
      {"[]", "not a JSON object"},
      {"3", "not a JSON object"},
      {R"({"weight_map":{"a":1}})", "does not name a file for 'a'"},
      {R"({"weight_map":{"a":{"b":"c"}}})", "does not name a file for 'a'"},
      {R"({"weight_map":["a"]})", "weight_map is not an object"},
      {R"({"weight_map":{"a":"../x.safetensors"}})", "only a plain file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "only a plain file name"},
      {R"({"weight_map":{"a":"d/x.safetensors"}})", "only a plain file name"},
      {R"({"weight_map":{"a":".."}})", "only a plain file name"},
      {R"({"weight_map":{"a":""}})", "only a plain file name"},
      {"{\"weight_map\":{\"a\":\"x\\u0000y\"}}", "only a plain file name"},
      {R"({"weight_map":{"a":"x","a":"y"}})", "lists the tensor twice, in 'x' and 'y'"},
      {R"({"weight_map":{},"weight_map":{}})", "'weight_map' occurs twice"},
      {R"({"weight_map":{}} x)", "text after the end"},
      {R"({"weight_map":{})", "not valid JSON"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text);
    const auto result = parse_index(c.text);
    ASSERT_FALSE(result.ok());
    EXPECT_CODE(result, Code::invalid_model);
    EXPECT_NE(result.status().message().find(c.why), std::string::npos) << result.status().to_string();
  }
  EXPECT_FALSE(parse_index("{\"m\":" + std::string(50'000, '[') + std::string(50'000, ']') + "}").ok());
}

}  // namespace
}  // namespace forebay::test
