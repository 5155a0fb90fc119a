// If, Loop and Scan through the public interface: known answers, fully resident and streaming at the minimum.
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "api/engine_world.h"

namespace forebay {
namespace {

using namespace test;

// The plan at full residency and at the minimum of these inputs.
class Both {
 public:
  explicit Both(const OnnxMaker& maker) {
    auto plan = build_plan(maker, folder_, "model");
    EXPECT_OK(plan);
    if (plan.ok()) plan_ = std::make_unique<Plan>(std::move(*plan));
  }

  void expect(const Tensors& inputs, const std::string& output, const HostTensor& want, bool streams = true) {
    ASSERT_NE(plan_, nullptr);
    ASSERT_VALUE(Engine full, Engine::create(*plan_, {}, with_budget(Budget::of_percent(100))));
    ASSERT_VALUE(const auto sizes, full.sizes_for_shapes(shapes_of(inputs)));
    ASSERT_VALUE(Engine small, Engine::create(*plan_, {}, with_budget(Budget::of_bytes(sizes.min_budget))));
    for (Engine* engine : {&full, &small}) {
      const std::string where = engine == &full ? "resident" : "at the minimum";
      ASSERT_VALUE(ExecutionContext context, engine->create_context());
      for (int pass = 0; pass < 2; ++pass) {
        ASSERT_VALUE(const HostTensor got, run_once(context, inputs, output));
        EXPECT_EQ(got.shape().to_string(), want.shape().to_string()) << where;
        EXPECT_TRUE(same_bits(got, want)) << where << ", pass " << pass << ": first value " << (got.bytes() >= 4 ? got.as<float>()[0] : 0);
      }
      EXPECT_LE(engine->memory().peak_committed, engine->memory().budget) << where;
      if (engine == &small && streams) {
        EXPECT_GT(context.profile().disk_bytes + context.profile().link_bytes, 0u);
      }
    }
  }

  Status refusal(const Tensors& inputs) {
    auto engine = Engine::create(*plan_, {}, with_budget(Budget::automatic()));
    if (!engine.ok()) return std::move(engine).status();
    return run_once(*engine, inputs).status();
  }

  const Plan& plan() const { return *plan_; }

 private:
  TempFolder folder_;
  std::unique_ptr<Plan> plan_;
};

Tensors with(Tensors inputs, const std::string& name, HostTensor tensor) {
  inputs.emplace_back(name, std::move(tensor));
  return inputs;
}

void add_branches(NodeMaker node) {
  for (const bool then : {true, false}) {
    GraphMaker body = node.body(then ? "then_branch" : "else_branch");
    const std::string n = then ? "t" : "e";
    body.initializer("w_" + n, diagonal(then ? 2 : 3));
    body.node("MatMul", {"x", "w_" + n}, {"r_" + n});
    body.output("r_" + n, DType::f32, {"n", kWidth});
  }
}

TEST(If, TakesTheBranchOfTheData) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.input("condition", DType::boolean, {});
  add_branches(graph.node("If", {"condition"}, {"chosen"}).name("choose"));
  graph.initializer("w", diagonal(5));
  graph.node("MatMul", {"chosen", "w"}, {"y"});
  graph.output("y", DType::f32, {"n", kWidth});
  Both both(maker);
  const Shape shape{2, kWidth};
  both.expect(with(only("x", filled(shape, 1)), "condition", truth(true)), "y", filled(shape, 10));
  both.expect(with(only("x", filled(shape, 1)), "condition", truth(false)), "y", filled(shape, 15));
  // One context, changing its mind.
  ASSERT_VALUE(Engine engine, Engine::create(both.plan(), {}, with_budget(Budget::of_percent(30))));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  for (int pass = 0; pass < 6; ++pass) {
    const bool then = pass % 3 == 0;
    ASSERT_VALUE(const HostTensor got, run_once(context, with(only("x", filled(shape, 1)), "condition", truth(then))));
    EXPECT_TRUE(same_bits(got, filled(shape, then ? 10 : 15))) << pass;
    EXPECT_GT(context.profile().host_waits, 0u);
  }
}

TEST(If, AConditionOfShapesIsKnownOnTheHost) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.node("Shape", {"x"}, {"shape"});
  graph.constant("zero", integer(0));
  graph.constant("two", integer(2));
  graph.node("Gather", {"shape", "zero"}, {"rows"}).set("axis", 0);
  graph.node("Greater", {"rows", "two"}, {"many"});
  add_branches(graph.node("If", {"many"}, {"y"}).name("choose"));
  graph.output("y", DType::f32, {"n", kWidth});
  Both both(maker);
  both.expect(only("x", filled(Shape{3, kWidth}, 1)), "y", filled(Shape{3, kWidth}, 2));
  both.expect(only("x", filled(Shape{2, kWidth}, 1)), "y", filled(Shape{2, kWidth}, 3));
  ASSERT_VALUE(Engine engine, Engine::create(both.plan(), {}, with_budget(Budget::automatic())));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  for (const std::int64_t rows : {1, 4, 2, 5}) {
    ASSERT_VALUE(const HostTensor got, run_once(context, only("x", filled(Shape{rows, kWidth}, 1))));
    EXPECT_TRUE(same_bits(got, filled(Shape{rows, kWidth}, rows > 2 ? 2 : 3))) << rows;
    EXPECT_EQ(context.profile().host_waits, 0u);
  }
}

