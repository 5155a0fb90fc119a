// A pass's profile as files: JSON per node, and a Chrome trace.
#pragma once

#include <string>

#include "forebay/engine.h"

namespace forebay::tools {

Status write_profile(const std::string& path, const PassProfile& profile);
// Lanes "compute" and "wait for weights", in execution order. Nodes' times are known, their starts are summed up from them.
Status write_trace(const std::string& path, const PassProfile& profile);
Status write_text_file(const std::string& path, const std::string& text);

}  // namespace forebay::tools
