// Passes on the caller's own CUDA streams, and in its own graphs. Skips where there is no GPU, and says so.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "api/cuda_caller.h"
#include "api/cuda_world.h"

namespace forebay {
namespace {

using namespace test;

constexpr std::int64_t kWide = LayersWorld::kLayerWidth;
constexpr std::uint64_t kBytes = kWide * sizeof(float);
constexpr long kLong = 20'000'000;  // about 10 ms

// Memory and streams of a caller, given back at the end.
struct Caller {
  explicit Caller(bool hurried = false) {
    int lowest = 0, highest = 0;
    CUDA_OK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    CUDA_OK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, hurried ? highest : lowest));
    CUDA_OK(cudaEventCreateWithFlags(&consumed, cudaEventDisableTiming));
    CUDA_OK(cudaMalloc(reinterpret_cast<void**>(&x), kBytes));
    CUDA_OK(cudaMalloc(reinterpret_cast<void**>(&y), kBytes));
    CUDA_OK(cudaMallocHost(&pinned, kBytes));
    CUDA_OK(cudaMallocHost(&pinned_x, kBytes));
  }
  ~Caller() {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    cudaEventDestroy(consumed);
    cudaFree(x);
    cudaFree(y);
    cudaFreeHost(pinned);
    cudaFreeHost(pinned_x);
  }
  Status bind(ExecutionContext& context) const {
    Status status = context.bind_input("x", ConstTensorView(reinterpret_cast<const std::byte*>(x), DType::f32, Shape{1, kWide}));
    if (!status.ok()) return status;
    return context.bind_output("y", TensorView{reinterpret_cast<std::byte*>(y), DType::f32, Shape{1, kWide}});
  }
  // From page-locked memory, which the copy reads later; the last one must have been read.
  void give(const HostTensor& from) const {
    std::memcpy(pinned_x, from.data(), kBytes);
    CUDA_OK(cudaMemcpyAsync(x, pinned_x, kBytes, cudaMemcpyHostToDevice, stream));
  }
  void take() const { CUDA_OK(cudaMemcpyAsync(pinned, y, kBytes, cudaMemcpyDeviceToHost, stream)); }
  HostTensor result() const {  // of what the stream has done by then, with no other synchronisation
    HostTensor got(DType::f32, Shape{1, kWide});
    CUDA_OK(cudaMemcpyAsync(pinned, y, kBytes, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    std::memcpy(got.data(), pinned, kBytes);
    return got;
  }
  cudaStream_t stream = nullptr;
  cudaEvent_t consumed = nullptr;
  float *x = nullptr, *y = nullptr;
  void *pinned = nullptr, *pinned_x = nullptr;
};

class CudaEnqueue : public CudaEngine {
 protected:
  // What a run of its own makes of each ramp.
  static void SetUpTestSuite() {
    if (!load_device("cuda").ok()) return;
    world_ = std::make_unique<LayersWorld>();
    ASSERT_VALUE(Plan plan, world_->plan());
    plan_ = std::make_unique<Plan>(std::move(plan));
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, world_->model(), on_cuda(Budget::of_percent(100))));
    for (int i = 0; i < 4; ++i) {
      ramps_.push_back(ramp(i));
      ASSERT_VALUE(HostTensor y, run_once(engine, only("x", ramps_.back().clone())));
      wants_.push_back(std::move(y));
    }
  }
  static void TearDownTestSuite() {
    ramps_.clear();
    wants_.clear();
    plan_.reset();
    world_.reset();
  }
  static float slope(int i) { return 0.001f * static_cast<float>(i + 1); }
  static HostTensor ramp(int i) {  // as launch_ramp makes it
    HostTensor x(DType::f32, Shape{1, kWide});
    for (std::size_t k = 0; k < kWide; ++k) x.as<float>()[k] = slope(i) * static_cast<float>(k) + 1.0f;
    return x;
  }
  Result<Engine> engine(double percent, int concurrent = 1) {
    return Engine::create(*plan_, world_->model(), on_cuda(Budget::of_percent(percent), concurrent));
  }

