// One case of the ONNX backend suite: found, read, built, run, compared.
#pragma once

#include <string>
#include <vector>

#include "forebay/status.h"

namespace forebay::tools {

struct ConformanceCase {
  std::string name;
  std::string model;                   // path of the .onnx file
  std::vector<std::string> data_sets;  // folders with input_N.pb and output_N.pb
  std::string flat_output;             // light form: NAME_output_0.pb, the input is arange(n)/n
};
enum class CaseStatus : unsigned char { passed, wrong, unsupported, skipped };
struct CaseResult {
  CaseStatus status = CaseStatus::wrong;
  std::string reason;
};
const char* case_status_name(CaseStatus status);

// A case folder, a folder of case folders, or a folder of light models. not_found when it is none of them.
Result<std::vector<ConformanceCase>> find_cases(const std::string& folder);
struct CaseOptions {
  std::string device = "cpu";
  int threads = 0;
  std::string work_folder;  // for the plan
  int timeout_seconds = 300;
};
CaseResult run_case(const ConformanceCase& test, const CaseOptions& options);

}  // namespace forebay::tools
