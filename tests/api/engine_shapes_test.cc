// Shapes that depend on data, through the public interface: known answers, fully resident and streaming; bounds; budgets.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>

#include "api/engine_world.h"

namespace forebay {
namespace {

using namespace test;

HostTensor int_list(const std::vector<std::int64_t>& values, Shape shape = {}) {
  if (shape.rank() == 0) shape = Shape{static_cast<std::int64_t>(values.size())};
  HostTensor tensor(DType::i64, shape);
  for (std::size_t i = 0; i < values.size(); ++i) tensor.as<std::int64_t>()[i] = values[i];
  return tensor;
}

Tensors with(Tensors inputs, const std::string& name, HostTensor tensor) {
  inputs.emplace_back(name, std::move(tensor));
  return inputs;
}

// One plan: a context of a fully resident engine that sees every pass, and new engines at the minimum of what that one needed.
class World {
 public:
  explicit World(const OnnxMaker& maker, BuildOptions options = {}) {
    auto plan = build_plan(maker, folder_, "model", std::move(options));
    EXPECT_OK(plan);
    if (!plan.ok()) return;
    plan_ = std::make_unique<Plan>(std::move(*plan));
    auto engine = Engine::create(*plan_, {}, with_budget(Budget::of_percent(100)));
    EXPECT_OK(engine);
    if (!engine.ok()) return;
    engine_ = std::make_unique<Engine>(std::move(*engine));
    auto context = engine_->create_context();
    EXPECT_OK(context);
    if (context.ok()) context_ = std::make_unique<ExecutionContext>(std::move(*context));
  }

  void expect(const Tensors& inputs, const std::string& output, const HostTensor& want) {
    ASSERT_NE(context_, nullptr);
    check(*engine_, *context_, inputs, output, want, "resident");
    ASSERT_VALUE(Engine small, Engine::create(*plan_, {}, with_budget(Budget::of_bytes(engine_->memory().min_budget))));
    ASSERT_VALUE(ExecutionContext context, small.create_context());
    check(small, context, inputs, output, want, "at the minimum");
    streamed_ += context.profile().disk_bytes + context.profile().link_bytes;
  }

  Plan& plan() { return *plan_; }
  Engine& engine() { return *engine_; }
  ExecutionContext& context() { return *context_; }
  std::uint64_t streamed() const { return streamed_; }

 private:
  static void check(Engine& engine, ExecutionContext& context, const Tensors& inputs, const std::string& output, const HostTensor& want,
                    const std::string& where) {
    for (int pass = 0; pass < 2; ++pass) {
      ASSERT_VALUE(const HostTensor got, run_once(context, inputs, output));
      EXPECT_EQ(got.shape().to_string(), want.shape().to_string()) << where << ", pass " << pass;
      EXPECT_TRUE(same_bits(got, want)) << where << ", pass " << pass;
    }
    EXPECT_LE(engine.memory().peak_committed, engine.memory().budget) << where;
  }