  inline static std::unique_ptr<LayersWorld> world_;
  inline static std::unique_ptr<Plan> plan_;
  inline static std::vector<HostTensor> ramps_, wants_;
};

// The input comes late, copied or made by a kernel; the stream itself carries on with the output. Nothing else synchronises.
TEST_F(CudaEnqueue, FollowsTheStreamAndIsFollowedByIt) {
  for (const double percent : {100.0, 30.0}) {
    SCOPED_TRACE(percent);
    Caller caller;
    ASSERT_VALUE(Engine engine, this->engine(percent));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(caller.bind(context));
    for (int i = 0; i < 4; ++i) {
      CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[(i + 1) % 4].data(), kBytes, cudaMemcpyHostToDevice, caller.stream));
      launch_ramp(caller.y, kWide, 1, 1, kLong, caller.stream);  // late
      CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[i].data(), kBytes, cudaMemcpyHostToDevice, caller.stream));
      ASSERT_OK(context.enqueue(caller.stream));
      EXPECT_TRUE(same_bits(caller.result(), wants_[i])) << i;
    }
    ASSERT_OK(context.wait());
    // A kernel's own values, not copied ones.
    launch_ramp(caller.x, kWide, 0, 0.5f, kLong, caller.stream);
    ASSERT_OK(context.enqueue(caller.stream));
    const HostTensor got = caller.result();
    ASSERT_OK(context.wait());
    ASSERT_VALUE(const HostTensor want, run_once(engine, only("x", filled(Shape{1, kWide}, 0.5f))));
    EXPECT_TRUE(same_bits(got, want));
  }
}

// The moment the event fires the input is overwritten, by the host; many passes in a row, while weights stream and while they do not.
TEST_F(CudaEnqueue, InputsMayBeOverwrittenOnceConsumed) {
  for (const double percent : {100.0, 50.0, 25.0}) {
    SCOPED_TRACE(percent);
    Caller caller;
    ASSERT_VALUE(Engine engine, this->engine(percent));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(caller.bind(context));
    cudaStream_t other = nullptr;
    CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    for (int i = 0; i < 40; ++i) {
      CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[i % 4].data(), kBytes, cudaMemcpyHostToDevice, other));
      CUDA_OK(cudaStreamSynchronize(other));
      ASSERT_OK(context.enqueue(caller.stream, caller.consumed));
      while (cudaEventQuery(caller.consumed) == cudaErrorNotReady) {
      }
      CUDA_OK(cudaMemsetAsync(caller.x, 0xff, kBytes, other));  // not numbers
      CUDA_OK(cudaStreamSynchronize(other));
      EXPECT_TRUE(same_bits(caller.result(), wants_[i % 4])) << i;
    }
    ASSERT_OK(context.wait());
    cudaStreamDestroy(other);
  }
}

// A stream waits for it as a kernel would keep it busy, for as long as the host likes.
class Gate {
 public:
  void close(cudaStream_t stream) {
    CUDA_OK(cudaLaunchHostFunc(
        stream, [](void* gate) { static_cast<Gate*>(gate)->await(); }, this));
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }

 private:
  void await() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [&] { return open_; });
  }
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

