// Engine: a plan with weights on a device under a budget. ExecutionContext: one caller's inputs, outputs and state.
//
// Engine is thread-safe. An ExecutionContext belongs to one thread at a time; contexts of one engine may run on several threads.
// Output bytes are the same at every budget, tier mix, codec and I/O engine for one numerics_id().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "forebay/budget.h"
#include "forebay/logger.h"
#include "forebay/plan.h"
#include "forebay/refitter.h"
#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay {

// Kernels are chosen again for the device at hand, by timing: for plans that were built without it. A new numerics_id.
struct Retiming {
  double seconds = 10;  // timing stops behind so many; what is not timed by then is chosen by heuristics
  std::uint64_t budget_bytes = 1ull << 30;
  std::string timing_cache;                           // a file of kernel times, read and added to; empty: none
  std::vector<std::pair<std::string, Shape>> shapes;  // of the inputs, in the plan's order; empty: those the plan declares
};

struct EngineOptions {
  std::string device = "cpu";            // "cpu", "cuda"
  std::optional<Retiming> retime;        // not on the CPU
  Budget budget;
  std::optional<std::uint64_t> host_cache_bytes;  // default: what recipes need and no more
  std::string io = "auto";               // "auto", "uring", "threads"
  std::string direct = "auto";           // "auto", "on", "off"
  int threads = 0;                       // compute threads; 0: all. Part of numerics_id
  int concurrent_passes = 1;             // passes that may run at once when nothing streams
  bool debug_sync = false;               // waits for the device after every kernel: a failure names its node, shapes and kernel
  // The caller's memory as the arena: at least the minimum budget, kept alive and unmoved while the engine lives. The budget is then at
  // most its size. A null pointer with a size, or too little, is invalid_argument.
  std::optional<std::span<std::byte>> arena_memory;
  Logger* logger = nullptr;              // must outlive the engine
};

struct PassProfile {
  double milliseconds = 0;
  std::uint64_t disk_bytes = 0, link_bytes = 0, gathered_bytes = 0;
  std::uint64_t stalls = 0;              // substeps whose weights were not there yet
  std::uint64_t host_waits = 0;          // branch conditions, trip counts, data-dependent shapes
  std::uint64_t replayed_launches = 0;   // kernels that came as a part of a recording
  struct Op {
    std::string node, op, kernel;
    std::uint32_t calls = 0;             // slabs
    double compute_ms = 0, wait_ms = 0;  // wait: for weights
    std::uint64_t weight_bytes = 0;
  };
  // What happened when, on one clock that starts with the pass: reads, decoding, copies to the device, kernels. Loads that were begun before the
  // pass, or are for the next one, are among them.
  struct Span {
    enum class Lane : std::uint8_t { disk, decode, link, compute };
    Lane lane = Lane::compute;
    std::string name;                    // of the weight, or of the node
    double begin_ms = 0, end_ms = 0;
    std::uint64_t bytes = 0;
  };
  std::vector<Op> ops;                   // filled when profiling is on
  std::vector<Span> spans;               // also
};

// A tensor seen while a pass runs; `data` is valid during the call only. `iteration` counts Loop/Scan iterations, innermost.
struct DebugTensor {
  std::string_view name;
  ConstTensorView tensor;
  std::int64_t iteration = 0;
};
using DebugCallback = std::function<void(const DebugTensor&)>;

// Completes when the committed bytes are at or below the new budget, at most one pass later. Copyable; thread-safe.
class BudgetChange {
 public:
  struct State;
  bool done() const;
  Status wait() const;

 private:
  friend class Engine;
  std::shared_ptr<State> state_;
};

// A stream and an event of the device's own interface, as it hands them out: cudaStream_t and cudaEvent_t on "cuda". The CPU device has none.
using StreamHandle = void*;
using EventHandle = void*;

class ExecutionContext;

class Engine {
 public:
  struct State;
  // With no sources the plan's embedded weights are used; a stripped plan then is weight_mismatch. resource_exhausted names the minimum.
  static Result<Engine> create(const Plan& plan, const WeightSources& sources, const EngineOptions& options);
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  // Checked at once; when refused the old budget stays. Applied between passes; may be called while passes run.
  Result<BudgetChange> set_budget(const Budget& budget);
  MemoryReport memory() const;