  TempFolder folder_;
  std::unique_ptr<Plan> plan_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ExecutionContext> context_;
  std::uint64_t streamed_ = 0;
};

// x[n,W] -> MatMul 2I -> the rows whose `keep` is not zero -> MatMul 3I -> y[kept,W]; also how many, by Shape.
OnnxMaker chosen_rows() {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.input("keep", DType::f32, {"n"});
  graph.initializer("w", diagonal(2));
  graph.initializer("v", diagonal(3));
  graph.initializer_i64("one", {1});
  graph.node("MatMul", {"x", "w"}, {"h"}).name("first");
  graph.node("Relu", {"keep"}, {"mask"});
  graph.node("NonZero", {"mask"}, {"found"}).name("find");
  graph.initializer_i64("zero", {0});
  graph.node("Squeeze", {"found", "zero"}, {"rows"});
  graph.node("Gather", {"h", "rows"}, {"picked"}).set("axis", 0);
  graph.node("MatMul", {"picked", "v"}, {"y"}).name("second");
  graph.node("Shape", {"y"}, {"size"});
  graph.output("y", DType::f32, {"kept", kWidth});
  graph.output("size", DType::i64, {2});
  return maker;
}

HostTensor rows_of(const std::vector<float>& values) {
  std::vector<float> all;
  for (const float value : values) all.insert(all.end(), kWidth, value);
  return floats(Shape{static_cast<std::int64_t>(values.size()), kWidth}, all);
}

TEST(DataShapes, NonZeroDecidesTheRowsOfWhatFollows) {
  World world(chosen_rows());
  const auto inputs = [](const std::vector<float>& x, const std::vector<float>& keep) {
    return with(only("x", rows_of(x)), "keep", floats(Shape{static_cast<std::int64_t>(keep.size())}, keep));
  };
  world.expect(inputs({1, 2, 3, 4}, {0, 1, 0, 5}), "y", rows_of({12, 24}));
  world.expect(inputs({1, 2, 3, 4}, {0, 1, 0, 5}), "size", int_list({2, kWidth}));
  world.expect(inputs({1, 2, 3, 4}, {1, 1, 1, 1}), "y", rows_of({6, 12, 18, 24}));
  world.expect(inputs({1, 2, 3, 4}, {0, 0, -1, 0}), "y", rows_of({}));
  world.expect(inputs({1, 2, 3, 4}, {0, 0, -1, 0}), "size", int_list({0, kWidth}));
  world.expect(inputs({7}, {1}), "y", rows_of({42}));
  EXPECT_GT(world.streamed(), 0u);
  EXPECT_GT(world.context().profile().host_waits, 0u);
}

TEST(DataShapes, MemoryIsReservedForTheBound) {
  World world(chosen_rows());
  ASSERT_VALUE(const auto few, world.engine().sizes_for_shapes({{"x", Shape{8, kWidth}}, {"keep", Shape{8}}}));
  ASSERT_VALUE(const auto many, world.engine().sizes_for_shapes({{"x", Shape{64, kWidth}}, {"keep", Shape{64}}}));
  // h and the picked rows live together: at least two tensors of all rows.
  EXPECT_GE(few.activation_bytes, 2 * 8 * kWidth * 4u);
  EXPECT_GE(many.activation_bytes, 2 * 64 * kWidth * 4u);
}

TEST(DataShapes, ADeclaredBoundIsReservedAndEnforced) {
  BuildOptions options;
  options.bounds = {{"found", {2}}};
  World world(chosen_rows(), std::move(options));
  ASSERT_VALUE(const auto sizes, world.engine().sizes_for_shapes({{"x", Shape{1024, kWidth}}, {"keep", Shape{1024}}}));
  EXPECT_LT(sizes.activation_bytes, 2 * 1024 * kWidth * 4u + 64 * 1024);
  const auto inputs = with(only("x", rows_of({1, 2, 3})), "keep", floats(Shape{3}, {1, 0, 1}));
  world.expect(inputs, "y", rows_of({6, 18}));
  const Status refused = run_once(world.context(), with(only("x", rows_of({1, 2, 3})), "keep", floats(Shape{3}, {1, 1, 1}))).status();
  EXPECT_EQ(refused.code(), Code::resource_exhausted);
  EXPECT_NE(refused.to_string().find("found"), std::string::npos) << refused.to_string();
  EXPECT_NE(refused.to_string().find("bound is 2"), std::string::npos) << refused.to_string();
  // The context serves on.
  world.expect(inputs, "y", rows_of({6, 18}));
}

// Contexts of one engine whose passes take different shapes at the same time, while the budget and the weights change.
TEST(DataShapes, ContextsRunAtOnceWhileBudgetAndWeightsChange) {
  World world(chosen_rows());
  const auto inputs = [](std::int64_t rows, std::int64_t kept) {
    HostTensor keep(DType::f32, Shape{rows});
    for (std::int64_t i = 0; i < kept; ++i) keep.as<float>()[static_cast<std::size_t>(i)] = 1;
    return with(only("x", filled(Shape{rows, kWidth}, 1)), "keep", std::move(keep));
  };
  ASSERT_VALUE(Engine engine, Engine::create(world.plan(), {}, with_budget(Budget::of_bytes(1 << 20), 2)));
  Tensors doubled;
  doubled.emplace_back("w", diagonal(2));
  doubled.emplace_back("v", diagonal(3));
  std::vector<std::thread> threads;
  std::vector<int> wrong(3, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      auto context = engine.create_context();
      for (std::int64_t pass = 0; pass < 30 && context.ok(); ++pass) {
        const std::int64_t rows = 1 + (pass * 7 + static_cast<std::int64_t>(t) * 3) % 40, kept = (pass * 5) % (rows + 1);
        const auto got = run_once(*context, inputs(rows, kept));
        if (!got.ok() || !same_bits(*got, filled(Shape{kept, kWidth}, 6))) ++wrong[t];
      }
      if (!context.ok()) ++wrong[t];
    });
  }
  for (int change = 0; change < 6; ++change) {
    auto budget = engine.set_budget(Budget::of_bytes(change % 2 == 0 ? 256 << 10 : 1 << 20));
    if (budget.ok()) EXPECT_OK(budget->wait());
    EXPECT_OK(engine.refit(in_memory(doubled), nullptr));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(3, 0));
  EXPECT_LE(engine.memory().peak_committed, std::uint64_t{1} << 20);
}

