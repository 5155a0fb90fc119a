// "NAME=1x3x224x224" (or NAME:1x3x224x224, as trtexec writes it) and "NAME=FILE".
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "forebay/builder.h"
#include "forebay/status.h"

namespace forebay::tools {

// Splits at the first '=', else at the last ':'.
Result<std::pair<std::string, std::string>> split_assignment(const std::string& text, const std::string& option);
Result<std::map<std::string, std::vector<std::int64_t>>> parse_shapes(const std::vector<std::string>& values, const std::string& option);
// Joins --min/opt/max-shapes per input: what is not given is taken from a neighbour. Ranks and order are checked.
Result<std::vector<ShapeRange>> join_shape_ranges(const std::vector<std::string>& min, const std::vector<std::string>& opt,
                                                  const std::vector<std::string>& max);

}  // namespace forebay::tools
