// Engine and contexts through the public interface: budgets, refit, state, debugging, shapes.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "api/engine_world.h"
#include "support/fault_fs.h"

namespace forebay {
namespace {

using namespace test;

constexpr int kLayers = 20;

class LayersTest : public testing::Test {
 protected:
  void SetUp() override {
    weights_ = layer_weights(kLayers, kWidth, 1);
    auto plan = build_plan(make_layers(weights_, kWidth), folder_, "layers");
    ASSERT_OK(plan);
    plan_ = std::make_unique<Plan>(std::move(*plan));
    inputs_ = only("x", random_tensor(DType::f32, Shape{3, kWidth}, 5));
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(Budget::of_percent(100))));
    ASSERT_VALUE(sizes_, engine.sizes_for_shapes(shapes_of(inputs_)));
    ASSERT_VALUE(want_, run_once(engine, inputs_));
    ASSERT_LT(sizes_.min_budget * 2, sizes_.full_budget);
  }

  Budget between(std::uint64_t part, std::uint64_t of) const {
    return Budget::of_bytes(sizes_.min_budget + (sizes_.full_budget - sizes_.min_budget) * part / of);
  }

  // Runs passes until `stop`, at least one, in each of two contexts of `engine`; each output must be one of `allowed`.
  std::vector<std::thread> two_callers(Engine& engine, const std::atomic<bool>& stop, const std::vector<const HostTensor*>& allowed,
                                       std::atomic<int>& passes) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&engine, &stop, allowed, &passes, this] {
        auto context = engine.create_context();
        ASSERT_OK(context);
        do {
          auto got = run_once(*context, inputs_);
          ++passes;
          ASSERT_OK(got);
          bool found = false;
          for (const HostTensor* want : allowed) found = found || same_bits(*got, *want);
          ASSERT_TRUE(found) << "an output that belongs to no generation";
        } while (!stop);
      });
    }
    return threads;
  }

  TempFolder folder_;
  Tensors weights_, inputs_;
  std::unique_ptr<Plan> plan_;
  Engine::Sizes sizes_;
  HostTensor want_;
};

TEST_F(LayersTest, EveryBudgetGivesTheSameBits) {
  for (const std::string io : {"threads", "auto"}) {
    for (std::uint64_t part = 0; part <= 8; ++part) {
      EngineOptions options = with_budget(between(part, 8));
      options.io = io;
      options.direct = io == "auto" ? "auto" : "off";
      ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, options));
      ASSERT_VALUE(ExecutionContext context, engine.create_context());
      for (int pass = 0; pass < 3; ++pass) {
        ASSERT_VALUE(const HostTensor got, run_once(context, inputs_));
        EXPECT_TRUE(same_bits(got, want_)) << "part " << part << " pass " << pass;
      }
      if (part == 0) {
        EXPECT_GT(context.profile().disk_bytes + context.profile().link_bytes, 0u);
      }
      if (part == 8) {
        EXPECT_EQ(context.profile().disk_bytes, 0u) << "everything is resident";
      }
      const MemoryReport memory = engine.memory();
      EXPECT_LE(memory.peak_committed, options.budget.bytes);
      EXPECT_LE(memory.committed, memory.budget);
    }
  }
}

// What is read ahead between two passes is the next one's: nothing is lost, nothing counts twice.
TEST_F(LayersTest, EveryReadBelongsToAPass) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(2, 4))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  constexpr std::uint64_t kPasses = 6;
  std::uint64_t sum = 0;
  for (std::uint64_t pass = 0; pass < kPasses; ++pass) {
    ASSERT_OK(run_once(context, inputs_));
    sum += context.profile().disk_bytes;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // time to read ahead; the sums hold without it
  }
  const MemoryReport memory = engine.memory();
  ASSERT_LT(memory.resident_weights, memory.weights_total);
  EXPECT_GE(sum, memory.weights_total + (kPasses - 1) * (memory.weights_total - memory.resident_weights));
  EXPECT_LE(sum, engine.io().disk_bytes);
}

