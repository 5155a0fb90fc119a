// The engine below the public interface: arena, contexts, passes. Joins a compiled plan with a device and a WeightSource.
//
// Invariants: committed bytes never exceed the layout's budget; layouts change only with no pass running (WeightSource::reconfigure); a
// context's state is written only after its whole pass has succeeded; every pass sees one generation.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "forebay/budget.h"
#include "forebay/engine.h"
#include "forebay/logger.h"
#include "runtime/arena_layout.h"
#include "runtime/caller_stream.h"
#include "runtime/compiled_plan.h"
#include "runtime/device.h"
#include "runtime/device_tools.h"
#include "runtime/gathered_tables.h"
#include "runtime/prepared_pass.h"
#include "runtime/state_room.h"
#include "runtime/thread_pool.h"
#include "runtime/transfer_block.h"
#include "runtime/weight_source.h"

namespace forebay {

class ContextCore;

// Completion of a control-path task. Thread-safe.
class Completion {
 public:
  void finish(Status status);
  bool done() const;
  Status wait() const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool done_ = false;
  Status status_;
};

struct EngineParts {
  std::unique_ptr<Device> device;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<WeightSource> source;  // uses device and arena
  std::shared_ptr<const CompiledPlan> compiled;
  std::unique_ptr<ThreadPool> pool;
  Budget budget;
  std::uint64_t host_cache_bytes = 0;  // that `source` may keep, page-locked where there is a link
  std::uint32_t passes = 1;
  bool user_memory = false;
  bool debug_sync = false;
  Logger* logger = nullptr;
};

// Address range to reserve: everything resident plus room for any activations, so that shape changes never move it.
std::uint64_t arena_reserve_bytes(const plan::Plan& plan);

class EngineCore {  // thread-safe
 public:
  static Result<std::unique_ptr<EngineCore>> create(EngineParts parts);
  ~EngineCore();

  Result<std::shared_ptr<Completion>> set_budget(const Budget& budget);
  MemoryReport memory() const;
  // The layout is made to fit first, then the generation is published.
  Status publish(plan::GenerationPtr generation);
  Result<std::unique_ptr<ContextCore>> create_context();
  Result<Engine::Sizes> sizes_for_shapes(const std::vector<std::pair<std::string, Shape>>& inputs) const;

  const CompiledPlan& compiled() const { return *parts_.compiled; }
  std::shared_ptr<const CompiledPlan> share_compiled() const { return parts_.compiled; }
  const plan::Plan& plan() const { return *parts_.compiled->plan; }
  Device& device() { return *parts_.device; }
  Arena& arena() { return *parts_.arena; }
  WeightSource& source() { return *parts_.source; }
  const WeightSource& source() const { return *parts_.source; }
  ThreadPool& pool() const { return *parts_.pool; }
  std::string numerics_id() const;

 private:
  friend class ContextCore;
  friend class PassRunner;
  struct Slot {
    std::unique_ptr<Queue> queue;
    std::unique_ptr<Timeline> timeline;
    std::uint64_t value = 0;
    std::uint32_t index = 0;
    bool busy = false;
    bool captured = false;  // of a graph of the caller's: busy until its context goes
  };

  explicit EngineCore(EngineParts parts) : parts_(std::move(parts)) {}
  Status start();
  // Activations keep the room that a closed context leaves (`idle_activation_bytes_`) until it is wanted for something else.
  ArenaDemand demand_locked(bool with_idle = true) const;
  BudgetBytes sizes_locked(bool with_idle = true) const { return budget_bytes(demand_locked(with_idle)); }
  std::uint64_t resolve_locked(const Budget& budget, bool with_idle = true) const;
  Result<ArenaLayout> arena_locked(const Budget& budget, bool with_idle) const;
  Status apply_locked(const ArenaLayout& layout);
  Status relayout_locked();
  Status commit_layout(const ArenaLayout& to);
  // The context needs these bytes from now on (and these of each of its states); refused: its needs are as before.
  using StateNeed = StateRoom;
  Status require(ContextCore& context, std::uint64_t activation_bytes, const std::vector<StateNeed>& needs);
  // Moves states of all contexts around `change` (commit and uncommit), with no pass running.
  Status move_states(const std::function<Status()>& change);
  void forget(ContextCore& context);
  Result<Slot*> take_slot();  // failed_precondition when captured passes hold all of them
  void give_slot(Slot& slot);
  void hold(Slot& slot);      // one that was taken: a captured pass's until it is given back
  Status movable() const;     // refused while a captured pass holds addresses
  // What the source has done since this was last asked, so that nothing is lost between passes: what was read ahead is the next one's.
  StreamCounters take_counters();
  void control_loop();