TEST_F(CudaEnqueue, ReturnsWithoutWaiting) {
  Caller caller;
  ASSERT_VALUE(Engine engine, this->engine(25));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(caller.bind(context));
  CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[0].data(), kBytes, cudaMemcpyHostToDevice, caller.stream));
  ASSERT_OK(context.enqueue(caller.stream));
  ASSERT_OK(context.wait());
  constexpr int kPasses = 32;
  double worst = 0;
  // The stream is busy with something else: none of these passes can have begun when all are enqueued.
  Gate gate;
  gate.close(caller.stream);
  for (int i = 0; i < kPasses; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_OK(context.enqueue(caller.stream, caller.consumed));
    worst = std::max(worst, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  EXPECT_EQ(cudaEventQuery(caller.consumed), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(caller.stream), cudaErrorNotReady);
  gate.open();
  EXPECT_TRUE(same_bits(caller.result(), wants_[0]));
  EXPECT_EQ(cudaEventQuery(caller.consumed), cudaSuccess);
  ASSERT_OK(context.wait());
  EXPECT_GT(context.profile().disk_bytes + context.profile().link_bytes, 0u);
  std::printf("enqueue while streaming: at most %.3f ms of %d calls\n", worst, kPasses);
}

// What stops for good fails the test.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::seconds patience)
      : thread_([this, patience] {
          std::unique_lock lock(mutex_);
          if (ended_.wait_for(lock, patience, [&] { return over_; })) return;
          std::fprintf(stderr, "nothing has come for %d s\n", static_cast<int>(patience.count()));
          std::abort();
        }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::thread thread_;
};

// Streams wait, and copy when they have waited: also more of them than there are hardware queues, which they share then.
class ManyStreams : public CudaEnqueue, public ::testing::WithParamInterface<int> {
 protected:
  std::vector<std::unique_ptr<Caller>> callers() const {
    std::vector<std::unique_ptr<Caller>> made;
    for (int i = 0; i < GetParam(); ++i) made.push_back(std::make_unique<Caller>(i % 3 == 2));
    return made;
  }
  // Where too many streams wait already it is refused, and goes when they have waited.
  void enqueue(std::span<ExecutionContext> all, ExecutionContext& context, const Caller& caller) {
    Status status = context.enqueue(caller.stream, caller.consumed);
    if (!status.ok()) {
      EXPECT_CODE(status, Code::resource_exhausted);
      EXPECT_NE(status.to_string().find("CUDA_DEVICE_MAX_CONNECTIONS"), std::string::npos) << status.to_string();
      for (ExecutionContext& each : all) EXPECT_OK(each.wait());
      status = context.enqueue(caller.stream, caller.consumed);
      ++refused_;
    }
    EXPECT_OK(status);
  }
  int refused_ = 0;
};

TEST_P(ManyStreams, WaitAndCopy) {
  const Watchdog watchdog(std::chrono::seconds(60));
  for (const double percent : {100.0, 40.0}) {
    ASSERT_VALUE(Engine engine, this->engine(percent));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    const auto callers = this->callers();
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < callers.size(); ++i) {
        callers[i]->give(ramps_[i % 4]);
        ASSERT_OK(callers[i]->bind(context));
        enqueue({&context, 1}, context, *callers[i]);
        callers[i]->take();
      }
      for (std::size_t i = 0; i < callers.size(); ++i) EXPECT_TRUE(same_bits(callers[i]->result(), wants_[i % 4])) << i;
    }
    ASSERT_OK(context.wait());
  }
  EXPECT_GT(refused_, GetParam() > 32 ? 0 : -1);
}

class ManyContexts : public ManyStreams {};

// Each for a context of its own, of two engines; fewer passes run at once than wait, and what comes first on a shared queue must not wait
// for what comes behind it. Some are enqueued while others run.
TEST_P(ManyContexts, WaitForThem) {
  const Watchdog watchdog(std::chrono::seconds(60));
  ASSERT_VALUE(Engine streaming, this->engine(40, 2));
  ASSERT_VALUE(Engine resident, this->engine(100));
  const auto callers = this->callers();
  std::vector<ExecutionContext> contexts;
  for (std::size_t i = 0; i < callers.size(); ++i) {
    ASSERT_VALUE(ExecutionContext context, (i % 2 == 0 ? streaming : resident).create_context());
    ASSERT_OK(callers[i]->bind(context));
    contexts.push_back(std::move(context));
  }
  for (std::size_t i = 0; i < callers.size(); ++i) callers[i]->give(ramps_[i % 4]);
  for (int round = 0; round < 4; ++round) {
    for (std::size_t i = callers.size(); i-- > 0;) enqueue(contexts, contexts[i], *callers[i]);
  }
  for (std::size_t i = 0; i < callers.size(); ++i) EXPECT_TRUE(same_bits(callers[i]->result(), wants_[i % 4])) << i;
  for (ExecutionContext& context : contexts) ASSERT_OK(context.wait());
  EXPECT_GT(refused_, GetParam() > 16 ? 0 : -1);
  for (std::size_t i = 1; i < callers.size(); i += 2) {
    for (int pass = 0; pass < 3; ++pass) {
      ASSERT_OK(contexts[i].enqueue(callers[i]->stream));
      EXPECT_TRUE(same_bits(callers[i]->result(), wants_[i % 4])) << i;
    }
    EXPECT_GT(contexts[i].profile().replayed_launches, 0u) << i;
  }
}

