// Inputs of a plan: from .npy files, else made from a seed.
//
// Made values depend on (seed, name, index) alone: floats are uniform in [-1, 1); u8 uniform in [0, 256); other integers and bools are 0 or 1, so
// that token ids are below any vocabulary and indices stay in range. Unknown dimensions are 1 unless --shapes, a file, a named dimension
// or the usual shape given at build says otherwise; the dimension of a state input that grows from pass to pass (its pair's output names it differently) is 0.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "forebay/plan.h"
#include "plan/plan_data.h"
#include "session.h"

namespace forebay::tools {

struct NamedTensor {
  std::string name;
  HostTensor tensor;
};
struct InputRequest {
  std::map<std::string, std::string> files;                 // name -> .npy
  std::map<std::string, std::vector<std::int64_t>> shapes;  // name -> shape
  std::uint64_t seed = 0;
};
Result<InputRequest> input_request(const Session& session);
Result<std::vector<NamedTensor>> make_inputs(const Plan& plan, const InputRequest& request);
// The shapes alone, also of a plan that is no file (yet).
Result<std::vector<std::pair<std::string, Shape>>> input_shapes(const plan::Plan& plan, const InputRequest& request);
void fill_from_seed(HostTensor& tensor, std::uint64_t seed, const std::string& name);

}  // namespace forebay::tools
