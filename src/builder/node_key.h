// Byte strings that are equal exactly for equal things: for joining equal nodes and equal recipes.
#pragma once

#include <string>
#include <string_view>

#include "builder/graph_ir.h"

namespace forebay::builder {

void append_bytes(std::string& key, const void* data, std::size_t bytes);  // with its length
inline void append_text(std::string& key, std::string_view text) { append_bytes(key, text.data(), text.size()); }
// Domain, operator, version and attributes; tensors of attributes by contents.
void append_operation(std::string& key, const Ir& ir, const plan::Node& node);
// Dtype, shape and contents.
void append_tensor(std::string& key, const HostTensor& tensor);

}  // namespace forebay::builder
