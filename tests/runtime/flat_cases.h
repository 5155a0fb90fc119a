// Single-node cases as tests/runtime/kernels_onnx_cases.py writes them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/half.h"
#include "runtime/op.h"

namespace forebay::test {

class Reader {
 public:
  explicit Reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}
  bool done() const { return at_ >= bytes_.size(); }
  template <typename T>
  T value() {
    T v{};
    std::memcpy(&v, take(sizeof(T)), sizeof(T));
    return v;
  }
  std::string text() {
    const auto size = value<std::uint32_t>();
    return std::string(take(size), size);
  }
  template <typename T>
  std::vector<T> list() {
    std::vector<T> values(value<std::uint32_t>());
    for (T& v : values) v = value<T>();
    return values;
  }
  HostTensor tensor() {
    if (value<std::uint8_t>() == 0) return {};
    const auto dtype = static_cast<DType>(value<std::uint8_t>());
    const auto dims = list<std::int64_t>();
    HostTensor made(dtype, Shape(dims));
    const auto bytes = value<std::uint64_t>();
    EXPECT_EQ(bytes, made.bytes());
    if (bytes > 0) std::memcpy(made.data(), take(bytes), std::min<std::uint64_t>(bytes, made.bytes()));
    return made;
  }

 private:
  const char* take(std::uint64_t bytes) {
    if (bytes > bytes_.size() - at_) std::abort();
    at_ += bytes;
    return bytes_.data() + at_ - bytes;
  }
  std::vector<char> bytes_;
  std::uint64_t at_ = 0;
};

struct Case {
  std::string name, domain, op;
  std::int32_t version = 0;
  plan::Plan plan;
  std::vector<plan::Attribute> attributes;
  std::vector<HostTensor> inputs, outputs;
};

inline Case read_case(Reader& in) {
  Case c;
  c.name = in.text();
  c.domain = in.text();
  c.op = in.text();
  c.version = in.value<std::int32_t>();
  const auto attributes = in.value<std::uint32_t>();
  for (std::uint32_t i = 0; i < attributes; ++i) {
    plan::Attribute a;
    a.name = in.text();
    switch (in.value<char>()) {
      case 'i':
        a.value = in.value<std::int64_t>();
        break;
      case 'f':
        a.value = in.value<float>();
        break;
      case 's':
        a.value = in.text();
        break;
      case 'I':
        a.value = in.list<std::int64_t>();
        break;
      case 'F':
        a.value = in.list<float>();
        break;
      case 'S': {
        std::vector<std::string> texts(in.value<std::uint32_t>());
        for (std::string& text : texts) text = in.text();
        a.value = texts;
        break;
      }
      default: {
        const HostTensor t = in.tensor();
        plan::Constant constant;
        constant.dtype = t.dtype();
        constant.shape = t.shape();
        constant.data.assign(t.data(), t.data() + t.bytes());
        a.value = plan::TensorRef{static_cast<std::uint32_t>(c.plan.constants.size())};
        c.plan.constants.push_back(std::move(constant));
      }
    }
    c.attributes.push_back(std::move(a));
  }
  c.inputs.resize(in.value<std::uint32_t>());
  for (HostTensor& t : c.inputs) t = in.tensor();
  c.outputs.resize(in.value<std::uint32_t>());
  for (HostTensor& t : c.outputs) t = in.tensor();
  return c;
}

inline double element(const HostTensor& t, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  switch (t.dtype()) {
    case DType::f32:
      return t.as<float>()[at];
    case DType::f64:
      return t.as<double>()[at];
    case DType::f16:
      return f16_to_f32(t.as<std::uint16_t>()[at]);
    case DType::bf16:
      return bf16_to_f32(t.as<std::uint16_t>()[at]);
    case DType::i8:
      return t.as<std::int8_t>()[at];
    case DType::u8:
    case DType::boolean:
      return t.as<std::uint8_t>()[at];
    case DType::i16:
      return t.as<std::int16_t>()[at];
    case DType::u16:
      return t.as<std::uint16_t>()[at];
    case DType::i32:
      return t.as<std::int32_t>()[at];
    case DType::u32:
      return t.as<std::uint32_t>()[at];
    case DType::i64:
      return static_cast<double>(t.as<std::int64_t>()[at]);
    case DType::u64:
      return static_cast<double>(t.as<std::uint64_t>()[at]);
    default:
      return 0;
  }
}

}  // namespace forebay::test
