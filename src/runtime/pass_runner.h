// Runs one prepared pass: enqueues copies, waits, kernel calls and signals; waits for the end. Allocates nothing (debug callbacks excepted).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "forebay/status.h"
#include "runtime/engine_core.h"

namespace forebay {

class PassRunner {
  using Slot = EngineCore::Slot;

 public:
  // `queue`: the slot's own.
  PassRunner(EngineCore& engine, ContextCore& context, Slot& slot, PassLease& lease, Queue& queue);
  // The whole pass, outputs copied to the host and states handed over. The lease is not ended here.
  Status run();
  // The pass given to a queue that captures; `inputs_read` is called in between.
  Status record(const std::function<Status()>& inputs_read);
  std::uint64_t host_waits() const { return host_waits_; }
  std::uint64_t replayed_launches() const;

 private:
  friend class DynamicPass;
  friend class Stretch;
  static constexpr std::size_t kMaxUses = 64;  // weights of one node
  struct DebugCall {
    PassRunner* runner = nullptr;
    plan::ValueId value = 0;
    std::int64_t iteration = 0;
  };
  struct GatherCall {
    PassRunner* runner = nullptr;
    PreparedStep* step = nullptr;
    const std::byte* table = nullptr;  // on the device
    bool checked = false;              // none of the indices is outside
  };
  static Status run_launch(void* argument);
  static Status run_gather(void* argument);
  static Status run_fill(void* argument);
  static Status run_table(void* argument);
  static Status run_debug(void* argument);

  PassRunner(const PassRunner& now, PreparedPass& next, PreparedPass* worn);  // of a rehearsal
  void prepare_next();
  // While the device is at this pass: what the context's next pass will give to it is recorded, with the addresses that follow when nothing
  // moves. `worn`: an earlier pass of the context, which runs no more; its recordings are taken.
  void rehearse(PreparedPass& next, PreparedPass* worn);
  void tell_consumed();
  static Status finish(void* runner);
  Status upload();
  void upload_input(std::size_t i);
  bool made_in_block(std::size_t output) const;
  void unpack_outputs();
  Status run_graph(PreparedGraph& graph);
  Status run_step(PreparedStep& step);
  Status run_kernel(PreparedStep& step);
  void launch(PreparedStep& step, std::uint32_t first, std::uint32_t count, bool waited);
  void collect(Launch& launch);
  void end_stretch();
  Status run_gather_step(PreparedStep& step);
  bool use_table(PreparedStep& step, bool checked);
  Status gather(PreparedStep& step, const std::byte* indices, std::byte* to);
  Status find_rows(PreparedStep& step, const std::byte* indices);
  Status fetch_rows(PreparedStep& step, std::size_t first, std::size_t count, std::byte* to);
  Status run_load(PreparedStep& step);
  // pass_control.cc
  Status run_if(PreparedStep& step);
  Status run_iterated(PreparedStep& step);  // Loop and Scan
  void feed_iteration(PreparedStep& step, std::int64_t iteration, bool condition);
  void collect_iteration(PreparedStep& step, std::int64_t iteration);
  // Waits for the queue and reads `bytes` of a value: the one kind of wait inside a pass, counted.
  Status read_back(plan::ValueId value, void* to, std::uint64_t bytes);
  Status enter_segment(const Step& step);
  // For passes that settle their shapes as they go; offsets are within the activation part.
  void leave_segment() { segment_ = plan::kNone; }
  void copy_in(std::uint64_t to, const std::byte* from, std::uint64_t bytes) { queue_.copy(activations_ + to, from, bytes); }
  void copy_within(std::uint64_t to, std::uint64_t from, std::uint64_t bytes) {
    queue_.copy(activations_ + to, activations_ + from, bytes);
  }
  Status wait_for_queue() { return queue_.synchronize(); }
  std::int64_t iteration() const { return iteration_; }
  void set_iteration(std::int64_t iteration) { iteration_ = iteration; }
  bool own_input(std::size_t input) const;  // in the context's memory, and no state
  const HostTensor* given_input(plan::ValueId value) const;  // as the caller set it; null for other values and states
  Status run_append(PreparedStep& step);
  static Status run_spread(void* argument);
  void upload_planes(const ValuePlace& place, std::byte* to, const HostTensor& seed);
  void release(std::uint32_t substep);
  void debug(plan::ValueId value);
  Status download();
  std::byte* address(plan::ValueId value) const;  // in the activation part; null for weights

  EngineCore& engine_;
  ContextCore& context_;
  Slot& slot_;
  PassLease& lease_;
  Queue& queue_;
  PreparedPass& pass_;
  const PreparedPass* const like_ = nullptr;  // of a rehearsal: the pass that runs, whose weights lie where those of this one will
  PreparedPass* const worn_ = nullptr;
  std::byte* activations_ = nullptr;
  std::uint64_t capacity_ = 0;          // of the activation part of one pass
  std::uint32_t segment_ = plan::kNone;
  // Of the main graph, where shapes are settled: launches of what is resident are collected, and nothing is signalled behind them.
  ReplayDevice* replay_ = nullptr;
  bool collects_ = false;
  Stretch* stretch_ = nullptr;          // begun, not yet given to the queue
  std::size_t stretches_ = 0;           // begun in this pass
  std::uint32_t unreleased_ = plan::kNone;  // last substep launched without a signal
  std::uint64_t host_waits_ = 0;
  std::int64_t iteration_ = 0;          // of the innermost loop, for debug callbacks
  std::deque<std::int64_t> numbers_;    // iteration counts on their way into the arena
  std::deque<DebugCall> debug_calls_;   // arguments live until the pass has ended
  std::deque<GatherCall> gather_calls_;
};

}  // namespace forebay
