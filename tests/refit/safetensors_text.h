// Writes safetensors files for tests, valid ones from tensors and others from any header text.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "forebay/types.h"

namespace forebay::test {

inline std::string safetensors_file(const std::string& header, const std::string& body) {
  std::string file(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + body;
}

inline std::string safetensors_word(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::f64: return "F64";
    case DType::i64: return "I64";
    case DType::i32: return "I32";
    case DType::u8: return "U8";
    case DType::i8: return "I8";
    case DType::boolean: return "BOOL";
    case DType::f8e4m3fn: return "F8_E4M3";
    case DType::f4e2m1: return "F4";
    default: return "?";
  }
}

inline std::string safetensors_entry(const std::string& name, const std::string& dtype, const std::string& shape,
                                     std::uint64_t begin, std::uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" + std::to_string(begin) + "," +
         std::to_string(end) + "]}";
}

using NamedTensors = std::vector<std::pair<std::string, const HostTensor*>>;

// In the given order; the header is padded with blanks to a multiple of `pad`.
inline std::string safetensors_bytes(const NamedTensors& tensors, std::size_t pad = 8) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", body;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t begin = body.size();
    body.append(reinterpret_cast<const char*>(tensor->data()), static_cast<std::size_t>(tensor->bytes()));
    header += "," + safetensors_entry(name, safetensors_word(tensor->dtype()), tensor->shape().to_string(), begin, body.size());
  }
  header += "}";
  while ((8 + header.size()) % pad != 0) header += ' ';
  return safetensors_file(header, body);
}

}  // namespace forebay::test