// Each on a thread of its own, which waits for its stream alone. What waits for the device (memory that is given back) comes when all have
// ended: it would stop the launches of a pass that a stream waits for.
TEST_F(CudaEnqueue, ContextsOnThreadsOfTheirOwn) {
  constexpr std::size_t kThreads = 8;  // and a consumed event each: as many as may wait
  const Watchdog watchdog(std::chrono::seconds(60));
  ASSERT_VALUE(Engine engine, this->engine(100, 2));
  std::vector<std::unique_ptr<Caller>> callers;
  std::vector<ExecutionContext> contexts;
  for (std::size_t t = 0; t < kThreads; ++t) {
    callers.push_back(std::make_unique<Caller>(t % 3 == 2));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(callers[t]->bind(context));
    contexts.push_back(std::move(context));
  }
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &caller = *callers[t], &context = contexts[t]] {
      for (std::size_t i = 0; i < 60; ++i) {
        caller.give(ramps_[(i + t) % 4]);
        ASSERT_OK(context.enqueue(caller.stream, i % 2 == 0 ? caller.consumed : nullptr));
        EXPECT_TRUE(same_bits(caller.result(), wants_[(i + t) % 4])) << t << ", pass " << i;
      }
      ASSERT_OK(context.wait());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Nothing but enqueue is called, and so many passes are always under way.
class EnqueuedOnly : public CudaEnqueue, public ::testing::WithParamInterface<int> {};

TEST_P(EnqueuedOnly, IsReplayed) {
  const Watchdog watchdog(std::chrono::seconds(60));
  const Caller caller;
  ASSERT_VALUE(Engine engine, this->engine(100));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(caller.bind(context));
  std::vector<cudaEvent_t> ended(static_cast<std::size_t>(GetParam()));
  for (cudaEvent_t& event : ended) CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  for (std::size_t i = 0; i < 100; ++i) {
    const cudaEvent_t event = ended[i % ended.size()];
    CUDA_OK(cudaEventSynchronize(event));  // of one that was not recorded: at once
    CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[i % 4].data(), kBytes, cudaMemcpyHostToDevice, caller.stream));
    ASSERT_OK(context.enqueue(caller.stream));
    CUDA_OK(cudaEventRecord(event, caller.stream));
  }
  EXPECT_TRUE(same_bits(caller.result(), wants_[3]));
  EXPECT_GT(context.profile().replayed_launches, 0u);
  for (const cudaEvent_t event : ended) cudaEventDestroy(event);
}

INSTANTIATE_TEST_SUITE_P(Of, EnqueuedOnly, ::testing::Values(1, 2, 4), [](const auto& c) { return std::to_string(c.param); });

