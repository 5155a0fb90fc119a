// A pass prepared for concrete input shapes: every shape, kernel, offset and call, so that running it allocates nothing.
// Belongs to one context; rebuilt when input shapes change. Values whose contents follow from shapes are computed here, on the host.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "forebay/engine.h"
#include "forebay/status.h"
#include "runtime/compiled_plan.h"
#include "runtime/op.h"
#include "runtime/stretch.h"
#include "runtime/thread_pool.h"
#include "runtime/transfer_block.h"

namespace forebay {

class Device;
class DynamicPass;
class DeviceTools;
class MergedKernel;
class Stopwatch;
struct PreparedGraph;
struct PassClock;
struct PreparedStep;

// A state of a context: its value before and after the pass, as places in the main graph's lists.
struct StateBinding {
  std::uint32_t output = 0, input = 0;
};

// Where a value lies during the pass.
struct ValuePlace {
  // What `offset` counts from: the activation part, or one of the two places of state number `state`.
  enum class Home : std::uint8_t { activations, state_now, state_next };
  Home home = Home::activations;
  std::uint32_t state = 0;

  DType dtype = DType::none;
  Shape shape;
  bool stored = false;        // in the activation part at `offset` (of `root`)
  bool packed = false;        // beside the other small inputs, or outputs, of the pass
  plan::ValueId root = plan::kNone;  // the value whose storage this is (views)
  std::uint64_t offset = 0;
  const HostTensor* host = nullptr;  // contents known on the host
  std::int64_t pitch = 0;     // of a state with room behind each plane (the last two axes): elements from one to the next; 0: dense
  std::int64_t planes() const { return shape.elements(0, shape.rank() - 2); }
};

// What a queue needs to run one call, or several merged into one launch; lives in the step, so that enqueueing allocates nothing.
struct Launch {
  Kernel* kernel = nullptr;
  KernelCall* call = nullptr;
  PreparedStep* step = nullptr;
  PassClock* clock = nullptr;
  std::uint32_t merged = 1;  // calls from `call` on
};
// How launches are looked at. Written by the queue's worker only while a pass runs.
struct PassClock {
  bool on = false;
  bool sync = false;             // wait after each launch
  DeviceTools* tools = nullptr;  // the device's, where it has some
  Stopwatch* watch = nullptr;    // tells of the device's work; null: kernels run on the host's clock
  struct Record {                // of launch i; with a watch its marks 2 i and 2 i + 1 tell the times
    PreparedStep* step = nullptr;
    std::int64_t begin_ns = 0, end_ns = 0;
  };
  std::vector<Record> records;
};

struct PreparedStep {
  const Step* step = nullptr;
  std::string name;                       // for errors, profile and debug callbacks
  std::unique_ptr<Kernel> kernel;
  MergedKernel* merged = nullptr;         // the same, where calls may share a launch
  std::uint64_t workspace_offset = 0, workspace_bytes = 0;
  // Operands of each call; weights are filled in when the pass is enqueued. call_inputs holds `calls` groups.
  std::vector<plan::ValueId> input_values, output_values;
  std::vector<ConstTensorView> call_inputs;
  std::vector<TensorView> outputs;
  std::uint32_t calls = 1;
  bool early = false;                     // rows of a table by indices that the caller gave: fetched before the first launch
  bool appends = false;                   // Concat that adds rows to a state where it lies: only what is new is copied
  std::int64_t append_planes = 0;         // Concat of a state and new rows: how many stretches of rows there are; 0: it is no such one
  std::vector<KernelCall> kernel_calls;   // one a call, spans into the above
  std::vector<Launch> launches;           // one a call
  std::vector<std::int64_t> rows;         // gather_rows: scratch for indices
  std::uint64_t row_room = 0;             // bytes of the rows, where the host does not address the arena
  std::vector<std::byte> row_bytes;       // where they lie on the host: from the first pass on, or what an earlier pass's step had
  std::unique_ptr<Kernel> table_kernel;   // gathers where the table is on the device (gathered_tables.h); null: rows come from the host
  std::unique_ptr<PageLock> row_lock;     // of row_bytes, from the first pass on
  // Control nodes. If: bodies are then and else; null where that branch cannot run at these shapes, and branch_errors says why.
  // Loop, Scan: one body; `carried` of its inputs are handed from iteration to iteration through staging (the step's workspace).
  std::vector<std::unique_ptr<PreparedGraph>> bodies;
  std::vector<Status> branch_errors;
  int known_branch = -1;                  // If with a condition known from shapes
  std::uint32_t carried = 0;
  std::int64_t trips = -1;                // known from shapes and constants, else read when the node runs
  std::vector<bool> reversed_inputs, reversed_outputs;  // Scan
};

struct PreparedGraph {
  std::vector<PreparedStep> steps;
  std::vector<plan::ValueId> outputs;     // of a body, to be copied to the control node's outputs
};

// How a pass leaves a state.
enum class StateResult : std::uint8_t {
  copied,    // from the activations to the state's other place, at the end
  computed,  // in the other place, from the start
  appended,  // in its own place, behind what is there
};

struct PreparedPass {
  std::shared_ptr<const CompiledPlan> compiled;
  std::vector<std::pair<std::string, Shape>> input_shapes;
  std::vector<ValuePlace> places;         // by value id
  std::vector<std::unique_ptr<HostTensor>> host_values;
  PreparedGraph main;
  std::uint64_t activation_bytes = 0;     // constants block included
  std::vector<StateResult> states;        // by binding
  struct Upload {
    plan::ValueId value = 0;
    std::uint64_t offset = 0;
  };
  std::vector<Upload> uploads;            // host-known values that kernels read: copied in at the start of each pass
  std::deque<Stretch> stretches;          // in the order of a pass, made as they are needed; on devices that record
  // Where one copy each way serves small inputs and outputs: [0, given_bytes) of the activation part are uploads and inputs, and
  // [made_offset, made_offset + made_bytes) outputs. 0: copied one by one.
  std::uint64_t given_bytes = 0, made_offset = 0, made_bytes = 0;
  std::string kernel_ids;                 // in order, for numerics_id
  // The host memory in which `before`, which runs no more, had its gathered rows: prompts need MiB of it, and to lock pages takes a while.
  void take_rows(PreparedPass& before);
  // Set where shapes depend on data: `main` is empty then, places are settled while the pass runs, activation_bytes is what is reserved.
  std::shared_ptr<DynamicPass> dynamic;
};

// invalid_argument for inputs that do not fit the plan (dtype, rank, fixed or shared dimensions, ranges), naming the input and both places of
// a conflict; invalid_model, unsupported naming the node. The kernels are `device`'s where it has them (null: the CPU's); it outlives the pass.
Result<std::unique_ptr<PreparedPass>> prepare_pass(std::shared_ptr<const CompiledPlan> compiled,
                                                   const std::vector<std::pair<std::string, Shape>>& inputs, ThreadPool& pool,
                                                   std::span<const StateBinding> states = {}, Device* device = nullptr);

// Checks shapes against the plan alone (ranks, fixed dims, shared names, ranges).
Status check_input_shapes(const plan::Plan& plan, const std::vector<std::pair<std::string, Shape>>& inputs);

}  // namespace forebay
