// Passes that the caller does not wait for, on the CPU device: order, bound memory, failures.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>

#include "api/engine_world.h"

namespace forebay {
namespace {

using namespace test;

constexpr int kLayers = 6;

class Enqueue : public ::testing::Test {
 protected:
  void SetUp() override {
    const Tensors weights = layer_weights(kLayers, kWidth, 1);
    ASSERT_VALUE(Plan plan, build_plan(make_layers(weights, kWidth), folder_, "layers"));
    plan_ = std::make_unique<Plan>(std::move(plan));
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, {}, with_budget(Budget::of_percent(100))));
    for (std::uint64_t i = 0; i < 4; ++i) {
      inputs_.push_back(random_tensor(DType::f32, Shape{2, kWidth}, i + 1));
      ASSERT_VALUE(HostTensor y, run_once(engine, only("x", inputs_.back().clone())));
      wants_.push_back(std::move(y));
    }
  }
  Result<Engine> engine(double percent) { return Engine::create(*plan_, {}, with_budget(Budget::of_percent(percent))); }

  TempFolder folder_;
  std::unique_ptr<Plan> plan_;
  std::vector<HostTensor> inputs_, wants_;
};

TEST_F(Enqueue, PassesRunInOrderOnTheCallersMemory) {
  for (const double percent : {100.0, 40.0}) {
    ASSERT_VALUE(Engine engine, this->engine(percent));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    std::vector<HostTensor> results;
    for (std::size_t i = 0; i < 16; ++i) results.emplace_back(DType::f32, Shape{2, kWidth});
    for (std::size_t i = 0; i < results.size(); ++i) {
      ASSERT_OK(context.bind_input("x", inputs_[i % 4]));
      ASSERT_OK(context.bind_output("y", {results[i].data(), DType::f32, results[i].shape()}));
      ASSERT_OK(context.enqueue());
    }
    EXPECT_CODE(context.output("y"), Code::failed_precondition);
    ASSERT_OK(context.wait());
    for (std::size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(same_bits(results[i], wants_[i % 4])) << i;
  }
}

// set_input waits until the passes before it have read theirs.
TEST_F(Enqueue, InputsAreTheirsUntilConsumed) {
  ASSERT_VALUE(Engine engine, this->engine(40));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  std::vector<HostTensor> results;
  for (std::size_t i = 0; i < 12; ++i) results.emplace_back(DType::f32, Shape{2, kWidth});
  HostTensor mine = inputs_[0].clone();
  for (std::size_t i = 0; i < results.size(); ++i) {
    ASSERT_OK(context.bind_output("y", {results[i].data(), DType::f32, results[i].shape()}));
    if (i % 2 == 0) {
      ASSERT_OK(context.set_input("x", inputs_[i % 4]));
      ASSERT_OK(context.enqueue());
      continue;
    }
    std::memcpy(mine.data(), inputs_[i % 4].data(), mine.bytes());
    ASSERT_OK(context.bind_input("x", mine));
    ASSERT_OK(context.enqueue());
    ASSERT_OK(context.wait_inputs());
    std::memset(mine.data(), 0xff, mine.bytes());
  }
  ASSERT_OK(context.wait());
  for (std::size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(same_bits(results[i], wants_[i % 4])) << i;
}

TEST_F(Enqueue, ReturnsBeforeThePassHasRun) {
  ASSERT_VALUE(Engine engine, this->engine(100));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  std::atomic<bool> go{false};
  ASSERT_OK(context.set_debug(
      [&](const DebugTensor&) {
        while (!go) std::this_thread::yield();
      },
      {"y"}));
  ASSERT_OK(context.set_input("x", inputs_[1]));
  for (int i = 0; i < 5; ++i) ASSERT_OK(context.enqueue());  // would never return if it waited
  go = true;
  ASSERT_OK(context.wait());
  ASSERT_VALUE(const HostTensor y, context.output("y"));
  EXPECT_TRUE(same_bits(y, wants_[1]));
}

TEST_F(Enqueue, FailuresAreToldByWait) {
  ASSERT_VALUE(Engine engine, this->engine(100));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  EXPECT_CODE(context.enqueue(), Code::invalid_argument);  // no input
  EXPECT_OK(context.wait());
  HostTensor small(DType::f32, Shape{1, kWidth});
  ASSERT_OK(context.set_input("x", inputs_[0]));
  ASSERT_OK(context.bind_output("y", {small.data(), DType::f32, small.shape()}));
  ASSERT_OK(context.enqueue());
  EXPECT_CODE(context.wait(), Code::invalid_argument);
  EXPECT_OK(context.wait());
  EXPECT_CODE(context.bind_input("z", inputs_[0]), Code::invalid_argument);
  EXPECT_CODE(context.bind_input("x", ConstTensorView(inputs_[0].data(), DType::i64, Shape{2})), Code::invalid_argument);
  EXPECT_CODE(context.bind_input("x", ConstTensorView(nullptr, DType::f32, Shape{2, kWidth})), Code::invalid_argument);
  int nothing = 0;
  const Status refused = context.enqueue(&nothing);
  EXPECT_CODE(refused, Code::invalid_argument);
  EXPECT_NE(refused.to_string().find("no streams"), std::string::npos);
  EXPECT_CODE(context.enqueue(nullptr, &nothing), Code::invalid_argument);
  ASSERT_VALUE(ExecutionContext other, engine.create_context());
  ASSERT_VALUE(const HostTensor y, run_once(other, only("x", inputs_[2].clone())));
  EXPECT_TRUE(same_bits(y, wants_[2]));
}

TEST_F(Enqueue, AContextGoesAfterItsPasses) {
  ASSERT_VALUE(Engine engine, this->engine(40));
  HostTensor y(DType::f32, Shape{2, kWidth});
  {
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(context.set_input("x", inputs_[3]));
    ASSERT_OK(context.bind_output("y", {y.data(), DType::f32, y.shape()}));
    for (int i = 0; i < 4; ++i) ASSERT_OK(context.enqueue());
  }
  EXPECT_TRUE(same_bits(y, wants_[3]));
}

TEST_F(Enqueue, DebugSyncNamesTheKernelThatFails) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {4, 3});
  graph.input("rows", DType::i64, {2});
  graph.node("Gather", {"x", "rows"}, {"y"}).name("pick").set("axis", 0);
  graph.output("y", DType::f32, {2, 3});
  ASSERT_VALUE(Plan plan, build_plan(maker, folder_, "gather"));
  EngineOptions options = with_budget(Budget::automatic());
  options.debug_sync = true;
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, options));
  HostTensor rows(DType::i64, Shape{2});
  rows.as<std::int64_t>()[1] = 7;
  Tensors inputs = only("x", filled(Shape{4, 3}, 1));
  inputs.emplace_back("rows", rows.clone());
  const auto failed = run_once(engine, inputs);
  EXPECT_CODE(failed, Code::invalid_argument);
  for (const char* part : {"node 'pick' (Gather)", ", kernel ", " on f32[4,3], i64[2]"}) {
    EXPECT_NE(failed.status().to_string().find(part), std::string::npos) << failed.status().to_string();
  }
}

}  // namespace
}  // namespace forebay
