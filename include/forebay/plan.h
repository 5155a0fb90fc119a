// Plan: an opened, validated plan file. Immutable; copies share it; thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay {

namespace plan {
struct Plan;
}

struct TensorInfo {
  std::string name;
  DType dtype = DType::none;
  std::vector<std::int64_t> dims;       // -1: not fixed
  std::vector<std::string> dim_names;   // "" when anonymous
};

struct WeightInfo {
  std::string name;
  DType dtype = DType::none;
  Shape shape;
  std::uint64_t bytes = 0;
  std::string recipe;                 // "identity", "Transpose(...)", ...
  std::vector<std::string> closure;   // source tensors it is made from
  std::string consumption;            // "by_output", ...
  std::uint32_t slabs = 0, uses = 0;
};

class Plan {
 public:
  // Reads and validates the structure. invalid_model, corruption, io_error, not_found with file and offset.
  static Result<Plan> load(const std::string& path);

  const std::string& path() const { return path_; }
  std::vector<TensorInfo> inputs() const;
  std::vector<TensorInfo> outputs() const;
  std::vector<WeightInfo> weights() const;
  std::vector<std::pair<std::string, std::string>> state_pairs() const;  // (output, input)
  bool stripped() const;
  std::uint64_t weight_bytes() const;
  std::string id() const;  // hex
  const plan::Plan& data() const { return *plan_; }  // internal view, for the tools; no stability promise
  std::shared_ptr<const plan::Plan> share() const { return plan_; }

 private:
  std::string path_;
  std::shared_ptr<const plan::Plan> plan_;
};

}  // namespace forebay
