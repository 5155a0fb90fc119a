// Runs passes on one or more contexts of an engine and collects times, bytes and outputs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "forebay/engine.h"
#include "input_maker.h"

namespace forebay::tools {

// When something may be measured beside the passes, with none running.
// first: before the first warm-up pass; warm: behind it; measured: before the first that is measured; between: two of those, of one context;
// end: behind the last.
enum class Moment : std::uint8_t { first, warm, measured, between, end };

struct RunRequest {
  int iterations = 1, contexts = 1, warm_up = 0;
  bool fill_host_cache = false;  // warm up until it holds what was chosen for it, or grows no more
  std::function<Status(Moment, const PassProfile& last)> beside;  // what it takes is in no figure; `last`: of context 0
  bool stateful = false;  // bind the plan's state pairs
  bool profile = false;   // times per node of the last pass of context 0
  DebugCallback debug;    // context 0 only
  std::vector<std::string> debug_names;
};
struct RunOutcome {
  std::vector<double> pass_ms;                                                   // all contexts, warm-up left out
  std::uint64_t disk_bytes = 0, link_bytes = 0, gathered_bytes = 0, stalls = 0;  // sums over those passes
  double wall_ms = 0, cpu_ms = 0;                                                // of those passes; the processor time of the whole process
  double first_pass_ms = 0;                                                      // of context 0's first warm-up
  std::uint64_t first_disk_bytes = 0;
  std::vector<NamedTensor> outputs;  // of context 0's last pass
  PassProfile last;
  MemoryReport memory;  // while the contexts were open: their state and activations are part of every size
};
// cancelled on SIGINT, between passes. Contexts get the same inputs; if their outputs differ that is Code::internal.
Result<RunOutcome> run_passes(Engine& engine, const std::vector<NamedTensor>& inputs, const RunRequest& request);

// Calls `once` until the host cache holds what was chosen for it, or grows no more.
Status fill_host_cache(const Engine& engine, const std::function<Status()>& once);

// A file name for a value: what is not a letter, digit, '.', '-' or '_' becomes '_'.
std::string value_file_name(const std::string& name);
bool same_bytes(const HostTensor& a, const HostTensor& b);

}  // namespace forebay::tools