// An index that data makes invalid fails its pass only.
TEST(DataShapes, AFailingPassLeavesTheContextAsItWas) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.input("keep", DType::f32, {"m"});
  graph.initializer("w", diagonal(2));
  graph.node("MatMul", {"x", "w"}, {"h"});
  graph.node("NonZero", {"keep"}, {"found"});
  graph.initializer_i64("zero", {0});
  graph.node("Squeeze", {"found", "zero"}, {"rows"});
  graph.node("Gather", {"h", "rows"}, {"y"}).set("axis", 0).name("pick");
  graph.output("y", DType::f32, {"kept", kWidth});
  World world(maker);
  const auto inputs = with(only("x", rows_of({1, 2})), "keep", floats(Shape{2}, {0, 1}));
  world.expect(inputs, "y", rows_of({4}));
  const Status failed = run_once(world.context(), with(only("x", rows_of({1, 2})), "keep", floats(Shape{3}, {1, 0, 1}))).status();
  EXPECT_CODE(failed, Code::invalid_argument);
  EXPECT_NE(failed.to_string().find("pick"), std::string::npos) << failed.to_string();
  world.expect(inputs, "y", rows_of({4}));
}

TEST(DataShapes, ABoundOfNothingIsRefused) {
  TempFolder folder;
  BuildOptions options;
  options.bounds = {{"fuond", {2}}};
  const Status unknown = build_plan(chosen_rows(), folder, "model", options).status();
  EXPECT_EQ(unknown.code(), Code::invalid_argument);
  EXPECT_NE(unknown.to_string().find("found"), std::string::npos) << unknown.to_string();
  options.bounds = {{"x", {2}}};
  EXPECT_EQ(build_plan(chosen_rows(), folder, "model", options).status().code(), Code::invalid_argument);
  options.bounds = {{"found", {1, 2, 3}}};
  EXPECT_EQ(build_plan(chosen_rows(), folder, "model", options).status().code(), Code::invalid_argument);
}

// y = x expanded to the shape that the data says.
TEST(DataShapes, AShapeFromDataMayExceedWhatWasReserved) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, kWidth});
  graph.input("wanted", DType::f32, {2});
  graph.initializer("w", diagonal(2));
  graph.node("MatMul", {"x", "w"}, {"h"});
  graph.node("Cast", {"wanted"}, {"shape"}).set("to", 7);
  graph.node("Expand", {"h", "shape"}, {"e"}).name("grow");
  graph.node("Neg", {"e"}, {"y"});
  graph.output("y", DType::f32, {"a", kWidth});
  World world(maker);
  const auto inputs = [](float rows) { return with(only("x", filled(Shape{1, kWidth}, 1)), "wanted", floats(Shape{2}, {rows, 1})); };
  world.expect(inputs(3), "y", filled(Shape{3, kWidth}, -2));
  world.expect(inputs(900), "y", filled(Shape{900, kWidth}, -2));
  world.expect(inputs(1), "y", filled(Shape{1, kWidth}, -2));
  // More than a budget in bytes can hold: refused with the bytes, and the context serves on.
  ASSERT_VALUE(Engine small, Engine::create(world.plan(), {}, with_budget(Budget::of_bytes(1 << 20))));
  ASSERT_VALUE(ExecutionContext context, small.create_context());
  const Status refused = run_once(context, inputs(100000)).status();
  EXPECT_EQ(refused.code(), Code::resource_exhausted);
  EXPECT_NE(refused.to_string().find("below the minimum of"), std::string::npos) << refused.to_string();
  ASSERT_VALUE(const HostTensor after, run_once(context, inputs(2)));
  EXPECT_TRUE(same_bits(after, filled(Shape{2, kWidth}, -2)));
}

