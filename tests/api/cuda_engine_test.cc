// The public interface on the CUDA device: every source of weights, refits and budget changes under running passes, states, the user's own
// memory; the same bits throughout. Skips where there is no GPU, and says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "api/cuda_world.h"

namespace forebay {
namespace {

using namespace test;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begin) { return std::chrono::duration<double, std::milli>(Clock::now() - begin).count(); }

class CudaRun : public CudaEngine {
 protected:
  static void SetUpTestSuite() {
    if (!load_device("cuda").ok()) return;
    world_ = std::make_unique<LayersWorld>();
    ASSERT_VALUE(Plan plan, world_->plan());
    plan_ = std::make_unique<Plan>(std::move(plan));
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, world_->model(), on_cuda(Budget::of_percent(100))));
    ASSERT_VALUE(want_, run_once(engine, world_->inputs));
    ASSERT_VALUE(const auto sizes, engine.sizes_for_shapes(shapes_of(world_->inputs)));
    min_ = sizes.min_budget;
    full_ = sizes.full_budget;
  }
  static void TearDownTestSuite() {
    plan_.reset();
    world_.reset();
  }
  Budget between(std::uint64_t part, std::uint64_t of) const { return Budget::of_bytes(min_ + (full_ - min_) * part / of); }

  inline static std::unique_ptr<LayersWorld> world_;
  inline static std::unique_ptr<Plan> plan_;
  inline static HostTensor want_;
  inline static std::uint64_t min_ = 0, full_ = 0;
};

// ONNX file, safetensors, zstd shards, embedded, in memory; from disk and through the host cache.
TEST_F(CudaRun, EverySourceOfWeightsGivesTheSameBits) {
  write_file(world_->folder / "w.safetensors", safetensors_of(world_->weights));
  Refitter refitter(*plan_, {});
  for (const char* codec : {"zstd", "raw"}) ASSERT_OK(refitter.pack(world_->model(), world_->folder / codec, codec));
  ASSERT_OK(refitter.embed(world_->model(), world_->folder / "whole.plan"));
  ASSERT_VALUE(Plan whole, Plan::load(world_->folder / "whole.plan"));
  std::vector<std::pair<std::string, WeightSources>> all{{"onnx", world_->model()}, {"embedded", {}}, {"memory", in_memory(world_->weights)}};
  for (const char* path : {"w.safetensors", "zstd", "raw"}) {
    all.emplace_back(path, WeightSources());
    all.back().second.paths = {world_->folder / path};
  }
  int streamed = 0;
  for (const auto& [name, sources] : all) {
    for (const bool cached : {false, true}) {
      EngineOptions options = on_cuda(between(3, 16));  // coded chunks need more than the minimum of others
      options.host_cache_bytes = cached ? 64u << 20 : 0u;
      ASSERT_VALUE(Engine engine, Engine::create(sources.empty() ? whole : *plan_, sources, options));
      ASSERT_VALUE(ExecutionContext context, engine.create_context());
      for (const std::uint64_t part : {3u, 6u, 9u, 16u}) {
        SCOPED_TRACE(name + (cached ? ", cached, " : ", from disk, ") + std::to_string(part));
        ASSERT_VALUE(const BudgetChange change, engine.set_budget(between(part, 16)));
        ASSERT_OK(change.wait());
        for (int pass = 0; pass < 2; ++pass) {
          ASSERT_VALUE(const HostTensor got, run_once(context, world_->inputs));
          EXPECT_TRUE(same_bits(got, want_)) << "pass " << pass;
        }
        streamed += context.profile().link_bytes > 0 ? 1 : 0;
        EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
      }
    }
  }
  EXPECT_GE(streamed, 3 * 12);
}

