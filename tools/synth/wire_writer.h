// Protobuf wire format, written bottom up into strings: enough for a ModelProto whose payloads lie elsewhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace forebay::tools {

class WireWriter {
 public:
  void integer(std::uint32_t field, std::int64_t value);
  void text(std::uint32_t field, std::string_view value);  // strings, bytes and finished messages
  void real(std::uint32_t field, float value);
  std::string take() { return std::move(out_); }
  const std::string& bytes() const { return out_; }

 private:
  void varint(std::uint64_t value);
  std::string out_;
};

}  // namespace forebay::tools
