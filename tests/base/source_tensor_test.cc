// The one gate to the bytes of a source tensor (P7): range, size and type before a byte is read; every encoding.
#include "base/source_tensor.h"

#include <cstring>

#include <gtest/gtest.h>

#include "support/fault_fs.h"
#include "support/memory_fs.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

class Gate : public ::testing::Test {
 protected:
  // A record for `payload`, which lies at offset 7 of a file.
  SourceTensor record(const std::string& payload, DType dtype, Shape shape, Encoding encoding = Encoding::raw, std::uint32_t tag = 0) {
    fs_.put("/m/f", "0123456" + payload + "tail");
    SourceTensor tensor;
    tensor.name = "w";
    tensor.dtype = dtype;
    tensor.shape = shape;
    tensor.encoding = encoding;
    tensor.field_tag = tag;
    tensor.file = fs_.open_read("/m/f", DirectIo::off).value();
    tensor.open_name = "/m/f";
    tensor.offset = 7;
    tensor.stored_bytes = payload.size();
    return tensor;
  }
  test::MemoryFs fs_;
};

TEST_F(Gate, RawRanges) {
  const HostTensor data = test::random_tensor(DType::f32, {5, 7}, 1);
  const std::string payload(reinterpret_cast<const char*>(data.data()), data.bytes());
  const SourceTensor tensor = record(payload, DType::f32, {5, 7});
  std::string got(28, '\0');
  ASSERT_OK(read_source_tensor(tensor, 28, std::as_writable_bytes(std::span(got))));
  EXPECT_EQ(got, payload.substr(28, 28));
  EXPECT_CODE(read_source_tensor(tensor, 120, std::as_writable_bytes(std::span(got))), Code::invalid_argument);
  EXPECT_CODE(read_source_tensor(tensor, UINT64_MAX, std::as_writable_bytes(std::span(got))), Code::invalid_argument);
  ASSERT_VALUE(const HostTensor whole, load_source_tensor(tensor, 1000));
  EXPECT_EQ(std::memcmp(whole.data(), data.data(), data.bytes()), 0);
  EXPECT_CODE(load_source_tensor(tensor, 139), Code::resource_exhausted);
  ASSERT_OK(open_source_file(fs_, tensor, DirectIo::prefer));
  fs_.put("/m/f", "another file");
  EXPECT_CODE(open_source_file(fs_, tensor, DirectIo::off), Code::corruption);
}

TEST_F(Gate, SizesThatDoNotFit) {
  SourceTensor tensor = record(std::string(16, 'x'), DType::f32, {4});
  EXPECT_OK(check_source_tensor(tensor));
  tensor.stored_bytes = 17;
  EXPECT_CODE(check_source_tensor(tensor), Code::invalid_model);
  tensor.stored_bytes = 16;
  tensor.offset = 12;
  const Status cut = check_source_tensor(tensor);
  EXPECT_CODE(cut, Code::corruption);
  EXPECT_EQ(cut.problems().front().tensor, "w");
  EXPECT_EQ(cut.problems().front().offset, 12u);
  EXPECT_EQ(cut.problems().front().file, "f");
  tensor.offset = UINT64_MAX - 3;
  EXPECT_CODE(check_source_tensor(tensor), Code::corruption);
  tensor.offset = 7;
  tensor.shape = Shape{std::int64_t{1} << 32, std::int64_t{1} << 32};
  EXPECT_CODE(check_source_tensor(tensor), Code::invalid_model);
  tensor.shape = Shape{-4};
  EXPECT_CODE(check_source_tensor(tensor), Code::invalid_model);
  tensor.shape = Shape{4};
  tensor.dtype = DType::none;
  EXPECT_CODE(check_source_tensor(tensor), Code::invalid_model);
  tensor.file = nullptr;
  tensor.dtype = DType::f32;
  EXPECT_CODE(check_source_tensor(tensor), Code::invalid_model);
}

// Every integer type and width through varints, negative values included, over buffer edges.
TEST_F(Gate, Varints) {
  for (const DType dtype : {DType::i8, DType::i16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32, DType::u64, DType::f16,
                            DType::bf16, DType::f8e4m3fn, DType::boolean, DType::i4, DType::u2}) {
    const std::int64_t count = 70'001;
    HostTensor wanted(dtype, Shape{count});
    test::Random random(static_cast<std::uint64_t>(dtype));
    random.fill({wanted.data(), static_cast<std::size_t>(wanted.bytes())});
    if (dtype == DType::boolean) {
      for (auto& value : wanted.as<std::uint8_t>()) value &= 1;
    }
    const auto width = static_cast<std::size_t>(std::max(8, dtype_bits(dtype)) / 8);
    std::string payload, unpacked;
    for (std::size_t at = 0; at < wanted.bytes(); at += width) {
      std::uint64_t value = 0;
      std::memcpy(&value, wanted.data() + at, width);
      // As protobuf writes a negative int32: sign-extended to ten bytes.
      if (dtype == DType::i32 && (value >> 31) != 0) value |= 0xffffffff00000000u;
      put_varint(payload, value);
      put_varint(unpacked, 5u << 3);
      put_varint(unpacked, value);
      if (random.chance(50)) unpacked += std::string("\x62\x03" "doc", 5);  // a documentation string between two elements
    }
    ASSERT_VALUE(const HostTensor packed, load_source_tensor(record(payload, dtype, {count}, Encoding::varint), 1 << 30));
    EXPECT_EQ(std::memcmp(packed.data(), wanted.data(), wanted.bytes()), 0) << dtype_name(dtype);
    ASSERT_VALUE(const HostTensor run, load_source_tensor(record(unpacked, dtype, {count}, Encoding::varint, 5u << 3), 1 << 30));
    EXPECT_EQ(std::memcmp(run.data(), wanted.data(), wanted.bytes()), 0) << dtype_name(dtype);
  }
}

