// ONNX model to plan structure. Reads no payload but shape constants (refit all), or each payload once for its digest (identical).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "forebay/logger.h"
#include "onnx/onnx_model.h"
#include "plan/plan_data.h"
#include "runtime/thread_pool.h"

namespace forebay::builder {

struct Options {
  plan::RefitMode refit = plan::RefitMode::all;
  std::string device = "cpu";
  std::uint64_t slab_bytes = 0;  // 0: auto
  std::vector<plan::DimRange> ranges;  // by named dimension, from --min/opt/max-shapes (shape_ranges.h turns input shapes into them)
  std::map<std::string, std::vector<std::vector<std::int64_t>>> input_shapes;  // min, opt, max per input as the user gave them
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> bounds;  // of tensors whose shape depends on data, by name
  std::vector<std::string> inputs, outputs;  // cut the graph; empty: as in the model
  bool fuse = true;
  bool channels_last = false;  // pass_nhwc too
  std::vector<std::pair<std::string, std::string>> state_pairs;  // output, input; empty: present.* / past_key_values.* are found by name
  std::function<bool(const char* stage, std::uint64_t done, std::uint64_t total)> progress;
};

struct Summary {  // for the before/after table
  std::size_t model_nodes = 0, plan_nodes = 0, fused_nodes = 0, folded_nodes = 0, removed_nodes = 0;
  std::uint64_t model_weight_bytes = 0, kept_bytes = 0;
};

struct Output {
  plan::Plan plan;  // stripped: no embedded weights
  // The model's own tensors by the names of plan.sources, so that `build` without --strip can embed them.
  std::vector<SourceTensor> sources;
  Summary summary;
};

// unsupported with every unsupported node as a Problem (node, op, reason, function stack in the message), invalid_model, ...
Result<Output> build(onnx::Model model, const Options& options, ThreadPool& pool, Logger& logger);
// The same analysis without passes: empty when everything is supported.
std::vector<Problem> check(const onnx::Model& model);

}  // namespace forebay::builder