// Boxes kept per batch and class; the count decides how many rows are gathered.
TEST(DataShapes, SuppressionFeedsSliceAndGather) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("boxes", DType::f32, {"batch", "boxes", 4});
  graph.input("scores", DType::f32, {"batch", "classes", "boxes"});
  graph.initializer("most", integer(2));
  graph.initializer("iou", floats(Shape{}, {0.5f}));
  graph.initializer("score", floats(Shape{}, {0.1f}));
  graph.node("NonMaxSuppression", {"boxes", "scores", "most", "iou", "score"}, {"selected"}).name("nms");
  graph.initializer_i64("from", {2});
  graph.initializer_i64("to", {3});
  graph.initializer_i64("axis", {1});
  graph.node("Slice", {"selected", "from", "to", "axis"}, {"column"});
  graph.node("Squeeze", {"column", "axis"}, {"index"});
  graph.initializer_i64("flat_shape", {-1, 4});
  graph.node("Reshape", {"boxes", "flat_shape"}, {"flat"});
  graph.node("Gather", {"flat", "index"}, {"picked"}).set("axis", 0);
  graph.output("selected", DType::i64, {"n", 3});
  graph.output("picked", DType::f32, {"n", 4});
  World world(maker);
  // Two batches of three boxes: the first two overlap by more than a half, the third is apart.
  const HostTensor boxes = floats(Shape{2, 3, 4}, {0, 0, 10, 10, 0, 1, 10, 11, 20, 20, 30, 30, 0, 0, 10, 10, 0, 1, 10, 11, 20, 20, 30, 30});
  const HostTensor scores = floats(Shape{2, 2, 3}, {0.9f, 0.8f, 0.7f, 0.2f, 0.3f, 0.05f, 0.05f, 0.05f, 0.05f, 0.5f, 0.6f, 0.7f});
  const auto inputs = with(only("boxes", boxes.clone()), "scores", scores.clone());
  world.expect(inputs, "selected", int_list({0, 0, 0, 0, 0, 2, 0, 1, 1, 1, 1, 2, 1, 1, 1}, Shape{5, 3}));
  world.expect(inputs, "picked", floats(Shape{5, 4}, {0, 0, 10, 10, 20, 20, 30, 30, 0, 1, 10, 11, 20, 20, 30, 30, 0, 1, 10, 11}));
  const auto none = with(only("boxes", boxes.clone()), "scores", [] {
    HostTensor zeros(DType::f32, Shape{2, 2, 3});
    return zeros;
  }());
  world.expect(none, "selected", HostTensor(DType::i64, Shape{0, 3}));
  world.expect(none, "picked", HostTensor(DType::f32, Shape{0, 4}));
}

// acc starts empty and takes a row in every iteration, until the sum of the row reaches the limit; every iteration also gives a scan slice.
TEST(DataShapes, ALoopGrowsWhatItCarriesAndStopsByData) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, kWidth});
  graph.input("limit", DType::f32, {});
  graph.initializer("most", integer(100));
  graph.initializer("start", truth(true));
  graph.initializer("empty", HostTensor(DType::f32, Shape{0, kWidth}));
  NodeMaker loop = graph.node("Loop", {"most", "start", "x", "empty"}, {"last", "rows", "sums"}).name("loop");
  GraphMaker body = loop.body("body");
  body.input("i", DType::i64, {});
  body.input("go", DType::boolean, {});
  body.input("v", DType::f32, {1, kWidth});
  body.input("acc", DType::f32, {"r", kWidth});
  body.initializer("w", diagonal(2));
  body.node("MatMul", {"v", "w"}, {"v_out"}).name("double");
  body.node("Concat", {"acc", "v_out"}, {"acc_out"}).set("axis", 0);
  body.node("ReduceSum", {"v_out"}, {"sum"}).set("keepdims", 0);
  body.node("Less", {"sum", "limit"}, {"go_out"});
  body.output("go_out", DType::boolean, {});
  body.output("v_out", DType::f32, {1, kWidth});
  body.output("acc_out", DType::f32, {"r2", kWidth});
  body.output("sum", DType::f32, {});
  graph.initializer("u", diagonal(3));
  graph.node("MatMul", {"rows", "u"}, {"y"});
  graph.output("y", DType::f32, {"r", kWidth});
  graph.output("sums", DType::f32, {"n"});
  World world(maker);
  const auto inputs = [](float limit) { return with(only("x", filled(Shape{1, kWidth}, 1)), "limit", floats(Shape{}, {limit})); };
  world.expect(inputs(1000), "y", rows_of({6, 12, 24, 48}));
  world.expect(inputs(1000), "sums", floats(Shape{4}, {128, 256, 512, 1024}));
  world.expect(inputs(1), "y", rows_of({6}));
  world.expect(inputs(300), "sums", floats(Shape{3}, {128, 256, 512}));
  EXPECT_GT(world.streamed(), 0u);
}