// Each pass has other shapes; enqueued or executed, as many of its launches are replayed.
TEST_F(CudaEnqueue, PassesThatGrowAreReplayed) {
  const Watchdog watchdog(std::chrono::seconds(60));
  OnnxMaker maker = make_layers(world_->weights, kWide);
  auto graph = maker.graph();
  graph.input("past", DType::f32, {"rows", kWide});
  graph.node("Concat", {"past", "y"}, {"present"}).set("axis", 0);
  graph.output("present", DType::f32, {"more", kWide});
  constexpr std::int64_t kPasses = 14;
  BuildOptions build;
  build.slab_bytes = 256 << 10;
  build.shapes = {{"x", {1, kWide}, {1, kWide}, {1, kWide}}, {"past", {0, kWide}, {8, kWide}, {kPasses, kWide}}};  // room that stays
  ASSERT_VALUE(const Plan plan, build_plan(maker, world_->folder, "growing", build));
  ASSERT_VALUE(Engine engine, Engine::create(plan, world_->model("growing"), on_cuda(Budget::of_percent(100))));
  std::vector<std::uint64_t> replayed[2];
  for (const bool enqueued : {false, true}) {
    const Caller caller;
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(context.bind_state("present", "past"));
    ASSERT_OK(caller.bind(context));
    for (int i = 0; i < kPasses; ++i) {
      caller.give(ramps_[i % 4]);
      CUDA_OK(cudaStreamSynchronize(caller.stream));
      ASSERT_OK(enqueued ? context.enqueue(caller.stream) : context.execute());
      EXPECT_TRUE(same_bits(caller.result(), wants_[i % 4])) << i;
      replayed[enqueued].push_back(context.profile().replayed_launches);
    }
    ASSERT_VALUE(const HostTensor rows, context.output("present"));
    ASSERT_EQ(rows.shape(), (Shape{kPasses, kWide}));
    for (int i = 0; i < kPasses; ++i) EXPECT_EQ(std::memcmp(rows.data() + i * kBytes, wants_[i % 4].data(), kBytes), 0) << i;
  }
  EXPECT_GT(replayed[0].back(), 0u) << ::testing::PrintToString(replayed[0]);
  EXPECT_EQ(replayed[1].back(), replayed[0].back()) << ::testing::PrintToString(replayed[1]);
}

INSTANTIATE_TEST_SUITE_P(Of, ManyStreams, ::testing::Values(3, 8, 48, 128), [](const auto& c) { return std::to_string(c.param); });
INSTANTIATE_TEST_SUITE_P(Of, ManyContexts, ::testing::Values(3, 8, 48), [](const auto& c) { return std::to_string(c.param); });

TEST_F(CudaEnqueue, AFailureLetsTheStreamGoOn) {
  Caller caller;
  ASSERT_VALUE(Engine engine, this->engine(40));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(caller.bind(context));
  ASSERT_OK(context.bind_output("y", TensorView{reinterpret_cast<std::byte*>(caller.y), DType::f32, Shape{1, 3}}));
  ASSERT_OK(context.enqueue(caller.stream, caller.consumed));
  CUDA_OK(cudaStreamSynchronize(caller.stream));
  CUDA_OK(cudaEventSynchronize(caller.consumed));
  EXPECT_CODE(context.wait(), Code::invalid_argument);
  EXPECT_OK(context.wait());
  ASSERT_OK(caller.bind(context));
  CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[2].data(), kBytes, cudaMemcpyHostToDevice, caller.stream));
  ASSERT_OK(context.enqueue(caller.stream));
  EXPECT_TRUE(same_bits(caller.result(), wants_[2]));
  EXPECT_OK(context.wait());
}

// Captures a pass with `stream`'s own work around it.
Status capture(ExecutionContext& context, Caller& caller, cudaGraphExec_t* made) {
  CUDA_OK(cudaStreamBeginCapture(caller.stream, cudaStreamCaptureModeGlobal));
  Status status = context.enqueue(caller.stream, caller.consumed);
  cudaGraph_t graph = nullptr;
  CUDA_OK(cudaStreamEndCapture(caller.stream, &graph));
  if (status.ok()) CUDA_OK(cudaGraphInstantiate(made, graph, 0));
  cudaGraphDestroy(graph);
  return status;
}

