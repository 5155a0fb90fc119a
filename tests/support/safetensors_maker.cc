#include "support/safetensors_maker.h"

#include <cstring>

namespace forebay::test {
namespace {

std::string safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::f64: return "F64";
    case DType::i8: return "I8";
    case DType::i16: return "I16";
    case DType::i32: return "I32";
    case DType::i64: return "I64";
    case DType::u8: return "U8";
    case DType::u16: return "U16";
    case DType::u32: return "U32";
    case DType::u64: return "U64";
    case DType::boolean: return "BOOL";
    case DType::f8e4m3fn: return "F8_E4M3";
    case DType::f8e5m2: return "F8_E5M2";
    default: return "?";
  }
}

}  // namespace

std::string make_safetensors(const std::vector<NamedTensor>& tensors) {
  std::string header = "{", body;
  for (const NamedTensor& t : tensors) {
    const std::uint64_t bytes = dtype_bytes(t.tensor.dtype, t.tensor.shape.elements()).value_or(0);
    if (header.size() > 1) header += ",";
    std::string name;
    for (const char c : t.name) {
      if (c == '"' || c == '\\') name += '\\';
      name += c;
    }
    header += "\"" + name + "\":{\"dtype\":\"" + safetensors_dtype(t.tensor.dtype) + "\",\"shape\":" + t.tensor.shape.to_string() + ",\"data_offsets\":[" +
              std::to_string(body.size()) + "," + std::to_string(body.size() + bytes) + "]}";
    if (bytes > 0) body.append(reinterpret_cast<const char*>(t.tensor.data), bytes);
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + body;
}

}  // namespace forebay::test
