// States that grow from pass to pass: appended where they lie, or made in their other place; never carried through the activations.
#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "api/engine_world.h"

namespace forebay {
namespace {

using namespace test;

// present = past with the doubled x behind it, on `axis`; y = sums over the cache, which read it in the pass that extends it.
OnnxMaker cache_model(const std::vector<MakerDim>& x_dims, const std::vector<MakerDim>& past_dims, std::int64_t axis) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, x_dims);
  graph.input("past_key_values.0", DType::f32, past_dims);
  graph.initializer("w", diagonal(2));
  graph.node("MatMul", {"x", "w"}, {"doubled"});
  graph.node("Concat", {"past_key_values.0", "doubled"}, {"present.0"}).set("axis", axis);
  graph.initializer_i64("axes", {axis});
  graph.node("ReduceSum", {"present.0", "axes"}, {"y"}).set("keepdims", 0);
  graph.output("y", DType::f32, {});
  std::vector<MakerDim> present = past_dims;
  present[static_cast<std::size_t>(axis)] = "total";
  graph.output("present.0", DType::f32, present);
  graph.proto();
  return maker;
}

// `steps` passes with the cache bound, and with the cache carried by the caller: the same bits.
void expect_same_as_carried(const OnnxMaker& maker, BuildOptions options, const Shape& x_shape, Shape past_shape, int steps) {
  TempFolder folder;
  ASSERT_VALUE(Plan plan, build_plan(maker, folder, "cache", std::move(options)));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_bytes(8u << 20))));
  ASSERT_VALUE(ExecutionContext bound, engine.create_context());
  ASSERT_VALUE(ExecutionContext carrying, engine.create_context());
  ASSERT_OK(bound.bind_state("present.0", "past_key_values.0"));
  HostTensor past(DType::f32, past_shape);
  for (int step = 0; step < steps; ++step) {
    const HostTensor x = random_tensor(DType::f32, x_shape, static_cast<std::uint64_t>(step + 1));
    ASSERT_VALUE(const HostTensor y, run_once(bound, only("x", x.clone())));
    Tensors inputs = only("x", x.clone());
    inputs.emplace_back("past_key_values.0", past.clone());
    ASSERT_VALUE(const HostTensor want, run_once(carrying, inputs));
    EXPECT_TRUE(same_bits(y, want)) << "step " << step;
    ASSERT_VALUE(past, carrying.output("present.0"));
    if (step % 5 != 0) continue;
    ASSERT_VALUE(const HostTensor present, bound.output("present.0"));
    EXPECT_TRUE(same_bits(present, past)) << "step " << step;
  }
  EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
}

TEST(CacheState, AppendedOnTheOutermostAxis) {
  expect_same_as_carried(cache_model({"n", kWidth}, {"past", kWidth}, 0), {}, Shape{1, kWidth}, Shape{0, kWidth}, 40);
  expect_same_as_carried(cache_model({1, "n", kWidth}, {1, "past", kWidth}, 1), {}, Shape{1, 3, kWidth}, Shape{1, 0, kWidth}, 20);
}

TEST(CacheState, MadeInItsOtherPlaceOnAnInnerAxis) {
  expect_same_as_carried(cache_model({1, 4, "n", kWidth}, {1, 4, "past", kWidth}, 2), {}, Shape{1, 4, 1, kWidth}, Shape{1, 4, 0, kWidth},
                         40);
}

TEST(CacheState, TheDeclaredMaximumIsReservedOnce) {
  constexpr std::int64_t kMost = 512;
  for (const bool inner : {false, true}) {
    const std::int64_t heads = inner ? 2 : 1;
    TempFolder folder;
    BuildOptions options;
    options.shapes = {{"past_key_values.0", {1, heads, 0, kWidth}, {1, heads, 8, kWidth}, {1, heads, kMost, kWidth}}};
    ASSERT_VALUE(Plan plan, build_plan(cache_model({1, heads, "n", kWidth}, {1, heads, "past", kWidth}, 2), folder, "cache", options));
    ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_bytes(8u << 20))));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(context.bind_state("present.0", "past_key_values.0"));
    const Tensors inputs = only("x", filled(Shape{1, heads, 1, kWidth}, 1));
    ASSERT_OK(run_once(context, inputs));
    const std::uint64_t state = engine.memory().state;
    const std::uint64_t bytes = static_cast<std::uint64_t>(heads * kMost * kWidth) * 4;
    EXPECT_EQ(state, inner ? 2 * bytes : bytes);
    for (int step = 1; step < 60; ++step) ASSERT_OK(run_once(context, inputs));
    EXPECT_EQ(engine.memory().state, state);
    // The cache is in the state part alone: the activations of a pass do not grow with it.
    EXPECT_LT(engine.memory().activations, 16u * 1024);
    ASSERT_VALUE(const HostTensor y, context.output("y"));
    EXPECT_TRUE(same_bits(y, filled(Shape{1, heads, kWidth}, 120)));
  }
}

