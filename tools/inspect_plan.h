// The plan part of forebay inspect: header and sections (also of plans that are too new), weights, recipes, slabs, kernels, kept constants.
#pragma once

#include <string>

#include "session.h"

namespace forebay::tools {

Status inspect_plan(Session& session, const std::string& path);

}  // namespace forebay::tools