// v = v * 2I, `trips` times; the trip count is data unless fixed.
OnnxMaker doubling_loop(int fixed_trips) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, kWidth});
  if (fixed_trips < 0) {
    graph.input("trips", DType::i64, {});
  } else {
    graph.initializer("trips", integer(fixed_trips));
  }
  const std::vector<std::string> outputs = fixed_trips < 0 ? std::vector<std::string>{"y"} : std::vector<std::string>{"y", "all"};
  NodeMaker loop = graph.node("Loop", {"trips", "", "x"}, outputs).name("loop");
  GraphMaker body = loop.body("body");
  body.input("i", DType::i64, {});
  body.input("go", DType::boolean, {});
  body.input("v", DType::f32, {1, kWidth});
  body.initializer("w", diagonal(2));
  body.node("MatMul", {"v", "w"}, {"v_out"}).name("double");
  body.node("Identity", {"go"}, {"go_out"});
  body.output("go_out", DType::boolean, {});
  body.output("v_out", DType::f32, {1, kWidth});
  if (fixed_trips >= 0) {
    body.node("Neg", {"v_out"}, {"minus"});
    body.output("minus", DType::f32, {1, kWidth});
  }
  graph.output("y", DType::f32, {1, kWidth});
  if (fixed_trips >= 0) graph.output("all", DType::f32, {fixed_trips, 1, kWidth});
  return maker;
}

TEST(Loop, RunsAsOftenAsTheDataSays) {
  Both both(doubling_loop(-1));
  const Shape shape{1, kWidth};
  for (const int trips : {1, 2, 5}) {
    both.expect(with(only("x", filled(shape, 1)), "trips", integer(trips)), "y", filled(shape, static_cast<float>(1 << trips)));
  }
  // No trip at all, also for a negative count.
  for (const int trips : {0, -4}) both.expect(with(only("x", filled(shape, 1)), "trips", integer(trips)), "y", filled(shape, 1), false);
}

TEST(Loop, CollectsScanOutputs) {
  Both both(doubling_loop(4));
  const Shape shape{1, kWidth};
  std::vector<float> all;
  for (const float value : {-2.0f, -4.0f, -8.0f, -16.0f}) all.insert(all.end(), kWidth, value);
  both.expect(only("x", filled(shape, 1)), "y", filled(shape, 16));
  both.expect(only("x", filled(shape, 1)), "all", floats(Shape{4, 1, kWidth}, all));
}

TEST(Loop, WithZeroFixedTripsIsEmpty) {
  Both both(doubling_loop(0));
  both.expect(only("x", filled(Shape{1, kWidth}, 1)), "y", filled(Shape{1, kWidth}, 1), false);
  both.expect(only("x", filled(Shape{1, kWidth}, 1)), "all", filled(Shape{0, 1, kWidth}, 0), false);
}

TEST(Loop, EndsWhenItsConditionDoes) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, kWidth});
  graph.input("limit", DType::f32, {});
  graph.input("start", DType::boolean, {});
  NodeMaker loop = graph.node("Loop", {"", "start", "x"}, {"y"}).name("loop");
  GraphMaker body = loop.body("body");
  body.input("i", DType::i64, {});
  body.input("go", DType::boolean, {});
  body.input("v", DType::f32, {1, kWidth});
  body.initializer("w", diagonal(2));
  body.node("MatMul", {"v", "w"}, {"v_out"});
  body.node("ReduceSum", {"v_out"}, {"sum"}).set("keepdims", 0);
  body.node("Less", {"sum", "limit"}, {"go_out"});
  body.output("go_out", DType::boolean, {});
  body.output("v_out", DType::f32, {1, kWidth});
  graph.output("y", DType::f32, {1, kWidth});
  Both both(maker);
  const Shape shape{1, kWidth};
  const auto inputs = [&](float limit, bool start) {
    return with(with(only("x", filled(shape, 1)), "limit", floats(Shape{}, {limit})), "start", truth(start));
  };
  both.expect(inputs(1000, true), "y", filled(shape, 16));
  both.expect(inputs(1, true), "y", filled(shape, 2));
  both.expect(inputs(1000, false), "y", filled(shape, 1), false);
}