// What a cache really takes: one place where it is appended, two where not, its declared maximum.
TEST(CacheState, SizesForShapesAreThoseOfAContextWithTheStateBound) {
  for (const bool inner : {false, true}) {
    const std::int64_t heads = inner ? 2 : 1;
    TempFolder folder;
    BuildOptions options;
    options.shapes = {{"past_key_values.0", {1, heads, 0, kWidth}, {1, heads, 8, kWidth}, {1, heads, 512, kWidth}}};
    ASSERT_VALUE(Plan plan, build_plan(cache_model({1, heads, "n", kWidth}, {1, heads, "past", kWidth}, 2), folder, "cache", options));
    ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_percent(100))));
    const Shape x{1, heads, 1, kWidth}, past{1, heads, 7, kWidth};
    ASSERT_VALUE(const Engine::Sizes sizes, engine.sizes_for_shapes({{"x", x}, {"past_key_values.0", past}}));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_OK(context.bind_state("present.0", "past_key_values.0"));
    ASSERT_OK(context.set_input("past_key_values.0", filled(past, 1)));
    ASSERT_OK(run_once(context, only("x", filled(x, 1))));
    EXPECT_EQ(sizes.state_bytes, engine.memory().state);
    EXPECT_EQ(sizes.min_budget, engine.memory().min_budget);
    EXPECT_EQ(sizes.full_budget, engine.memory().full_budget);
  }
}

// Its activations keep their room for the next context; the report counts them, a smaller budget takes them.
TEST(ClosedContext, LeavesAReportThatHoldsTogether) {
  TempFolder folder;
  ASSERT_VALUE(Plan plan, build_plan(cache_model({1, 2, "n", kWidth}, {1, 2, "past", kWidth}, 2), folder, "cache"));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_percent(100))));
  const std::uint64_t before = engine.memory().min_budget;
  MemoryReport open;
  {
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    Tensors inputs = only("x", filled(Shape{1, 2, 500, kWidth}, 1));
    inputs.emplace_back("past_key_values.0", filled(Shape{1, 2, 1, kWidth}, 1));
    ASSERT_OK(run_once(context, inputs));
    open = engine.memory();
  }
  const MemoryReport closed = engine.memory();
  EXPECT_EQ(closed.full_budget, open.full_budget);
  EXPECT_LE(closed.budget, closed.full_budget);
  EXPECT_EQ(closed.min_budget, before);
  ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(before)));
  ASSERT_OK(change.wait());
  EXPECT_LE(engine.memory().committed, before);
  EXPECT_LT(engine.memory().full_budget, open.full_budget);
}

// A pass that fails, a budget change and a start from a given cache in the middle of it all.
TEST(CacheState, SurvivesFailureAndBudgetChanges) {
  TempFolder folder;
  OnnxMaker maker = cache_model({1, 2, "n", kWidth}, {1, 2, "past", kWidth}, 2);
  ASSERT_VALUE(Plan plan, build_plan(maker, folder, "cache"));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_bytes(2u << 20))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_VALUE(ExecutionContext other, engine.create_context());
  for (ExecutionContext* c : {&other, &context}) ASSERT_OK(c->bind_state("present.0", "past_key_values.0"));
  const Tensors inputs = only("x", filled(Shape{1, 2, 1, kWidth}, 1));
  for (int step = 1; step <= 12; ++step) {
    if (step == 5) {
      EXPECT_CODE(run_once(context, only("x", filled(Shape{1, 2, 40000, kWidth}, 1))), Code::resource_exhausted);
    }
    if (step == 7) {
      ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(1u << 20)));
      ASSERT_OK(change.wait());
    }
    if (step % 3 == 0) ASSERT_OK(run_once(other, inputs));
    ASSERT_VALUE(const HostTensor y, run_once(context, inputs));
    EXPECT_TRUE(same_bits(y, filled(Shape{1, 2, kWidth}, static_cast<float>(2 * step)))) << step;
  }
  // What the last pass gave can be read after the state is set anew.
  ASSERT_OK(context.set_input("past_key_values.0", filled(Shape{1, 2, 3, kWidth}, 5)));
  ASSERT_VALUE(const HostTensor before, context.output("present.0"));
  EXPECT_TRUE(same_bits(before, filled(Shape{1, 2, 12, kWidth}, 2)));
  ASSERT_VALUE(const HostTensor y, run_once(context, inputs));
  EXPECT_TRUE(same_bits(y, filled(Shape{1, 2, kWidth}, 17)));
}