TEST_F(CudaEnqueue, AResidentPassIsCaptured) {
  Caller caller;
  ASSERT_VALUE(Engine engine, this->engine(100, 2));
  ASSERT_VALUE(ExecutionContext other, engine.create_context());
  {
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    cudaGraphExec_t exec = nullptr;
    EXPECT_CODE(capture(context, caller, &exec), Code::invalid_argument);  // no input
    ASSERT_OK(context.set_input("x", ramps_[0]));
    EXPECT_CODE(capture(context, caller, &exec), Code::failed_precondition);  // nothing bound
    ASSERT_OK(caller.bind(context));
    EXPECT_CODE(capture(context, caller, &exec), Code::failed_precondition);  // never run
    ASSERT_OK(context.execute());
    ASSERT_OK(capture(context, caller, &exec));
    for (int i = 0; i < 12; ++i) {
      CUDA_OK(cudaMemcpyAsync(caller.x, ramps_[i % 4].data(), kBytes, cudaMemcpyHostToDevice, caller.stream));
      CUDA_OK(cudaGraphLaunch(exec, caller.stream));
      CUDA_OK(cudaEventSynchronize(caller.consumed));
      ASSERT_VALUE(const HostTensor beside, run_once(other, only("x", ramps_[(i + 1) % 4].clone())));
      EXPECT_TRUE(same_bits(beside, wants_[(i + 1) % 4])) << i;
      EXPECT_TRUE(same_bits(caller.result(), wants_[i % 4])) << i;
    }
    EXPECT_CODE(context.execute(), Code::failed_precondition);
    EXPECT_CODE(engine.set_budget(Budget::of_percent(50)), Code::failed_precondition);
    EXPECT_CODE(engine.refit(world_->model(), nullptr), Code::failed_precondition);
    cudaGraphExecDestroy(exec);
  }
  ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_percent(50)));
  ASSERT_OK(change.wait());
  ASSERT_VALUE(const HostTensor got, run_once(other, only("x", ramps_[0].clone())));
  EXPECT_TRUE(same_bits(got, wants_[0]));
}

TEST_F(CudaEnqueue, AStreamingPassIsNotCaptured) {
  Caller caller;
  ASSERT_VALUE(Engine engine, this->engine(40));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(caller.bind(context));
  ASSERT_OK(context.execute());
  cudaGraphExec_t exec = nullptr;
  const Status refused = capture(context, caller, &exec);
  EXPECT_CODE(refused, Code::failed_precondition);
  EXPECT_NE(refused.to_string().find("stream"), std::string::npos) << refused.to_string();
  ASSERT_OK(context.execute());  // it serves on
}

// In processes of their own, which do nothing else: the device is lost to them.
class CudaLost : public CudaEngine {};

// Every later call says what went wrong first.
TEST_F(CudaLost, AKernelThatTrapsLosesTheDevice) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        LayersWorld world;
        const auto plan = world.plan();
        auto engine = Engine::create(*plan, world.model(), on_cuda(Budget::of_percent(40)));
        auto context = engine->create_context();
        Caller caller;
        const bool bound = caller.bind(*context).ok() && context->execute().ok();
        launch_trap(caller.stream);
        const Status enqueued = bound ? context->enqueue(caller.stream) : Status(Code::internal, "not bound");
        const Status first = enqueued.ok() ? context->wait() : enqueued;
        const Status second = context->execute();
        std::fprintf(stderr, "first: %s\nsecond: %s\n", first.to_string().c_str(), second.to_string().c_str());
        std::_Exit(first.code() == Code::device_lost && second.code() == Code::device_lost ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

// The memory of the weights is taken away under the engine: the first kernel that fails is named, with its shapes.
TEST_F(CudaLost, DebugSyncNamesTheKernelThatFails) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        constexpr std::uint64_t kBlock = 128u << 20;
        auto block = device->reserve_arena(kBlock).value();
        bool ready = block->commit(0, kBlock).ok();
        EngineOptions options = on_cuda(Budget::automatic());
        options.arena_memory = std::span(block->base(), kBlock);
        options.debug_sync = true;
        LayersWorld world;
        const auto plan = world.plan();
        auto engine = Engine::create(*plan, world.model(), options);
        auto context = engine->create_context();
        ready = ready && run_once(*context, world.inputs).ok() && block->uncommit(kBlock / 2, kBlock / 2).ok();
        const Status status = ready ? context->execute() : Status(Code::internal, "never ran");
        const std::string text = status.to_string();
        std::fprintf(stderr, "%s\n", text.c_str());
        const bool named = text.find("node '") != std::string::npos && text.find(", kernel ") != std::string::npos &&
                           text.find(" on f32[1,512]") != std::string::npos;
        std::_Exit(status.code() == Code::device_lost && named ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace forebay