// 3 x 3 convolutions of 256 channels with their biases, activations and skips: 57 MB.
TEST_F(CudaEngine, AConvolutionModelHasEqualBitsAt64Budgets) {
  constexpr int kConvs = 24;
  constexpr std::int64_t kChannels = 256, kSide = 8;
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, kChannels, kSide, kSide});
  std::string value = "x";
  for (int i = 0; i < kConvs; ++i) {
    const std::string n = std::to_string(i), out = i + 1 == kConvs ? "y" : "h" + n;
    HostTensor w = random_tensor(DType::f32, Shape{kChannels, kChannels, 3, 3}, static_cast<std::uint64_t>(100 + i));
    for (float& v : w.as<float>()) v *= 0.02f;
    graph.initializer("w" + n, w);
    graph.initializer("b" + n, random_tensor(DType::f32, Shape{kChannels}, static_cast<std::uint64_t>(200 + i)));
    graph.node("Conv", {value, "w" + n, "b" + n}, {"c" + n}).set("pads", std::vector<std::int64_t>{1, 1, 1, 1});
    graph.node("Relu", {"c" + n}, {"r" + n});
    graph.node("Add", {"r" + n, value}, {out});
    value = out;
  }
  graph.output("y", DType::f32, {1, kChannels, kSide, kSide});
  BuildOptions build_options;
  build_options.slab_bytes = 256u << 10;
  ASSERT_VALUE(Plan plan, build_plan(maker, folder, "convs", build_options));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, on_cuda(Budget::of_percent(100))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  const Tensors inputs = only("x", random_tensor(DType::f32, Shape{1, kChannels, kSide, kSide}, 5));
  ASSERT_VALUE(const HostTensor want, run_once(context, inputs));
  const MemoryReport sizes = engine.memory();
  constexpr std::uint64_t kBudgets = 64;
  int streaming = 0;
  for (std::uint64_t i = 0; i < kBudgets; ++i) {
    const std::uint64_t bytes = sizes.min_budget + (sizes.full_budget - sizes.min_budget) * (i * 37 % kBudgets) / (kBudgets - 1);
    ASSERT_VALUE(const BudgetChange change, engine.set_budget(Budget::of_bytes(bytes)));
    ASSERT_OK(change.wait());
    for (int pass = 0; pass < 2; ++pass) {
      ASSERT_VALUE(const HostTensor got, run_once(context, inputs));
      ASSERT_TRUE(same_bits(got, want)) << "other bits with " << bytes << " bytes";
    }
    EXPECT_LE(engine.memory().committed, bytes);
    streaming += context.profile().link_bytes > 0 ? 1 : 0;
  }
  EXPECT_GE(streaming, 32);
  std::printf("convolutions: the same bits at 64 budgets from %llu to %llu bytes; weights streamed at %d\n",
              static_cast<unsigned long long>(sizes.min_budget), static_cast<unsigned long long>(sizes.full_budget), streaming);
}

TEST_F(CudaRun, RefitsWhileContextsRun) {
  const Tensors other = layer_weights(LayersWorld::kLayers, LayersWorld::kLayerWidth, 2);
  write_file(world_->folder / "a.safetensors", safetensors_of(world_->weights));
  write_file(world_->folder / "b.safetensors", safetensors_of(other));
  WeightSources a, b;
  a.paths = {world_->folder / "a.safetensors"};
  b.paths = {world_->folder / "b.safetensors"};
  ASSERT_VALUE(Engine fresh, Engine::create(*plan_, b, on_cuda(Budget::of_percent(100))));
  ASSERT_VALUE(const HostTensor want_other, run_once(fresh, world_->inputs));
  ASSERT_FALSE(same_bits(want_, want_other));
  for (const std::uint64_t part : {4u, 16u}) {
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, a, on_cuda(between(part, 16), 2)));
    std::atomic<bool> stop{false};
    std::atomic<int> passes{0}, wrong{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 2; ++t) {
      callers.emplace_back([&] {
        auto context = engine.create_context();
        ASSERT_OK(context);
        while (!stop) {
          auto got = run_once(*context, world_->inputs);
          ASSERT_OK(got);
          if (!same_bits(*got, want_) && !same_bits(*got, want_other)) ++wrong;
          ++passes;
        }
      });
    }
    for (int i = 1; i <= 24; ++i) {
      EXPECT_OK(engine.refit(i % 4 < 2 ? (i % 2 == 1 ? in_memory(other) : in_memory(world_->weights)) : (i % 2 == 1 ? b : a), nullptr));
      ASSERT_VALUE(const HostTensor got, run_once(engine, world_->inputs));
      EXPECT_TRUE(same_bits(got, i % 2 == 1 ? want_other : want_)) << "refit " << i;
    }
    stop = true;
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(wrong.load(), 0);
    EXPECT_GT(passes.load(), 0);
    std::printf("refits while running, budget %llu/16: %d passes of two contexts, %d wrong\n", static_cast<unsigned long long>(part),
                passes.load(), wrong.load());
  }
}