TEST_F(LayersTest, BelowTheMinimumIsRefusedAndNamesIt) {
  ASSERT_VALUE(Engine probe, Engine::create(*plan_, {}, with_budget(Budget::of_percent(100))));
  const std::uint64_t minimum = probe.memory().min_budget;
  EXPECT_OK(Engine::create(*plan_, {}, with_budget(Budget::of_bytes(minimum))));
  for (const std::uint64_t bytes : {minimum - 1, std::uint64_t{1}}) {
    auto refused = Engine::create(*plan_, {}, with_budget(Budget::of_bytes(bytes)));
    EXPECT_CODE(refused, Code::resource_exhausted);
    EXPECT_NE(refused.status().to_string().find(std::to_string(minimum)), std::string::npos) << refused.status().to_string();
  }
  // Enough for the weights, too little for the activations of these shapes: the pass is refused, a budget that fits cures it.
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(Budget::of_bytes(minimum))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  Status refused = run_once(context, inputs_).status();
  EXPECT_CODE(refused, Code::resource_exhausted);
  EXPECT_NE(refused.to_string().find(std::to_string(sizes_.min_budget)), std::string::npos) << refused.to_string();
  ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(sizes_.min_budget)));
  ASSERT_OK(change.wait());
  ASSERT_VALUE(const HostTensor got, run_once(context, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
}

TEST_F(LayersTest, AboveFullMeansFull) {
  for (const Budget& budget : {Budget::of_bytes(1ull << 33), Budget::of_bytes(1ull << 63), Budget::unlimited(), Budget::automatic()}) {
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(budget)));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_VALUE(const HostTensor got, run_once(context, inputs_));
    EXPECT_TRUE(same_bits(got, want_)) << budget.to_string();
    const MemoryReport memory = engine.memory();
    EXPECT_LE(memory.budget, memory.full_budget) << budget.to_string();
    EXPECT_LE(memory.peak_committed, memory.full_budget) << budget.to_string();
  }
}

TEST(BudgetText, RefusesMagicNumbers) {
  for (const char* text : {"0", "-1", "0%", "-5%", "101%", "", "nan%", "6XB", "99999999999999999999", "1e3%x"})
    EXPECT_CODE(Budget::parse(text), Code::invalid_argument);
  ASSERT_VALUE(const Budget bytes, Budget::parse("6GiB"));
  EXPECT_EQ(bytes.bytes, 6ull << 30);
  ASSERT_VALUE(const Budget decimal, Budget::parse("6GB"));  // not a byte more than was asked for
  EXPECT_EQ(decimal.bytes, 6000000000u);
  ASSERT_VALUE(const Budget percent, Budget::parse("25%"));
  EXPECT_EQ(percent.to_string(), "25%");
}

