#include "builder/node_key.h"

namespace forebay::builder {
namespace {

void append_attribute(std::string& key, const Ir& ir, const plan::Attribute& attribute) {
  append_text(key, attribute.name);
  key += static_cast<char>('a' + attribute.value.index());
  std::visit(
      [&](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) {
          append_text(key, value);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          for (const std::string& text : value) append_text(key, text);
        } else if constexpr (std::is_same_v<T, std::vector<std::int64_t>> || std::is_same_v<T, std::vector<float>>) {
          append_bytes(key, value.data(), value.size() * sizeof(value[0]));
        } else if constexpr (std::is_same_v<T, plan::TensorRef>) {
          const plan::Constant& tensor = ir.attributes.constants[value.constant];
          append_text(key, tensor.shape.to_string());
          key += static_cast<char>(tensor.dtype);
          append_bytes(key, tensor.data.data(), tensor.data.size());
        } else {
          append_bytes(key, &value, sizeof value);
        }
      },
      attribute.value);
}

}  // namespace

void append_bytes(std::string& key, const void* data, std::size_t bytes) {
  const std::uint64_t length = bytes;
  key.append(reinterpret_cast<const char*>(&length), sizeof length);
  if (bytes != 0) key.append(static_cast<const char*>(data), bytes);
}

void append_operation(std::string& key, const Ir& ir, const plan::Node& node) {
  append_text(key, node.domain);
  append_text(key, node.op);
  append_bytes(key, &node.version, sizeof node.version);
  for (const plan::Attribute& attribute : node.attributes) append_attribute(key, ir, attribute);
}

void append_tensor(std::string& key, const HostTensor& tensor) {
  append_text(key, tensor.shape().to_string());
  key += static_cast<char>(tensor.dtype());
  append_bytes(key, tensor.data(), static_cast<std::size_t>(tensor.bytes()));
}

}  // namespace forebay::builder