// What a loop of a known number of iterations may grow into is reserved before it runs; a limit far above what it takes does not matter.
TEST(DataShapes, ALoopReservesForItsLimitButTakesWhatItNeeds) {
  for (const std::int64_t most : {std::int64_t{50}, std::int64_t{1} << 40, INT64_MAX}) {
    OnnxMaker maker;
    auto graph = maker.graph();
    graph.input("x", DType::f32, {1, kWidth});
    graph.input("limit", DType::f32, {});
    graph.initializer("most", integer(most));
    graph.initializer("start", truth(true));
    graph.initializer("empty", HostTensor(DType::f32, Shape{0, kWidth}));
    NodeMaker loop = graph.node("Loop", {"most", "start", "x", "empty"}, {"last", "y", "all"}).name("loop");
    GraphMaker body = loop.body("body");
    body.input("i", DType::i64, {});
    body.input("go", DType::boolean, {});
    body.input("v", DType::f32, {1, kWidth});
    body.input("acc", DType::f32, {"r", kWidth});
    body.node("Add", {"v", "x"}, {"v_out"});
    body.node("Concat", {"acc", "v_out"}, {"acc_out"}).set("axis", 0);
    body.node("ReduceMax", {"v_out"}, {"max"}).set("keepdims", 0);
    body.node("Less", {"max", "limit"}, {"go_out"});
    body.output("go_out", DType::boolean, {});
    body.output("v_out", DType::f32, {1, kWidth});
    body.output("acc_out", DType::f32, {"r2", kWidth});
    body.output("v_out", DType::f32, {1, kWidth});
    graph.output("y", DType::f32, {"r", kWidth});
    graph.output("all", DType::f32, {"n", 1, kWidth});
    World world(maker);
    const auto inputs = [](float limit) { return with(only("x", filled(Shape{1, kWidth}, 1)), "limit", floats(Shape{}, {limit})); };
    if (most == 50) {
      ASSERT_VALUE(const auto sizes, world.engine().sizes_for_shapes(shapes_of(inputs(4))));
      EXPECT_GE(sizes.activation_bytes, 3 * 50 * kWidth * 4u);  // acc before and after, and the slices
      EXPECT_LE(sizes.activation_bytes, 6 * 50 * kWidth * 4u);
    }
    world.expect(inputs(4), "y", rows_of({2, 3, 4}));
    ASSERT_VALUE(Engine small, Engine::create(world.plan(), {}, with_budget(Budget::of_bytes(256 << 10))));
    ASSERT_VALUE(ExecutionContext context, small.create_context());
    ASSERT_VALUE(const HostTensor got, run_once(context, inputs(3)));
    EXPECT_TRUE(same_bits(got, rows_of({2, 3})));
    ASSERT_VALUE(const HostTensor all, context.output("all"));
    EXPECT_EQ(all.shape().to_string(), "[2,1,64]");
  }
}

