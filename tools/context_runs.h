// Runs passes on one or more contexts of an engine and collects times, bytes and outputs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "forebay/engine.h"
#include "input_maker.h"

namespace forebay::tools {

struct RunRequest {
  int iterations = 1, contexts = 1, warm_up = 0;
  bool stateful = false;   // bind the plan's state pairs
  bool profile = false;    // times per node of the last pass of context 0
  DebugCallback debug;     // context 0 only
  std::vector<std::string> debug_names;
};
struct RunOutcome {
  std::vector<double> pass_ms;              // all contexts, warm-up left out
  std::uint64_t disk_bytes = 0, link_bytes = 0, gathered_bytes = 0, stalls = 0;  // sums over those passes
  double wall_ms = 0;
  double host_cores = 0;                    // processor time of this program over wall time, while those passes ran
  std::vector<NamedTensor> outputs;         // of context 0's last pass
  PassProfile last;
  MemoryReport memory;                      // while the contexts were open: their state and activations are part of every size
};
// cancelled on SIGINT, between passes. Contexts get the same inputs; if their outputs differ that is Code::internal.
Result<RunOutcome> run_passes(Engine& engine, const std::vector<NamedTensor>& inputs, const RunRequest& request);

// A file name for a value: what is not a letter, digit, '.', '-' or '_' becomes '_'.
std::string value_file_name(const std::string& name);
bool same_bytes(const HostTensor& a, const HostTensor& b);

}  // namespace forebay::tools
