// Refitter: checks weights against a plan, packs them into shards, or embeds them. All or nothing; every problem at once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "forebay/builder.h"
#include "forebay/logger.h"
#include "forebay/plan.h"
#include "forebay/status.h"

namespace forebay {

// A tensor the caller holds in memory; borrowed until the call returns (Engine::refit and create copy what they keep).
struct MemoryWeight {
  std::string name;
  ConstTensorView tensor;
};

// Where weights come from. Paths: MODEL.onnx, *.safetensors, model.safetensors.index.json, a shard folder, or a folder holding one of them.
struct WeightSources {
  std::vector<std::string> paths;
  std::vector<MemoryWeight> tensors;
  std::string map_file;                    // renames: lines "plan_name = source_name [transpose]"
  bool strict = false;                     // extra tensors are refused
  bool finite = false;                     // non-finite values are refused
  std::vector<std::string> allow_inexact;  // weights whose casts may overflow or flush
  bool empty() const { return paths.empty() && tensors.empty(); }
};

struct RefitReport {
  std::vector<Problem> missing, extra, mismatched, warnings;
  std::uint64_t bytes_read = 0, bytes_written = 0;
};

struct PackReport {
  std::uint64_t raw_bytes = 0, stored_bytes = 0;
  std::map<std::string, std::uint64_t> codecs;  // chunks by codec
  RefitReport refit;
};

class Refitter {
 public:
  struct Options {
    int threads = 0;           // 0: all
    Logger* logger = nullptr;  // must outlive the refitter
    ProgressFunction progress;
  };
  Refitter(Plan plan, Options options);
  ~Refitter();
  Refitter(Refitter&&) noexcept;
  Refitter& operator=(Refitter&&) noexcept;

  // weight_mismatch holding every missing, extra (strict), mismatched tensor; `report` gets the lists also on success. Changes nothing.
  Status check(const WeightSources& sources, RefitReport* report);
  // Shards in execution order into `folder`. codec: "auto", "raw", "zstd".
  Result<PackReport> pack(const WeightSources& sources, const std::string& folder, const std::string& codec);
  // A plan with the weights inside, refittable again. Written durably; `plan_path` may be the plan's own file.
  Result<RefitReport> embed(const WeightSources& sources, const std::string& plan_path);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace forebay