TEST(Loop, DebugCountsIterations) {
  Both both(doubling_loop(-1));
  ASSERT_VALUE(Engine engine, Engine::create(both.plan(), {}, with_budget(Budget::automatic())));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  std::vector<std::pair<std::int64_t, float>> seen;
  ASSERT_OK(context.set_debug(
      [&](const DebugTensor& tensor) {
        float first = 0;
        std::memcpy(&first, tensor.tensor.data, sizeof first);
        seen.emplace_back(tensor.iteration, first);
      },
      {"loop/body/v_out"}));
  ASSERT_OK(run_once(context, with(only("x", filled(Shape{1, kWidth}, 1)), "trips", integer(4))));
  const std::vector<std::pair<std::int64_t, float>> want{{0, 2.0f}, {1, 4.0f}, {2, 8.0f}, {3, 16.0f}};
  EXPECT_EQ(seen, want);
}

TEST(Loop, CarriedValuesMaySwap) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, kWidth});
  graph.input("z", DType::f32, {1, kWidth});
  graph.input("trips", DType::i64, {});
  NodeMaker loop = graph.node("Loop", {"trips", "", "x", "z"}, {"y", "other"}).name("loop");
  GraphMaker body = loop.body("body");
  body.input("i", DType::i64, {});
  body.input("go", DType::boolean, {});
  body.input("a", DType::f32, {1, kWidth});
  body.input("b", DType::f32, {1, kWidth});
  body.initializer("w", diagonal(2));
  body.node("Identity", {"go"}, {"go_out"});
  body.node("MatMul", {"b", "w"}, {"a_out"});
  body.node("Identity", {"a"}, {"b_out"});
  body.output("go_out", DType::boolean, {});
  body.output("a_out", DType::f32, {1, kWidth});
  body.output("b_out", DType::f32, {1, kWidth});
  graph.output("y", DType::f32, {1, kWidth});
  graph.output("other", DType::f32, {1, kWidth});
  Both both(maker);
  const Shape shape{1, kWidth};
  const auto inputs = with(with(only("x", filled(shape, 1)), "z", filled(shape, 10)), "trips", integer(3));
  // (1,10) -> (20,1) -> (2,20) -> (40,2)
  both.expect(inputs, "y", filled(shape, 40));
  both.expect(inputs, "other", filled(shape, 2));
}

// s_out = 2 s + x, and that as the slice of the output.
void doubling_body(NodeMaker scan) {
  GraphMaker body = scan.body("body");
  body.input("s", DType::f32, {1, kWidth});
  body.input("xi", DType::f32, {1, kWidth});
  body.initializer("w", diagonal(2));
  body.node("MatMul", {"s", "w"}, {"doubled"});
  body.node("Add", {"doubled", "xi"}, {"s_out"});
  body.node("Identity", {"s_out"}, {"yi"});
  body.output("s_out", DType::f32, {1, kWidth});
  body.output("yi", DType::f32, {1, kWidth});
}

HostTensor rows(const Shape& shape, const std::vector<float>& values) {
  std::vector<float> all;
  for (const float value : values) all.insert(all.end(), kWidth, value);
  return floats(shape, all);
}

// Sequences of a batch one after another, each from its own state.
TEST(Scan, OfOpset8RunsOverTheBatch) {
  OnnxMaker maker(8, 4);
  auto graph = maker.graph();
  graph.input("x", DType::f32, {2, "steps", 1, kWidth});
  graph.input("s0", DType::f32, {2, 1, kWidth});
  doubling_body(graph.node("Scan", {"", "s0", "x"}, {"last", "y"}).name("scan").set("num_scan_inputs", 1));
  graph.output("last", DType::f32, {2, 1, kWidth});
  graph.output("y", DType::f32, {2, "steps", 1, kWidth});
  Both both(maker);
  const Shape shape{2, 3, 1, kWidth};
  const auto inputs = with(only("x", rows(shape, {1, 2, 3, 4, 5, 6})), "s0", rows(Shape{2, 1, kWidth}, {0, 10}));
  both.expect(inputs, "y", rows(shape, {1, 4, 11, 24, 53, 112}));
  both.expect(inputs, "last", rows(Shape{2, 1, kWidth}, {11, 112}));
}

