// Builder: an ONNX file to a plan file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "forebay/logger.h"
#include "forebay/status.h"

namespace forebay {

enum class Refit : std::uint8_t {
  all,        // any weights of the same names, dtypes and shapes
  identical,  // the build's weights only, proved by SHA-256
  none,       // never again; excludes strip
};

struct ShapeRange {
  std::string input;
  std::vector<std::int64_t> min, opt, max;  // same rank
};

// Called from the building thread; return false to cancel (Code::cancelled, nothing is left half-written).
using ProgressFunction = std::function<bool(const char* stage, std::uint64_t done_bytes, std::uint64_t total_bytes)>;

struct BuildOptions {
  bool strip = false;           // leave the weights out
  Refit refit = Refit::all;
  // "cpu", or a kind whose kernels are chosen too ("cuda"): the plan then holds choices for both. Where the device is there they are timed,
  // else heuristics choose when the plan is loaded, and the log says so.
  std::string device = "cpu";
  std::uint64_t build_budget_bytes = 1ull << 30;  // device memory that timing may use; what needs more is not timed
  std::string timing_cache;                       // a file of kernel times, read and added to; empty: none
  std::vector<std::string> exclude_kernels;       // ids, or their last words ("cublaslt"): never used by this plan, on devices but the CPU
  std::uint64_t slab_bytes = 0;  // 0: auto
  std::vector<ShapeRange> shapes;
  // Largest shapes of tensors whose shape depends on data (by name): memory is reserved for them, a pass that exceeds one is refused. One
  // number stands for every dimension that is not known.
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> bounds;
  std::vector<std::string> inputs, outputs;  // cut the graph at these values; empty: the model's own
  std::vector<std::pair<std::string, std::string>> state_pairs;  // (output, input); empty: found by name (present.*/past_key_values.*)
  bool fuse = true;
  int threads = 0;               // 0: all
  std::string compatible_with;   // "1.0": a plan that older readers open; empty: the newest
  Logger* logger = nullptr;      // must outlive the call
  ProgressFunction progress;
};

struct BuildReport {
  std::uint64_t plan_bytes = 0, stripped_bytes = 0, model_weight_bytes = 0, kept_bytes = 0;
  std::uint64_t model_nodes = 0, plan_nodes = 0, fused_nodes = 0, folded_nodes = 0, removed_nodes = 0;
  // Of the device's kernels: problems that had a choice, ways timed now, known from the cache, and failed; seconds that choosing took.
  std::uint64_t kernel_problems = 0, kernels_timed = 0, kernels_cached = 0, kernels_failed = 0, host_nodes = 0;
  double choice_seconds = 0;
  std::string kernels_by;  // "timed on NVIDIA H200; ...", "heuristic"; empty: for the CPU alone
};

// Builds `model_path` into `plan_path` (written durably: the old file or the whole new one). Blocks. Thread-safe.
// unsupported: problems() has every unsupported node. Host memory stays under 512 MiB whatever the model's size.
Result<BuildReport> build(const std::string& model_path, const std::string& plan_path, const BuildOptions& options);

// Every unsupported node of a model at once; empty when it can be built. Reads no payload.
Result<std::vector<Problem>> check_model(const std::string& model_path);

}  // namespace forebay