TEST_F(LayersTest, BudgetChangesWhileContextsRun) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(1, 1))));
  ASSERT_OK(run_once(engine, inputs_));
  std::atomic<bool> stop{false};
  std::atomic<int> passes{0};
  auto threads = two_callers(engine, stop, {&want_}, passes);
  Random random(7);
  for (int i = 0; i < 40; ++i) {
    const Budget budget = i % 3 == 0 ? between(0, 1) : i % 3 == 1 ? between(1, 1) : between(random.below(9), 8);
    auto change = engine.set_budget(budget);
    EXPECT_OK(change);
    if (!change.ok()) break;
    EXPECT_OK(change->wait());
    EXPECT_TRUE(change->done());
    const MemoryReport memory = engine.memory();
    EXPECT_LE(memory.committed, budget.bytes);
    EXPECT_LE(memory.budget, budget.bytes);
  }
  const std::uint64_t before = engine.memory().budget;
  auto refused = engine.set_budget(Budget::of_bytes(4096));
  EXPECT_CODE(refused, Code::resource_exhausted);
  EXPECT_EQ(engine.memory().budget, before);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(passes.load(), 0);
  ASSERT_VALUE(const HostTensor got, run_once(engine, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
}

TEST_F(LayersTest, ABudgetChangeOutlivesItsEngine) {
  ASSERT_VALUE(Engine first, Engine::create(*plan_, {}, with_budget(between(1, 1))));
  BudgetChange kept;
  {
    ASSERT_VALUE(BudgetChange change, first.set_budget(between(1, 2)));
    kept = change;
  }
  ASSERT_VALUE(first, Engine::create(*plan_, {}, with_budget(between(0, 1))));
  EXPECT_OK(kept.wait());
}

TEST_F(LayersTest, RefitsWhileContextsRun) {
  const Tensors other = layer_weights(kLayers, kWidth, 2);
  ASSERT_VALUE(Plan fresh, build_plan(make_layers(other, kWidth), folder_, "other"));
  ASSERT_VALUE(Engine fresh_engine, Engine::create(fresh, {}, with_budget(Budget::of_percent(100))));
  ASSERT_VALUE(const HostTensor want_other, run_once(fresh_engine, inputs_));
  ASSERT_FALSE(same_bits(want_, want_other));
  write_file(folder_ / "a.safetensors", safetensors_of(weights_));
  write_file(folder_ / "b.safetensors", safetensors_of(other));
  for (const std::uint64_t part : {1u, 4u}) {
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(part, 4))));
    std::atomic<bool> stop{false};
    std::atomic<int> passes{0};
    auto threads = two_callers(engine, stop, {&want_, &want_other}, passes);
    // F60: 10,000 refits in the full sweep.
    const int refits = full_fault_sweep() ? 5000 : 60;
    for (int i = 1; i <= refits; ++i) {
      WeightSources sources;
      if (i % 4 < 2) {
        sources = in_memory(i % 2 == 1 ? other : weights_);
      } else {
        sources.paths = {folder_ / (i % 2 == 1 ? "b.safetensors" : "a.safetensors")};
      }
      auto number = engine.refit(sources, nullptr);
      EXPECT_OK(number);
      if (!number.ok()) break;
      EXPECT_EQ(*number, static_cast<std::uint64_t>(i + 1));
      EXPECT_EQ(engine.generation(), *number);
      // A pass that starts after the refit takes the new weights.
      auto got = run_once(engine, inputs_);
      EXPECT_OK(got);
      if (got.ok()) {
        EXPECT_TRUE(same_bits(*got, i % 2 == 1 ? want_other : want_)) << "refit " << i;
      }
      const MemoryReport memory = engine.memory();
      EXPECT_LE(memory.peak_committed, between(part, 4).bytes);
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_GT(passes.load(), 0);
  }
}

TEST_F(LayersTest, RefitsAndBudgetChangesMeet) {
  const Tensors other = layer_weights(kLayers, kWidth, 2);
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(1, 1))));
  ASSERT_OK(engine.refit(in_memory(other), nullptr));
  ASSERT_VALUE(const HostTensor want_other, run_once(engine, inputs_));
  std::atomic<bool> stop{false};
  std::atomic<int> passes{0};
  auto threads = two_callers(engine, stop, {&want_, &want_other}, passes);
  std::thread changer([&] {
    Random random(3);
    while (!stop) {
      const Budget budget = between(1 + random.below(8), 8);
      auto change = engine.set_budget(budget);
      ASSERT_OK(change);
      ASSERT_OK(change->wait());
      ASSERT_LE(engine.memory().committed, budget.bytes);
    }
  });
  for (int i = 0; i < 30; ++i) EXPECT_OK(engine.refit(in_memory(i % 2 == 0 ? weights_ : other), nullptr));
  EXPECT_OK(engine.refit(in_memory(weights_), nullptr));
  stop = true;
  changer.join();
  for (std::thread& thread : threads) thread.join();
  ASSERT_VALUE(const HostTensor got, run_once(engine, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
}

TEST_F(LayersTest, AContextKeepsItsEngineAlive) {
  auto engine = Engine::create(*plan_, {}, with_budget(between(1, 2)));
  ASSERT_OK(engine);
  ASSERT_VALUE(ExecutionContext context, engine->create_context());
  engine = Status(Code::cancelled, "gone");
  ASSERT_VALUE(const HostTensor got, run_once(context, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
}

TEST_F(LayersTest, ARefusedRefitChangesNothing) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(1, 2))));
  Tensors other = layer_weights(kLayers, kWidth, 2);
  Tensors missing = layer_weights(kLayers, kWidth, 2);
  missing.erase(missing.begin() + 4);
  missing.erase(missing.begin() + 9);
  RefitReport report;
  EXPECT_CODE(engine.refit(in_memory(missing), &report), Code::weight_mismatch);
  EXPECT_EQ(report.missing.size(), 2u) << "every problem at once";
  Tensors wrong = layer_weights(kLayers, kWidth, 2);
  wrong[2].second = random_tensor(DType::f32, Shape{kWidth, kWidth + 1}, 3);
  auto refused = engine.refit(in_memory(wrong), &report);
  EXPECT_CODE(refused, Code::weight_mismatch);
  EXPECT_NE(refused.status().to_string().find("w1"), std::string::npos) << refused.status().to_string();
  WeightSources absent;
  absent.paths = {folder_ / "no.safetensors"};
  EXPECT_CODE(engine.refit(absent, nullptr), Code::not_found);
  EXPECT_EQ(engine.generation(), 1u);
  ASSERT_VALUE(const HostTensor got, run_once(engine, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
  // Extra tensors matter only to strict sources.
  other.emplace_back("stranger", filled(Shape{2}, 1));
  WeightSources strict = in_memory(other);
  strict.strict = true;
  EXPECT_CODE(engine.refit(strict, nullptr), Code::weight_mismatch);
  EXPECT_OK(engine.refit(in_memory(other), nullptr));
}

TEST_F(LayersTest, UserMemoryIsTheArena) {
  const auto bytes = static_cast<std::size_t>(sizes_.min_budget);
  auto* const block = static_cast<std::byte*>(std::aligned_alloc(65536, (bytes + 65535) / 65536 * 65536));
  const std::unique_ptr<std::byte, decltype(&std::free)> memory(block, &std::free);
  ASSERT_NE(memory, nullptr);
  for (int again = 0; again < 2; ++again) {
    EngineOptions options = with_budget(Budget::automatic());
    options.arena_memory = std::span<std::byte>(memory.get(), bytes);
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, options));
    ASSERT_VALUE(const HostTensor got, run_once(engine, inputs_));
    EXPECT_TRUE(same_bits(got, want_)) << again;
    EXPECT_LE(engine.memory().peak_committed, bytes);
  }
  EngineOptions options = with_budget(Budget::automatic());
  options.arena_memory = std::span<std::byte>(static_cast<std::byte*>(nullptr), bytes);
  EXPECT_CODE(Engine::create(*plan_, {}, options), Code::invalid_argument);
  options.arena_memory = std::span<std::byte>(memory.get(), 4096);
  EXPECT_CODE(Engine::create(*plan_, {}, options), Code::invalid_argument);
}

