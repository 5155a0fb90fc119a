// Protobuf wire bytes by hand, for what no protobuf library writes: odd orders, split and unpacked fields, lies about lengths.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace forebay::test {

class Wire {
 public:
  Wire& varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
    return *this;
  }
  Wire& tag(std::uint32_t field, std::uint32_t wire) { return varint(std::uint64_t{field} << 3 | wire); }
  Wire& number(std::uint32_t field, std::uint64_t value) { return tag(field, 0).varint(value); }
  Wire& text(std::uint32_t field, std::string_view text) {
    tag(field, 2).varint(text.size());
    bytes_ += text;
    return *this;
  }
  Wire& message(std::uint32_t field, const Wire& inner) { return text(field, inner.bytes_); }
  // The tag and a length, and nothing of that length.
  Wire& promise(std::uint32_t field, std::uint64_t length) { return tag(field, 2).varint(length); }
  Wire& f32(std::uint32_t field, float value) {
    tag(field, 5);
    bytes_.append(reinterpret_cast<const char*>(&value), 4);
    return *this;
  }
  Wire& f64(std::uint32_t field, double value) {
    tag(field, 1);
    bytes_.append(reinterpret_cast<const char*>(&value), 8);
    return *this;
  }
  Wire& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// A model around the fields of a graph: IR 8, opset 17.
inline std::string wire_model(const Wire& graph) { return Wire().number(1, 8).message(7, graph).message(8, Wire().number(2, 17)).bytes(); }

}  // namespace forebay::test
