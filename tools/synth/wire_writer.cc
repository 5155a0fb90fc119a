#include "synth/wire_writer.h"

#include <cstring>

namespace forebay::tools {

void WireWriter::varint(std::uint64_t value) {
  while (value >= 0x80) {
    out_ += static_cast<char>(static_cast<unsigned char>(value | 0x80));
    value >>= 7;
  }
  out_ += static_cast<char>(value);
}

void WireWriter::integer(std::uint32_t field, std::int64_t value) {
  varint(std::uint64_t{field} << 3);
  varint(static_cast<std::uint64_t>(value));
}

void WireWriter::text(std::uint32_t field, std::string_view value) {
  varint((std::uint64_t{field} << 3) | 2);
  varint(value.size());
  out_ += value;
}

void WireWriter::real(std::uint32_t field, float value) {
  varint((std::uint64_t{field} << 3) | 5);
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  out_.append(raw, sizeof value);
}

}  // namespace forebay::tools