TEST_F(CudaRun, BudgetsChangeWhilePassesRun) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, world_->model(), on_cuda(between(16, 16), 2)));
  std::atomic<bool> stop{false};
  std::atomic<int> passes{0}, wrong{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 2; ++t) {
    callers.emplace_back([&] {
      auto context = engine.create_context();
      ASSERT_OK(context);
      while (!stop) {
        auto got = run_once(*context, world_->inputs);
        ASSERT_OK(got);
        wrong += same_bits(*got, want_) ? 0 : 1;
        ++passes;
      }
    });
  }
  Random random(5);
  const std::uint64_t floor = engine.memory().min_budget;
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t bytes = floor + random.below(full_ + (4u << 20) - floor);
    ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(bytes)));
    ASSERT_OK(change.wait());
    EXPECT_LE(engine.memory().committed, bytes);
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_GT(passes.load(), 0);
}

// present = past with the doubled x behind it; the state is appended where it lies, or made in its other place, and moves with the budget.
TEST_F(CudaRun, StatesStayOnTheDevice) {
  for (const std::int64_t axis : {1, 2}) {
    OnnxMaker maker;
    auto graph = maker.graph();
    const std::vector<MakerDim> rest = axis == 1 ? std::vector<MakerDim>{1, "n", kWidth} : std::vector<MakerDim>{1, 4, "n", kWidth};
    std::vector<MakerDim> past = rest, present = rest;
    past[static_cast<std::size_t>(axis)] = "past";
    present[static_cast<std::size_t>(axis)] = "total";
    graph.input("x", DType::f32, rest);
    graph.input("past_key_values.0", DType::f32, past);
    graph.initializer("w", diagonal(2));
    graph.node("MatMul", {"x", "w"}, {"doubled"});
    graph.node("Concat", {"past_key_values.0", "doubled"}, {"present.0"}).set("axis", axis);
    graph.initializer_i64("axes", {axis});
    graph.node("ReduceSum", {"present.0", "axes"}, {"y"}).set("keepdims", 0);
    graph.output("y", DType::f32, {});
    graph.output("present.0", DType::f32, present);
    const std::string name = "state" + std::to_string(axis);
    ASSERT_VALUE(Plan plan, build_plan(maker, world_->folder, name));
    ASSERT_VALUE(Engine engine, Engine::create(plan, {}, on_cuda(Budget::of_bytes(64u << 20))));
    ASSERT_VALUE(ExecutionContext bound, engine.create_context());
    ASSERT_VALUE(ExecutionContext carrying, engine.create_context());
    ASSERT_OK(bound.bind_state("present.0", "past_key_values.0"));
    Shape x_shape = axis == 1 ? Shape{1, 3, kWidth} : Shape{1, 4, 1, kWidth}, past_shape = x_shape;
    past_shape[static_cast<int>(axis)] = 0;
    HostTensor carried(DType::f32, past_shape);
    for (int step = 0; step < 30; ++step) {
      const HostTensor x = random_tensor(DType::f32, x_shape, static_cast<std::uint64_t>(step + 1));
      if (step == 20) {
        ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(32u << 20)));
        ASSERT_OK(change.wait());
      }
      ASSERT_VALUE(const HostTensor y, run_once(bound, only("x", x.clone())));
      Tensors inputs = only("x", x.clone());
      inputs.emplace_back("past_key_values.0", carried.clone());
      ASSERT_VALUE(const HostTensor want, run_once(carrying, inputs));
      EXPECT_TRUE(same_bits(y, want)) << "axis " << axis << ", step " << step;
      ASSERT_VALUE(carried, carrying.output("present.0"));
    }
    ASSERT_VALUE(const HostTensor present_now, bound.output("present.0"));
    EXPECT_TRUE(same_bits(present_now, carried));
    // Enqueued without waiting: each pass reads the state that the one before it left.
    const HostTensor x = filled(x_shape, 1);
    ASSERT_OK(bound.reset_state());
    for (int i = 0; i < 8; ++i) {
      ASSERT_OK(bound.set_input("x", x));
      ASSERT_OK(bound.enqueue());
    }
    ASSERT_OK(bound.wait());
    ASSERT_VALUE(const HostTensor sum, bound.output("y"));
    EXPECT_EQ(sum.as<float>()[0], axis == 1 ? 48.0f : 16.0f);
  }
}