TEST(Scan, OfOpset8WithSequenceLengthsIsRefusedByName) {
  OnnxMaker maker(8, 4);
  auto graph = maker.graph();
  graph.input("lengths", DType::i64, {2});
  graph.input("x", DType::f32, {2, 3, 1, kWidth});
  graph.input("s0", DType::f32, {2, 1, kWidth});
  doubling_body(graph.node("Scan", {"lengths", "s0", "x"}, {"last", "y"}).name("scan").set("num_scan_inputs", 1));
  graph.output("y", DType::f32, {2, 3, 1, kWidth});
  TempFolder folder;
  const Status refused = build_plan(maker, folder, "model").status();
  EXPECT_CODE(refused, Code::unsupported);
  EXPECT_NE(refused.to_string().find("'scan': sequence_lens"), std::string::npos) << refused.to_string();
}

TEST(Scan, TakesAndGivesOtherAxes) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1, "steps", kWidth});
  graph.input("s0", DType::f32, {1, kWidth});
  NodeMaker scan = graph.node("Scan", {"s0", "x"}, {"last", "y"}).name("scan").set("num_scan_inputs", 1);
  scan.set("scan_input_axes", std::vector<std::int64_t>{-2});
  scan.set("scan_output_axes", std::vector<std::int64_t>{2});
  doubling_body(scan);
  graph.output("last", DType::f32, {1, kWidth});
  graph.output("y", DType::f32, {1, kWidth, "steps"});
  Both both(maker);
  const auto inputs = with(only("x", rows(Shape{1, 3, kWidth}, {1, 2, 3})), "s0", filled(Shape{1, kWidth}, 0));
  std::vector<float> y;
  for (std::int64_t column = 0; column < kWidth; ++column) y.insert(y.end(), {1, 4, 11});
  both.expect(inputs, "y", floats(Shape{1, kWidth, 3}, y));
}

TEST(Scan, RunsForwardAndBackward) {
  for (const bool reverse : {false, true}) {
    OnnxMaker maker;
    auto graph = maker.graph();
    graph.input("x", DType::f32, {"steps", 1, kWidth});
    graph.input("s0", DType::f32, {1, kWidth});
    const std::int64_t direction = reverse ? 1 : 0;
    NodeMaker scan = graph.node("Scan", {"s0", "x"}, {"last", "y"}).name("scan").set("num_scan_inputs", 1);
    scan.set("scan_input_directions", std::vector<std::int64_t>{direction});
    scan.set("scan_output_directions", std::vector<std::int64_t>{direction});
    doubling_body(scan);
    graph.output("last", DType::f32, {1, kWidth});
    graph.output("y", DType::f32, {"steps", 1, kWidth});
    Both both(maker);
    std::vector<float> x, y;
    const std::vector<float> values = reverse ? std::vector<float>{17, 8, 3} : std::vector<float>{1, 4, 11};
    for (std::size_t step = 0; step < 3; ++step) {
      x.insert(x.end(), kWidth, static_cast<float>(step + 1));
      y.insert(y.end(), kWidth, values[step]);
    }
    const Shape shape{3, 1, kWidth};
    const auto inputs = with(only("x", floats(shape, x)), "s0", filled(Shape{1, kWidth}, 0));
    both.expect(inputs, "y", floats(shape, y));
    both.expect(inputs, "last", filled(Shape{1, kWidth}, reverse ? 17 : 11));
  }
}

TEST(Control, LoopsNestWithBranchesInside) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.input("trips", DType::i64, {});
  graph.input("condition", DType::boolean, {});
  NodeMaker outer = graph.node("Loop", {"trips", "", "x"}, {"y"}).name("outer");
  GraphMaker body = outer.body("body");
  body.input("i", DType::i64, {});
  body.input("go", DType::boolean, {});
  body.input("v", DType::f32, {"n", kWidth});
  body.node("Identity", {"go"}, {"go_out"});
  NodeMaker branch = body.node("If", {"condition"}, {"v_out"}).name("branch");
  for (const bool then : {true, false}) {
    GraphMaker side = branch.body(then ? "then_branch" : "else_branch");
    const std::string n = then ? "t" : "e";
    side.initializer("w_" + n, diagonal(then ? 2 : 3));
    side.node("MatMul", {"v", "w_" + n}, {"r_" + n});
    side.output("r_" + n, DType::f32, {"n", kWidth});
  }
  body.output("go_out", DType::boolean, {});
  body.output("v_out", DType::f32, {"n", kWidth});
  graph.output("y", DType::f32, {"n", kWidth});
  Both both(maker);
  const Shape shape{2, kWidth};
  for (const bool then : {true, false}) {
    both.expect(with(with(only("x", filled(shape, 1)), "trips", integer(3)), "condition", truth(then)), "y", filled(shape, then ? 8 : 27));
  }
}

}  // namespace
}  // namespace forebay
