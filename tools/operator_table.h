// docs/operators.md, made from the operator registry.
#pragma once

#include <string>

namespace forebay::tools {

std::string operators_markdown();

}  // namespace forebay::tools