TEST_F(CudaRun, TheUsersMemoryIsTheArena) {
  ASSERT_VALUE(auto block, device->reserve_arena(256u << 20));
  ASSERT_OK(block->commit(0, 256u << 20));
  for (const std::uint64_t bytes : {min_ + (8u << 20), full_ / 2, std::uint64_t{256u << 20}}) {
    SCOPED_TRACE(bytes);
    const std::uint64_t before = free_bytes();
    EngineOptions options = on_cuda(Budget::automatic());
    options.arena_memory = std::span(block->base() + 64, bytes - 64);  // not aligned
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, world_->model(), options));
    ASSERT_VALUE(const HostTensor got, run_once(engine, world_->inputs));
    EXPECT_TRUE(same_bits(got, want_));
    EXPECT_LE(engine.memory().peak_committed, bytes);
    EXPECT_LE(before, free_bytes() + (64u << 20));
  }
  EngineOptions options = on_cuda(Budget::automatic());
  options.arena_memory = std::span(block->base(), std::size_t{1u << 20});
  EXPECT_CODE(Engine::create(*plan_, world_->model(), options), Code::invalid_argument);
  std::vector<std::byte> host(std::size_t{16u << 20});
  options.arena_memory = std::span(host);
  EXPECT_CODE(Engine::create(*plan_, world_->model(), options), Code::invalid_argument);
}

// Reads, copies and kernels on one clock: within the pass but for what was begun before or is for the next one; kernels in order, link and
// compute busy at the same time.
TEST_F(CudaRun, ProfilesTellOfTheDevicesTime) {
  for (const bool cached : {false, true}) {
    EngineOptions options = on_cuda(between(2, 16));
    options.host_cache_bytes = cached ? 64u << 20 : 0u;
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, world_->model(), options));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    for (int i = 0; i < 3; ++i) ASSERT_OK(run_once(context, world_->inputs));
    context.set_profiling(true);
    ASSERT_VALUE(const HostTensor got, run_once(context, world_->inputs));
    EXPECT_TRUE(same_bits(got, want_));
    const PassProfile& profile = context.profile();
    double compute = 0, last_end = 0;
    std::uint64_t copied = 0;
    std::size_t kernels = 0;
    using Lane = PassProfile::Span::Lane;
    for (const PassProfile::Span& span : profile.spans) {
      EXPECT_LE(span.begin_ms, span.end_ms);
      EXPECT_LT(span.end_ms, profile.milliseconds + 1000);
      if (span.lane == Lane::link) copied += span.bytes;
      if (span.lane != Lane::compute) continue;
      EXPECT_GE(span.begin_ms, 0);
      EXPECT_LE(span.end_ms, profile.milliseconds + 1);
      EXPECT_GE(span.begin_ms, last_end - 0.01);
      last_end = span.end_ms;
      compute += span.end_ms - span.begin_ms;
      ++kernels;
    }
    double of_ops = 0;
    for (const PassProfile::Op& op : profile.ops) of_ops += op.compute_ms;
    EXPECT_NEAR(of_ops, compute, 0.001);
    EXPECT_GE(kernels, static_cast<std::size_t>(LayersWorld::kLayers));
    EXPECT_GT(copied, 0u);
    const auto reads = std::count_if(profile.spans.begin(), profile.spans.end(), [](const auto& span) { return span.lane == Lane::disk; });
    EXPECT_EQ(reads > 0, !cached) << reads;
    std::printf("%s: a pass of %.2f ms, %zu launches %.2f ms, %.1f MB over the link\n", cached ? "cached" : "from disk",
                profile.milliseconds, kernels, compute, static_cast<double>(copied) / 1e6);
  }
}

TEST_F(CudaRun, DebugSyncChangesNoBits) {
  EngineOptions options = on_cuda(between(6, 16));
  options.debug_sync = true;
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, world_->model(), options));
  ASSERT_VALUE(const HostTensor got, run_once(engine, world_->inputs));
  EXPECT_TRUE(same_bits(got, want_));
}