TEST_F(LayersTest, PassesRunAtOnceWhenResident) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(Budget::of_percent(100), 2)));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto context = engine.create_context();
      ASSERT_OK(context);
      for (int pass = 0; pass < 10; ++pass) {
        auto got = run_once(*context, inputs_);
        ASSERT_OK(got);
        EXPECT_TRUE(same_bits(*got, want_)) << "thread " << t;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
  for (const int bad : {0, -1, 65}) EXPECT_CODE(Engine::create(*plan_, {}, with_budget(Budget::automatic(), bad)), Code::invalid_argument);
}

TEST_F(LayersTest, DebugSeesTensorsAndChangesNoBits) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(0, 1))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  std::set<std::string> seen;
  HostTensor last;
  const auto callback = [&](const DebugTensor& tensor) {
    seen.insert(std::string(tensor.name));
    if (tensor.name != "y") return;
    last = HostTensor(tensor.tensor.dtype, tensor.tensor.shape);
    std::memcpy(last.data(), tensor.tensor.data, last.bytes());
  };
  ASSERT_OK(context.set_debug(callback, {}));
  ASSERT_VALUE(const HostTensor got, run_once(context, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
  EXPECT_TRUE(same_bits(last, want_));
  EXPECT_TRUE(seen.count("x") == 1 && seen.count("y") == 1);
  EXPECT_GE(seen.size(), static_cast<std::size_t>(kLayers) + 1);
  EXPECT_CODE(context.set_debug(callback, {"y", "nothing"}), Code::invalid_argument);
  seen.clear();
  ASSERT_OK(context.set_debug(callback, {"y"}));
  ASSERT_OK(context.execute());
  EXPECT_EQ(seen, std::set<std::string>{"y"});
  seen.clear();
  ASSERT_OK(context.set_debug(nullptr, {}));
  ASSERT_OK(context.execute());
  EXPECT_TRUE(seen.empty());
}

TEST_F(LayersTest, ShapesMayChangeFromPassToPass) {
  ASSERT_VALUE(Engine small, Engine::create(*plan_, {}, with_budget(Budget::of_bytes(sizes_.min_budget + (1u << 20)))));
  ASSERT_VALUE(ExecutionContext context, small.create_context());
  for (const std::int64_t batch : {3, 1, 7, 0, 2, 16, 3}) {
    const Tensors inputs = only("x", random_tensor(DType::f32, Shape{batch, kWidth}, 50 + static_cast<std::uint64_t>(batch)));
    ASSERT_VALUE(const HostTensor got, run_once(context, inputs));
    EXPECT_EQ(got.shape().to_string(), (Shape{batch, kWidth}).to_string());
    ASSERT_VALUE(Engine fresh, Engine::create(*plan_, {}, with_budget(Budget::of_percent(100))));
    ASSERT_VALUE(const HostTensor want, run_once(fresh, inputs));
    EXPECT_TRUE(same_bits(got, want)) << "batch " << batch;
  }
}

TEST_F(LayersTest, WrongInputsAreNamed) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(between(1, 2))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  Status unset = context.execute();
  EXPECT_CODE(unset, Code::invalid_argument);
  EXPECT_NE(unset.to_string().find("'x'"), std::string::npos);
  EXPECT_CODE(context.output("y"), Code::failed_precondition);
  EXPECT_CODE(context.output("z"), Code::invalid_argument);
  EXPECT_CODE(context.set_input("z", inputs_[0].second), Code::invalid_argument);
  EXPECT_CODE(context.set_input("x", random_tensor(DType::f64, Shape{1, kWidth}, 1)), Code::invalid_argument);
  EXPECT_CODE(context.set_input("x", ConstTensorView(nullptr, DType::f32, Shape{1, kWidth})), Code::invalid_argument);
  for (const Shape& shape : {Shape{1, kWidth + 1}, Shape{kWidth}, Shape{}}) {
    Status status = run_once(context, only("x", filled(shape, 1))).status();
    EXPECT_CODE(status, Code::invalid_argument);
    EXPECT_NE(status.to_string().find("x"), std::string::npos);
  }
  ASSERT_VALUE(const HostTensor got, run_once(context, inputs_));
  EXPECT_TRUE(same_bits(got, want_));
}