TEST(DataShapes, BranchesMayGiveDifferentShapes) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.input("both", DType::boolean, {});
  NodeMaker node = graph.node("If", {"both"}, {"chosen"}).name("choose");
  GraphMaker then = node.body("then_branch");
  then.node("Concat", {"x", "x"}, {"twice"}).set("axis", 0);
  then.output("twice", DType::f32, {"m", kWidth});
  GraphMaker otherwise = node.body("else_branch");
  otherwise.node("Neg", {"x"}, {"minus"});
  otherwise.output("minus", DType::f32, {"n", kWidth});
  graph.initializer("w", diagonal(2));
  graph.node("MatMul", {"chosen", "w"}, {"y"});
  graph.output("y", DType::f32, {"k", kWidth});
  World world(maker);
  world.expect(with(only("x", rows_of({1, 2})), "both", truth(true)), "y", rows_of({2, 4, 2, 4}));
  world.expect(with(only("x", rows_of({1, 2})), "both", truth(false)), "y", rows_of({-2, -4}));
  ASSERT_VALUE(const auto sizes, world.engine().sizes_for_shapes({{"x", Shape{64, kWidth}}, {"both", Shape{}}}));
  EXPECT_GE(sizes.activation_bytes, (64 + 128 + 128) * kWidth * 4u);
}

TEST(DataShapes, ScanRunsBodiesWhoseShapesDependOnData) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"steps", kWidth});
  graph.input("bias", DType::f32, {1});
  NodeMaker scan = graph.node("Scan", {"bias", "x"}, {"last", "counts"}).name("scan").set("num_scan_inputs", 1);
  scan.set("scan_output_directions", std::vector<std::int64_t>{1});
  GraphMaker body = scan.body("body");
  body.input("s", DType::f32, {1});
  body.input("row", DType::f32, {kWidth});
  body.node("NonZero", {"row"}, {"found"});
  body.node("Shape", {"found"}, {"size"});
  body.node("Identity", {"s"}, {"s_out"});
  body.output("s_out", DType::f32, {1});
  body.output("size", DType::i64, {2});
  graph.output("last", DType::f32, {1});
  graph.output("counts", DType::i64, {"steps", 2});
  World world(maker);
  HostTensor x(DType::f32, Shape{3, kWidth});
  x.as<float>()[0] = 1;
  for (std::size_t i = 0; i < 5; ++i) x.as<float>()[2 * kWidth + i] = 1;
  world.expect(with(only("x", x.clone()), "bias", floats(Shape{1}, {4})), "counts", int_list({1, 5, 1, 0, 1, 1}, Shape{3, 2}));
  world.expect(with(only("x", x.clone()), "bias", floats(Shape{1}, {4})), "last", floats(Shape{1}, {4}));
}

// At shapes where a Transpose moves only dimensions of one element no kernel runs for it, and its value is the input's bytes; at others it does.
TEST(DataShapes, TransposesThatMoveNothingAreViews) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"a", "b", "c", 2});
  graph.node("Transpose", {"x"}, {"t"}).set("perm", std::vector<std::int64_t>{0, 2, 1, 3});
  graph.node("Neg", {"t"}, {"n"});
  graph.node("Transpose", {"n"}, {"y"}).set("perm", std::vector<std::int64_t>{1, 0, 2, 3});
  graph.output("y", DType::f32, {"c", "a", "b", 2});
  World world(maker);
  ASSERT_VALUE(ExecutionContext context, world.engine().create_context());
  context.set_profiling(true);
  struct Case {
    Shape in, out;
    int moves;
    std::vector<float> want;  // of 0, 1, 2, ...
  };
  const Case cases[] = {{Shape{1, 3, 1, 2}, Shape{1, 1, 3, 2}, 0, {0, -1, -2, -3, -4, -5}},
                        {Shape{1, 2, 2, 2}, Shape{2, 1, 2, 2}, 1, {0, -1, -4, -5, -2, -3, -6, -7}},
                        {Shape{2, 1, 2, 2}, Shape{2, 2, 1, 2}, 1, {0, -1, -4, -5, -2, -3, -6, -7}},
                        {Shape{1, 1, 4, 2}, Shape{4, 1, 1, 2}, 0, {0, -1, -2, -3, -4, -5, -6, -7}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.in.to_string());
    std::vector<float> values(c.want.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    ASSERT_VALUE(const HostTensor got, run_once(context, only("x", floats(c.in, values))));
    EXPECT_EQ(got.shape(), c.out);
    for (std::size_t i = 0; i < c.want.size(); ++i) EXPECT_EQ(got.as<float>()[i], c.want[i]) << i;
    int moves = 0;
    for (const PassProfile::Op& op : context.profile().ops) moves += op.op == "Transpose" ? 1 : 0;
    EXPECT_EQ(moves, c.moves);
  }
}

}  // namespace
}  // namespace forebay