  EngineParts parts_;
  mutable std::mutex layout_mutex_;        // layout, budget, contexts_; held while reconfiguring
  Budget budget_;
  GatheredTables tables_{*parts_.compiled};
  ArenaLayout layout_;                     // written with no pass running; read by passes under their lease
  bool laid_out_ = false;
  std::uint64_t free_at_start_ = 0;        // what `auto` counts on
  std::vector<ContextCore*> contexts_;
  std::uint64_t idle_activation_bytes_ = 0;
  std::uint64_t locked_most_ = 0;  // of the host cache, at the smallest budget so far: it gives none back
  SourceLimits published_limits_;

  std::mutex counters_mutex_;
  StreamCounters counted_;  // told by take_counters so far

  std::mutex slot_mutex_;
  std::condition_variable slot_free_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::uint64_t slot_ticket_ = 0, slot_serving_ = 0;
  std::atomic<std::uint32_t> captures_{0};  // slots that are captured

  std::mutex control_mutex_;
  std::condition_variable control_wake_;
  std::deque<std::function<void()>> control_tasks_;
  bool stopping_ = false;
  std::thread control_;
};

// One caller's inputs, outputs, state and prepared pass. One thread at a time.
class ContextCore {
 public:
  ~ContextCore();
  Status set_input(std::string_view name, ConstTensorView tensor);
  Status bind_input(std::string_view name, ConstTensorView tensor);
  Status bind_output(std::string_view name, TensorView tensor);
  Status execute();
  // context_enqueue.cc
  Status enqueue(void* stream, void* inputs_consumed);
  Status wait();          // for all that was enqueued; the first failure since the last wait
  Status wait_inputs();   // until what was enqueued has read its inputs
  Result<const HostTensor*> output(std::string_view name);
  Status bind_state(std::string_view output, std::string_view input);
  Status reset_state();
  Status set_debug(DebugCallback callback, const std::vector<std::string>& names);
  void set_profiling(bool on) {
    static_cast<void>(settle());
    profiling_ = on;
  }
  const PassProfile& profile() {
    static_cast<void>(settle());
    return profile_;
  }

 private:
  friend class EngineCore;
  friend class PassRunner;
  struct State {
    std::uint32_t output = 0, input = 0;  // places in the main graph's lists
    Shape shape;                          // of what is held now
    std::int64_t pitch = 0;               // elements between its planes, as in ValuePlace
    bool filled = false;                  // the arena holds it; else the seed, or zeros
    HostTensor seed;                      // first value, as set by set_input
    EngineCore::StateNeed need;           // room in the state part
    std::uint64_t offset = 0;             // of what is held, from the arena's base, under the layout in force
    std::uint64_t spare = 0;              // where the next value is made; passes swap them
    bool fetched = true;                  // the host's copy of the output is the last pass's
  };

  // One pass as it was asked for. What it points to lives until its inputs are consumed, or it has ended.
  struct Call {
    std::vector<ConstTensorView> inputs;  // states aside
    std::vector<TensorView> outputs;      // the caller's memory; null: the context's own
    std::uint64_t number = 0;             // on consumed_; 0: not enqueued
    PassTie* tie = nullptr;
    std::uint32_t ticket = 0;
  };
  struct Captured {
    EngineCore::Slot* slot = nullptr;
    std::unique_ptr<PassLease> lease;
    explicit operator bool() const { return lease != nullptr; }
  };