TEST(Version, OtherHeadersAreAnError) {
  EXPECT_OK(check_version());
  EXPECT_OK(check_version(FOREBAY_VERSION + 1));  // patch versions go together
  EXPECT_CODE(check_version(FOREBAY_VERSION + 1000), Code::failed_precondition);
  EXPECT_CODE(check_version(FOREBAY_VERSION + 1000000), Code::failed_precondition);
}

// acc_out = acc + Gather(x, index) ; y = acc_out * w: an index out of range fails the pass at run time.
OnnxMaker accumulating() {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {2, kWidth});
  graph.input("index", DType::i64, {1});
  graph.input("acc", DType::f32, {1, kWidth});
  graph.initializer("w", diagonal(2));
  graph.node("Gather", {"x", "index"}, {"row"}).set("axis", 0);
  graph.node("Add", {"acc", "row"}, {"acc_out"});
  graph.node("MatMul", {"acc_out", "w"}, {"y"});
  graph.output("acc_out", DType::f32, {1, kWidth});
  graph.output("y", DType::f32, {1, kWidth});
  return maker;
}

Tensors picking(std::int64_t row) {
  Tensors inputs = only("x", filled(Shape{2, kWidth}, 1));
  for (std::size_t i = 0; i < kWidth; ++i) inputs[0].second.as<float>()[kWidth + i] = 10;
  HostTensor index(DType::i64, Shape{1});
  index.as<std::int64_t>()[0] = row;
  inputs.emplace_back("index", std::move(index));
  return inputs;
}