// Layers of 1 GiB each, of zeros: files with holes, so that gigabytes are there at once.
class CudaLarge : public CudaEngine {
 protected:
  static constexpr std::int64_t kSide = 16384;
  static constexpr std::uint64_t kLayer = kSide * kSide * 4ull;

  Result<Plan> make(int layers) {
    OnnxMaker maker;
    auto graph = maker.graph();
    graph.input("x", DType::f32, {1, kSide});
    std::string value = "x";
    for (int i = 0; i < layers; ++i) {
      const std::string w = "w" + std::to_string(i), out = i + 1 == layers ? "y" : "h" + std::to_string(i);
      graph.initializer_external(w, DType::f32, {kSide, kSide},
                                 {{"location", "zeros.bin"}, {"offset", std::to_string(i * kLayer)}, {"length", std::to_string(kLayer)}});
      graph.node("MatMul", {value, w}, {out});
      value = out;
    }
    graph.output("y", DType::f32, {1, kSide});
    write_file(folder_ / "zeros.bin", "");
    std::filesystem::resize_file(folder_ / "zeros.bin", kLayer * static_cast<std::uint64_t>(layers));
    BuildOptions options;
    options.strip = true;
    options.slab_bytes = 8u << 20;
    return build_plan(maker, folder_, "large", options);
  }
  TempFolder folder_;
};

TEST_F(CudaLarge, MemoryGoesBackToTheDriverWhilePassesRun) {
  constexpr std::uint64_t kShrink = 4000000000;
  if (free_bytes() < 10 * kLayer) GTEST_SKIP() << "less than " << 10 * kLayer << " bytes of device memory are free";
  ASSERT_VALUE(Plan plan, make(6));
  WeightSources sources;
  sources.paths = {folder_ / "large.onnx"};
  EngineOptions options = on_cuda(Budget::of_percent(100));
  options.host_cache_bytes = 0;
  const std::uint64_t free_before = free_bytes();
  ASSERT_VALUE(Engine engine, Engine::create(plan, sources, options));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  const Tensors inputs = only("x", filled(Shape{1, kSide}, 1));
  const auto load = Clock::now();
  for (int i = 0; i < 3; ++i) ASSERT_OK(run_once(context, inputs));
  std::printf("6.4 GB in place and 3 passes after %.0f ms\n", ms_since(load));
  const std::uint64_t full = engine.memory().budget, committed = engine.memory().committed;
  const std::uint64_t beside = free_before - free_bytes() - committed;
  std::printf("arena %llu bytes, device memory taken beside it %.1f MiB\n", static_cast<unsigned long long>(committed),
              static_cast<double>(beside) / (1 << 20));
  EXPECT_LE(beside, 64u << 20);
  std::atomic<bool> stop{false};
  std::atomic<int> passes{0};
  std::atomic<double> longest{0};
  std::thread caller([&] {
    while (!stop) {
      const auto begin = Clock::now();
      ASSERT_OK(context.execute());
      if (passes < 5) longest = std::max(longest.load(), ms_since(begin));
      ++passes;
    }
  });
  while (passes < 5) std::this_thread::yield();
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t held = free_bytes();
    const auto begin = Clock::now();
    auto change = engine.set_budget(Budget::of_bytes(full - kShrink));
    EXPECT_OK(change);
    if (!change.ok()) break;
    double seen = -1;
    while (!change->done()) {
      if (seen < 0 && free_bytes() >= held + kShrink - (4u << 20)) seen = ms_since(begin);
    }
    EXPECT_OK(change->wait());
    const double done = ms_since(begin);
    EXPECT_GE(free_bytes(), held + kShrink - (4u << 20));
    EXPECT_LE(engine.memory().committed, full - kShrink);
    const auto grow = Clock::now();
    auto back = engine.set_budget(Budget::of_bytes(full));
    EXPECT_OK(back);
    if (!back.ok()) break;
    EXPECT_OK(back->wait());
    std::printf(
        "4 GB back at the driver after %.1f ms, the call's end after %.1f ms (a resident pass: %.1f ms); grown again after %.1f ms\n",
        seen < 0 ? done : seen, done, longest.load(), ms_since(grow));
    for (const int now = passes; passes < now + 3;) std::this_thread::yield();
  }
  stop = true;
  caller.join();
  EXPECT_EQ(engine.memory().committed, committed);
}

}  // namespace
}  // namespace forebay
