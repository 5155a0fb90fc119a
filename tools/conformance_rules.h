// What the conformance runner leaves out by name, and where it allows more than the default tolerance. Each entry has its reason.
#pragma once

#include <string>
#include <string_view>

#include "onnx/onnx_model.h"

namespace forebay::tools {

inline constexpr double kConformanceRtol = 1e-3, kConformanceAtol = 1e-7;  // the suite's own

struct Tolerance {
  double atol = kConformanceAtol, rtol = kConformanceRtol;
  std::string_view reason;
};
Tolerance conformance_tolerance(std::string_view case_name);
// Why the case is out of scope; empty: it is run. Decided by its name, its operators and the types of its inputs and outputs, never by a result.
std::string conformance_skip(std::string_view case_name, const onnx::Model& model);

}  // namespace forebay::tools