  explicit ContextCore(EngineCore& engine);
  Status prepare();
  void keep(std::unique_ptr<PreparedPass> pass);
  std::unique_ptr<PreparedPass> take_kept(const std::vector<std::pair<std::string, Shape>>& shapes);  // null: there is none
  // As far as its shapes can be told; null: they are the same. `usual`: of the inputs, where it differs from the pass's own.
  std::unique_ptr<PreparedPass> prepare_after(const PreparedPass& pass, std::span<const Shape> usual = {});
  Status run_call(Call& call);
  Status run_pass();
  Result<Call> next_call() const;  // of the inputs and outputs as they are now
  void load_ahead(CallerStreams& streams, Call& call);
  Status settle();                 // waits until nothing enqueued is left; refuses when the context's pass is captured
  void serve();
  Status capture(CallerStreams& streams, void* stream, void* inputs_consumed);
  Status check_capture() const;
  Result<Captured> hold_pass();
  void drop(Captured& held);
  // Shapes that depend on data are known: outputs take them; a state that has grown beyond its room is resource_exhausted.
  Status fit_results();
  // After a pass that needed more than was reserved. False: it did not.
  Result<bool> reserve_more();
  void shape_outputs(const PreparedPass& prepared);
  // pass_profile.cc
  Status start_clock();
  Status read_clock(std::int64_t begin_ns);
  std::vector<EngineCore::StateNeed> state_needs(const PreparedPass& prepared) const;
  bool is_state_output(std::size_t output) const;
  Status fetch_state(State& state);
  Status lay_out_states_again(const PreparedPass& prepared);
  std::vector<StateBinding> bindings() const;
  Result<std::vector<std::pair<std::string, Shape>>> shapes_now() const;
  Shape first_state_shape(const State& state) const;
  const State* state_of_input(std::size_t input) const;
  const plan::Plan& plan() const;
  DType input_dtype(std::size_t input) const;
  // Under the engine's layout mutex with no pass running: moves what the states hold to their new places.
  std::uint64_t wanted_state_bytes() const;
  std::vector<std::uint64_t> state_offsets(std::uint64_t base) const;

  EngineCore& engine_;
  std::vector<HostTensor> inputs_;
  std::vector<bool> input_set_;
  std::vector<HostTensor> outputs_;
  std::vector<ConstTensorView> bound_inputs_;  // the caller's memory in place of inputs_
  std::vector<TensorView> bound_outputs_;
  Call* call_ = nullptr;                       // of the pass that is being prepared or run
  std::unique_ptr<PreparedPass> prepared_, next_, after_, worn_;  // the last: what prepared_ was before
  std::vector<std::unique_ptr<PreparedPass>> spent_;              // guesses that were wrong, to be taken apart while the device works
  static constexpr std::size_t kKept = 4;
  std::vector<std::unique_ptr<PreparedPass>> kept_;               // whose shapes the caller asked for, the last first: they may come again
  std::vector<Shape> usual_;                                      // of the inputs, in the last pass that was foreseen
  bool foreseen_ = false;                                         // prepared_ was next_
  TransferBlock ends_;
  std::vector<PageLock> input_locks_, output_locks_;  // of inputs_ and outputs_
  std::vector<State> states_;
  std::uint64_t activation_bytes_ = 0;       // under the engine's layout mutex
  int growth_ = 0;                           // shape changes in a row that needed more: then some slack is asked for
  DebugCallback debug_;
  std::vector<bool> debug_values_;
  bool profiling_ = false;
  PassProfile profile_;
  PassClock clock_;
  std::unique_ptr<Stopwatch> watch_;  // of the device; made when first profiled

  // Enqueued passes: run one after the other by a thread of the context, which starts with the first.
  std::unique_ptr<PassTie> tie_;
  std::unique_ptr<Timeline> consumed_;  // number of the last call whose inputs have been read
  std::uint64_t enqueued_ = 0;
  std::deque<std::vector<Shape>> loaded_;  // inputs of enqueued calls for which libraries have been loaded, states apart
  std::mutex calls_mutex_;              // guards calls_, failure_ and stop_
  std::condition_variable calls_changed_;
  std::deque<Call> calls_;              // the first is running
  Status failure_;
  bool stop_ = false;
  Captured captured_;
  std::thread server_;
};

}  // namespace forebay