TEST(State, OutputBecomesTheNextInput) {
  TempFolder folder;
  ASSERT_VALUE(Plan plan, build_plan(accumulating(), folder, "acc"));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_percent(100))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  EXPECT_CODE(context.bind_state("nothing", "acc"), Code::invalid_argument);
  EXPECT_CODE(context.bind_state("acc_out", "nothing"), Code::invalid_argument);
  EXPECT_CODE(context.bind_state("acc_out", "index"), Code::invalid_argument);
  ASSERT_OK(context.set_input("acc", filled(Shape{1, kWidth}, 100)));
  ASSERT_OK(context.bind_state("acc_out", "acc"));
  EXPECT_CODE(context.bind_state("y", "acc"), Code::invalid_argument);
  const auto expect = [&](std::int64_t row, float value) {
    auto got = run_once(context, picking(row));
    ASSERT_OK(got);
    EXPECT_TRUE(same_bits(*got, filled(Shape{1, kWidth}, 2 * value))) << got->as<float>()[0];
  };
  expect(0, 101);
  expect(1, 111);
  // A failing pass leaves the state as it was.
  for (const std::int64_t row : {7, -3}) {
    Status failed = run_once(context, picking(row)).status();
    EXPECT_CODE(failed, Code::invalid_argument);
  }
  expect(0, 112);
  ASSERT_OK(context.output("acc_out").status());
  ASSERT_OK(context.reset_state());
  EXPECT_CODE(context.output("acc_out").status(), Code::failed_precondition);
  expect(1, 10);
  ASSERT_VALUE(const HostTensor held, context.output("acc_out"));
  EXPECT_TRUE(same_bits(held, filled(Shape{1, kWidth}, 10)));
  expect(1, 20);
  ASSERT_OK(context.set_input("acc", filled(Shape{1, kWidth}, 1000)));
  expect(0, 1001);
  // Another context has its own state; closing it moves nothing of ours.
  {
    ASSERT_VALUE(ExecutionContext other, engine.create_context());
    ASSERT_OK(other.bind_state("acc_out", "acc"));
    ASSERT_VALUE(const HostTensor got, run_once(other, picking(0)));
    EXPECT_TRUE(same_bits(got, filled(Shape{1, kWidth}, 2)));
    expect(0, 1002);
  }
  expect(0, 1003);
  ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(engine.memory().min_budget)));
  ASSERT_OK(change.wait());
  expect(0, 1004);
}

// present = past, and twice x behind it.
Result<Plan> growing_plan(const TempFolder& folder) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.input("past", DType::f32, {"past_n", kWidth});
  graph.initializer("w", diagonal(2));
  graph.node("MatMul", {"x", "w"}, {"doubled"});
  graph.node("Concat", {"past", "doubled"}, {"present"}).set("axis", 0);
  graph.output("present", DType::f32, {"total_n", kWidth});
  return build_plan(maker, folder, "grow");
}

TEST(State, GrowsByConcat) {
  TempFolder folder;
  ASSERT_VALUE(Plan plan, growing_plan(folder));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_bytes(1u << 20))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_VALUE(ExecutionContext second, engine.create_context());
  for (ExecutionContext* c : {&context, &second}) ASSERT_OK(c->bind_state("present", "past"));
  std::vector<float> want;
  for (int pass = 0; pass < 12; ++pass) {
    const std::int64_t rows = pass % 3 + 1;
    const auto value = static_cast<float>(pass + 1);
    want.insert(want.end(), static_cast<std::size_t>(rows * kWidth), 2 * value);
    for (ExecutionContext* c : {&context, &second}) {
      ASSERT_VALUE(const HostTensor got, run_once(*c, only("x", filled(Shape{rows, kWidth}, value)), "present"));
      EXPECT_TRUE(same_bits(got, floats(Shape{static_cast<std::int64_t>(want.size()) / kWidth, kWidth}, want))) << "pass " << pass;
    }
  }
  EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
  ASSERT_OK(context.reset_state());
  ASSERT_VALUE(const HostTensor got, run_once(context, only("x", filled(Shape{1, kWidth}, 4)), "present"));
  EXPECT_TRUE(same_bits(got, filled(Shape{1, kWidth}, 8)));
  // A pass beyond the budget is refused and leaves the state.
  EXPECT_CODE(run_once(context, only("x", filled(Shape{100000, kWidth}, 4)), "present"), Code::resource_exhausted);
  ASSERT_VALUE(const HostTensor after, run_once(context, only("x", filled(Shape{1, kWidth}, 4)), "present"));
  EXPECT_TRUE(same_bits(after, filled(Shape{2, kWidth}, 8)));
}