// Attention over two caches [1,heads,past,width] that each take the new rows of x.
OnnxMaker attention_cache_model(std::int64_t heads) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, heads, "n", kWidth});
  for (const std::string part : {"key", "value"}) {
    graph.input("past_key_values.0." + part, DType::f32, {1, heads, "past", kWidth});
  }
  graph.initializer("w", diagonal(2));
  graph.node("MatMul", {"x", "w"}, {"doubled"});
  graph.node("Concat", {"past_key_values.0.key", "x"}, {"present.0.key"}).set("axis", 2);
  graph.node("Concat", {"past_key_values.0.value", "doubled"}, {"present.0.value"}).set("axis", -2);
  graph.node("Transpose", {"present.0.key"}, {"turned"}).set("perm", std::vector<std::int64_t>{0, 1, 3, 2});
  graph.node("MatMul", {"x", "turned"}, {"scores"});
  graph.node("Softmax", {"scores"}, {"weights"}).set("axis", -1);
  graph.node("MatMul", {"weights", "present.0.value"}, {"y"});
  graph.output("y", DType::f32, {});
  for (const std::string part : {"key", "value"}) graph.output("present.0." + part, DType::f32, {1, heads, "total", kWidth});
  graph.proto();
  return maker;
}

// With a declared most the caches have room behind each head: one place for each, new rows alone are written, the bits of carried caches;
// across a budget change, a value set anew, the row beyond the most, and what is read in between.
TEST(CacheState, GrowsBehindEachHead) {
  constexpr std::int64_t kHeads = 3, kMost = 24;
  TempFolder folder;
  BuildOptions options;
  for (const std::string part : {"key", "value"}) {
    options.shapes.push_back({"past_key_values.0." + part, {1, kHeads, 0, kWidth}, {1, kHeads, 8, kWidth}, {1, kHeads, kMost, kWidth}});
  }
  ASSERT_VALUE(Plan plan, build_plan(attention_cache_model(kHeads), folder, "cache", options));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_bytes(2u << 20))));
  ASSERT_VALUE(ExecutionContext first, engine.create_context());
  std::optional<ExecutionContext> earlier(std::move(first));  // its going moves the states behind it
  ASSERT_VALUE(ExecutionContext bound, engine.create_context());
  for (ExecutionContext* context : {&*earlier, &bound}) {
    ASSERT_OK(context->bind_state("present.0.key", "past_key_values.0.key"));
    ASSERT_OK(context->bind_state("present.0.value", "past_key_values.0.value"));
  }
  ASSERT_OK(run_once(*earlier, only("x", filled(Shape{1, kHeads, 1, kWidth}, 1))));
  ASSERT_VALUE(ExecutionContext carrying, engine.create_context());
  Tensors past;
  for (const std::string part : {"key", "value"}) past.emplace_back("past_key_values.0." + part, HostTensor(DType::f32, Shape{1, kHeads, 0, kWidth}));
  for (int step = 0; step <= kMost; ++step) {
    SCOPED_TRACE(step);
    if (step == 6) {
      ASSERT_VALUE(BudgetChange change, engine.set_budget(Budget::of_bytes(1u << 20)));
      ASSERT_OK(change.wait());
    }
    if (step == 12) earlier.reset();
    if (step == 9) {  // other values, as many rows
      for (auto& [name, tensor] : past) {
        tensor = random_tensor(DType::f32, tensor.shape(), 99);
        ASSERT_OK(bound.set_input(name, tensor));
      }
    }
    const HostTensor x = random_tensor(DType::f32, Shape{1, kHeads, 1, kWidth}, static_cast<std::uint64_t>(step + 1));
    ASSERT_VALUE(const HostTensor y, run_once(bound, only("x", x.clone())));
    if (step == 15) {
      EXPECT_EQ(engine.memory().state, 2u * kHeads * kMost * kWidth * 4) << "one place for each cache";
    }
    Tensors inputs = only("x", x.clone());
    for (const auto& [name, tensor] : past) inputs.emplace_back(name, tensor.clone());
    ASSERT_VALUE(const HostTensor want, run_once(carrying, inputs));
    EXPECT_TRUE(same_bits(y, want));
    for (auto& [name, tensor] : past) {
      const std::string output = "present" + name.substr(std::string("past_key_values").size());
      ASSERT_VALUE(tensor, carrying.output(output));
      if (step % 4 != 1 && step != kMost) continue;
      ASSERT_VALUE(const HostTensor present, bound.output(output));
      EXPECT_TRUE(same_bits(present, tensor)) << output;
    }
  }
  const HostTensor more = random_tensor(DType::f32, Shape{1, kHeads, 1, kWidth}, 77);
  EXPECT_CODE(run_once(bound, only("x", more.clone())), Code::invalid_argument);
  EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
}

}  // namespace
}  // namespace forebay