TEST_F(Gate, BoolsAreZeroOrOne) {
  ASSERT_VALUE(const HostTensor raw, load_source_tensor(record(std::string("\0\x01\x02\xff", 4), DType::boolean, {4}), 100));
  EXPECT_EQ(std::memcmp(raw.data(), "\0\1\1\1", 4), 0);
  std::string payload;
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{256}, std::uint64_t{1}}) put_varint(payload, value);
  ASSERT_VALUE(const HostTensor varints, load_source_tensor(record(payload, DType::boolean, {3}, Encoding::varint), 100));
  EXPECT_EQ(std::memcmp(varints.data(), "\0\1\1", 3), 0);
}

TEST_F(Gate, RunsOfFixedFields) {
  const float values[] = {1.5f, -2.0f, 3.25f};
  const std::string bytes(reinterpret_cast<const char*>(values), 12);
  std::string run;  // one alone, then two packed
  run += '\x25' + bytes.substr(0, 4);
  run += std::string("\x22\x08", 2) + bytes.substr(4);
  ASSERT_VALUE(const HostTensor got, load_source_tensor(record(run, DType::f32, {3}, Encoding::fixed32, 4u << 3 | 5), 100));
  EXPECT_EQ(std::memcmp(got.data(), values, 12), 0);
  EXPECT_CODE(load_source_tensor(record(run, DType::f32, {2}, Encoding::fixed32, 4u << 3 | 5), 100), Code::invalid_model);
  EXPECT_CODE(load_source_tensor(record(run, DType::f32, {4}, Encoding::fixed32, 4u << 3 | 5), 100), Code::invalid_model);
  EXPECT_CODE(load_source_tensor(record(run, DType::f64, {3}, Encoding::fixed32, 4u << 3 | 5), 100), Code::invalid_model);
  EXPECT_CODE(load_source_tensor(record(run.substr(0, 10), DType::f32, {3}, Encoding::fixed32, 4u << 3 | 5), 100), Code::corruption);
}

TEST_F(Gate, DamagedVarints) {
  EXPECT_CODE(load_source_tensor(record(std::string(11, '\xff'), DType::i64, {2}, Encoding::varint), 100), Code::corruption);
  EXPECT_CODE(load_source_tensor(record("\x01\x80", DType::i64, {2}, Encoding::varint), 100), Code::corruption);
  EXPECT_CODE(load_source_tensor(record("\x01\x02\x03", DType::i64, {2}, Encoding::varint), 100), Code::invalid_model);
  // Fewer bytes than elements: refused before anything is allocated.
  EXPECT_CODE(load_source_tensor(record("\x01\x02", DType::i64, {std::int64_t{1} << 40}, Encoding::varint), UINT64_MAX),
              Code::invalid_model);
  std::string got(8, '\0');
  EXPECT_CODE(read_source_tensor(record("\x01\x02", DType::i64, {2}, Encoding::varint), 8, std::as_writable_bytes(std::span(got))),
              Code::invalid_argument);
}

TEST_F(Gate, EmptyAndScalar) {
  ASSERT_VALUE(const HostTensor empty, load_source_tensor(record("", DType::f32, {0, 4}), 100));
  EXPECT_EQ(empty.bytes(), 0u);
  ASSERT_OK(load_source_tensor(record("", DType::i64, {0}, Encoding::varint), 100));
  ASSERT_VALUE(const HostTensor scalar, load_source_tensor(record("\x05", DType::i64, {}, Encoding::varint), 100));
  EXPECT_EQ(scalar.as<std::int64_t>()[0], 5);
}

TEST(GateFaults, EveryReadErrorIsToldAndNothingElseChanges) {
  const test::TempFolder folder;
  std::string payload;
  for (std::uint64_t i = 0; i < 400'000; ++i) put_varint(payload, i);
  test::write_file(folder / "f", payload);
  test::FaultFs fs;
  SourceTensor tensor;
  tensor.name = "w";
  tensor.dtype = DType::i64;
  tensor.shape = Shape{400'000};
  tensor.encoding = Encoding::varint;
  tensor.stored_bytes = payload.size();
  ASSERT_VALUE(tensor.file, fs.open_read(folder / "f", DirectIo::off));
  for (const bool lasting : {false, true}) {
    const std::uint64_t injected = test::fault_loop(fs, {.op = test::FaultOp::read, .lasting = lasting}, [&](std::uint64_t) {
      const auto got = load_source_tensor(tensor, 1 << 30);
      EXPECT_EQ(got.ok(), !fs.met());
      if (!got.ok()) {
        EXPECT_CODE(got, Code::io_error);
        EXPECT_EQ(got.status().problems().front().tensor, "w");
      }
    });
    EXPECT_GT(injected, 3u);
  }
  fs.arm({.op = test::FaultOp::read, .kind = test::FaultKind::short_transfer, .lasting = true});
  ASSERT_VALUE(const HostTensor whole, load_source_tensor(tensor, 1 << 30));
  EXPECT_EQ(whole.as<std::int64_t>()[399'999], 399'999);
}

}  // namespace
}  // namespace forebay