// Prompts of several lengths, each with tokens behind it: what was prepared for a length serves again.
TEST(State, PromptsOfEarlierLengthsComeAgain) {
  TempFolder folder;
  ASSERT_VALUE(Plan plan, growing_plan(folder));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_bytes(1u << 20))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(context.bind_state("present", "past"));
  float value = 0;
  for (const std::int64_t prompt : {3, 5, 3, 7, 8, 9, 10, 11, 5, 3, 11, 11}) {
    ASSERT_OK(context.reset_state());
    std::vector<float> want;
    for (const std::int64_t rows : {prompt, std::int64_t{1}, std::int64_t{1}, std::int64_t{2}}) {
      value += 1;
      want.insert(want.end(), static_cast<std::size_t>(rows * kWidth), 2 * value);
      ASSERT_VALUE(const HostTensor got, run_once(context, only("x", filled(Shape{rows, kWidth}, value)), "present"));
      EXPECT_TRUE(same_bits(got, floats(Shape{static_cast<std::int64_t>(want.size()) / kWidth, kWidth}, want))) << prompt << " " << rows;
    }
  }
}

TEST(Shapes, ASharedDimensionMustAgree) {
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("left", DType::f32, {"n", 4});
  graph.input("right", DType::f32, {"n", 4});
  graph.initializer("scale", floats(Shape{}, {3}));  // a scalar weight
  graph.node("Add", {"left", "right"}, {"sum"});
  graph.node("Mul", {"sum", "scale"}, {"y"});
  graph.output("y", DType::f32, {"n", 4});
  ASSERT_VALUE(Plan plan, build_plan(maker, folder, "pair"));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::automatic())));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(context.set_input("left", filled(Shape{2, 4}, 1)));
  ASSERT_OK(context.set_input("right", filled(Shape{3, 4}, 2)));
  Status refused = context.execute();
  EXPECT_CODE(refused, Code::invalid_argument);
  EXPECT_NE(refused.to_string().find("left"), std::string::npos) << refused.to_string();
  EXPECT_NE(refused.to_string().find("right"), std::string::npos) << refused.to_string();
  ASSERT_OK(context.set_input("left", filled(Shape{3, 4}, 1)));
  ASSERT_OK(context.execute());
  ASSERT_VALUE(const HostTensor got, context.output("y"));
  EXPECT_TRUE(same_bits(got, filled(Shape{3, 4}, 9)));
}

TEST(Shapes, DeclaredRangesHold) {
  TempFolder folder;
  BuildOptions options;
  options.shapes = {{"x", {1, kWidth}, {2, kWidth}, {4, kWidth}}};
  const Tensors weights = layer_weights(2, kWidth, 1);
  ASSERT_VALUE(Plan plan, build_plan(make_layers(weights, kWidth), folder, "ranged", options));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::automatic())));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  for (const std::int64_t batch : {1, 4}) EXPECT_OK(run_once(context, only("x", filled(Shape{batch, kWidth}, 1))));
  for (const std::int64_t batch : {0, 5}) {
    Status refused = run_once(context, only("x", filled(Shape{batch, kWidth}, 1))).status();
    EXPECT_CODE(refused, Code::invalid_argument);
    EXPECT_NE(refused.to_string().find("'x'"), std::string::npos) << refused.to_string();
  }
}

TEST(Shapes, AWeightMayBeLargerThanTheRing) {
  TempFolder folder;
  ASSERT_VALUE(Plan plan, build_plan(make_layers(layer_weights(2, 512, 1), 512), folder, "large"));
  const Tensors inputs = only("x", random_tensor(DType::f32, Shape{2, 512}, 5));
  ASSERT_VALUE(Engine full, Engine::create(plan, {}, with_budget(Budget::of_percent(100))));
  ASSERT_VALUE(const auto sizes, full.sizes_for_shapes(shapes_of(inputs)));
  ASSERT_VALUE(const HostTensor want, run_once(full, inputs));
  ASSERT_VALUE(Engine small, Engine::create(plan, {}, with_budget(Budget::of_bytes(sizes.min_budget))));
  ASSERT_VALUE(const HostTensor got, run_once(small, inputs));
  EXPECT_TRUE(same_bits(got, want));
  EXPECT_LT(small.memory().ring, 512u * 512u * 4u);
  EXPECT_LT(small.memory().peak_committed, 512u * 512u * 4u);
}

}  // namespace
}  // namespace forebay