  // Validates and stages everything, then publishes: the next pass to start takes the new weights, running passes keep the old ones. On any
  // failure the old weights serve on, bit for bit. Returns the new generation's number.
  Result<std::uint64_t> refit(const WeightSources& sources, RefitReport* report);
  std::uint64_t generation() const;
  std::string integrity() const;  // "digests" or "first-read"

  // A context is an event for the budget: its state and the activations of its shapes must fit, else resource_exhausted.
  Result<ExecutionContext> create_context();
  // Bytes of activations and workspace of one pass at these input shapes, and of the state; changes nothing.
  struct Sizes {
    std::uint64_t activation_bytes = 0, state_bytes = 0, min_budget = 0, full_budget = 0;
  };
  Result<Sizes> sizes_for_shapes(const std::vector<std::pair<std::string, Shape>>& inputs) const;

  const Plan& plan() const;
  std::string numerics_id() const;
  std::string device_name() const;
  struct IoInfo {
    std::string engine, why;
    bool direct = false, registered = false;
    std::uint64_t queue_depth = 0;  // reads in flight at most
    std::uint64_t page_cache_bytes = 0;  // of those read from files so far, taken from the page cache
    std::uint64_t loaded_bytes = 0;      // while the resident part was filled for the first time,
    double load_ms = 0;                  // from its first read to its last byte in place
    std::uint64_t disk_bytes = 0;        // read from files so far
    double no_room_ms = 0;               // in passes, while the disk would have taken more reads: there was no place to read to yet
    std::uint64_t host_cache_bytes = 0, host_cache_wanted = 0;  // weights that the host cache holds, and those chosen for it
  };
  IoInfo io() const;

 private:
  friend class ExecutionContext;
  explicit Engine(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

class ExecutionContext {
 public:
  struct State;
  ~ExecutionContext();
  ExecutionContext(ExecutionContext&&) noexcept;
  ExecutionContext& operator=(ExecutionContext&&) noexcept;

  // Copies the tensor; its shape may differ from the last pass's. invalid_argument naming input, dtype, range or both conflicting dimensions.
  Status set_input(std::string_view name, ConstTensorView tensor);
  // The caller's memory, of the host or of the device, in place of a copy: passes read it where it lies, or write their output there. It must
  // stay until the pass has read it (see enqueue) or has ended; binding other memory afterwards is fine. An absent tensor unbinds.
  Status bind_input(std::string_view name, ConstTensorView tensor);
  Status bind_output(std::string_view name, TensorView tensor);
  // Runs one pass and waits. All inputs must be set (or bound as state). A failure leaves engine, weights and state as they were.
  Status execute();
  // The same without waiting, neither for weights nor for the device, whether weights stream or not. Passes of a context run in order.
  // The first of new shapes on a stream is prepared by the call itself, behind the passes under way: a decoder's for its first 8 shapes.
  // With a stream the pass begins after what the stream was given before, and what it is given later begins after the pass: no other
  // synchronisation is needed around device memory. `inputs_consumed`, when given, fires once inputs may be overwritten (until then set_input
  // waits). What goes wrong is told by wait(); the stream goes on, its outputs are then not written or incomplete.
  // Half as many streams wait at once as the process has hardware queues (README): one more is resource_exhausted until a pass has ended.
  // A stream that is being captured takes the pass into its graph: everything resident, inputs and outputs bound, no state, and a pass of these
  // shapes run before; else failed_precondition with the reason. Budget changes and refits are then refused until the context, which serves
  // that graph alone and must outlive it, is destroyed; other contexts need EngineOptions::concurrent_passes above 1.
  Status enqueue(StreamHandle stream = nullptr, EventHandle inputs_consumed = nullptr);
  Status wait();         // until nothing enqueued is left; the first failure since the last wait
  Status wait_inputs();  // until all that was enqueued has read its inputs
  // The last pass's output, copied. Waits for what is enqueued; failed_precondition when it is bound to the caller's memory.
  Result<HostTensor> output(std::string_view name) const;
  // After each pass `output` becomes the next pass's `input` without leaving the device. The first value is the input as set, or an empty
  // tensor when every unknown dimension may be 0.
  Status bind_state(std::string_view output, std::string_view input);
  Status reset_state();  // states start anew, empty or zeros; until the next pass they have no output

  // Called on every write of the named tensors (all when empty), Loop iterations too; null turns it off. Bits do not change.
  Status set_debug(DebugCallback callback, const std::vector<std::string>& names);
  void set_profiling(bool on);
  const PassProfile& profile() const;  // of the last pass

 private:
  friend class Engine;
  explicit ExecutionContext(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace forebay
