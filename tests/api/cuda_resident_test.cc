// Passes that come again are recorded and replayed on the CUDA device: the bits of the first, plain
// pass, and the right ones after a refit, a change of the budget, of shapes and of places. Skips
// where there is no GPU, and says so.
#include <gtest/gtest.h>

#include <memory>

#include "api/engine_world.h"
#include "runtime/device_library.h"

namespace forebay {
namespace {

using namespace test;

constexpr int kLayers = 12;
constexpr std::int64_t kSide = 256;

// x[batch,256] -> (two products with rows of weights, the one gating the other, skip, norm,
// transposes that move nothing at batch 1) x layers -> y.
OnnxMaker make_tower(const Tensors& weights) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"batch", kSide});
  std::string value = "x";
  for (const auto& [name, tensor] : weights) graph.initializer(name, tensor);
  for (int i = 0; i < kLayers; ++i) {
    const std::string n = std::to_string(i), out = i + 1 == kLayers ? "y" : "n" + n;
    graph.node("Gemm", {value, "w" + n, "b" + n}, {"g" + n}).set("transB", 1);
    graph.node("Gemm", {value, "w" + std::to_string((i + 1) % kLayers)}, {"e" + n})
        .set("transB", 1);
    graph.node("Mul", {"g" + n, "e" + n}, {"p" + n});
    graph.node("Tanh", {"p" + n}, {"t" + n});
    graph.node("Transpose", {"t" + n}, {"u" + n}).set("perm", std::vector<std::int64_t>{1, 0});
    graph.node("Transpose", {"u" + n}, {"v" + n}).set("perm", std::vector<std::int64_t>{1, 0});
    graph.node("Add", {"v" + n, value}, {"s" + n});
    graph.node("LayerNormalization", {"s" + n, "b" + n}, {out}).set("axis", -1);
    value = out;
  }
  graph.output("y", DType::f32, {"batch", kSide});
  return maker;
}

class CudaResident : public testing::Test {
 protected:
  void SetUp() override {
    auto device = load_device("cuda");
    if (!device.ok()) GTEST_SKIP() << device.status().to_string();
    BuildOptions build;
    build.slab_bytes = 32 << 10;
    auto plan = build_plan(make_tower(weights_), folder_, "tower", build);
    ASSERT_OK(plan);
    plan_ = std::make_unique<Plan>(std::move(*plan));
    for (const std::int64_t batch : {1, 5})
      want_[batch == 1 ? 0 : 1] = first(weights_, input(batch));
  }
  static Tensors input(std::int64_t batch) {
    return only("x",
                random_tensor(DType::f32, Shape{batch, kSide}, static_cast<std::uint64_t>(batch)));
  }
  static EngineOptions on_cuda(int percent) {
    EngineOptions options = with_budget(Budget::of_percent(percent));
    options.device = "cuda";
    return options;
  }
  // The first pass of an engine: nothing of it has been recorded.
  HostTensor first(const Tensors& weights, const Tensors& inputs) {
    auto engine = Engine::create(*plan_, in_memory(weights), on_cuda(100));
    EXPECT_TRUE(engine.ok()) << engine.status().to_string();
    auto got = run_once(*engine, inputs);
    EXPECT_TRUE(got.ok()) << got.status().to_string();
    return got.ok() ? std::move(*got) : HostTensor();
  }
  void expect_passes(ExecutionContext& context, std::int64_t batch, const HostTensor& want,
                     const std::string& when) {
    for (int pass = 0; pass < 5; ++pass) {
      ASSERT_VALUE(const HostTensor got, run_once(context, input(batch)));
      EXPECT_TRUE(same_bits(got, want)) << when << ", pass " << pass;
    }
  }

  TempFolder folder_;
  Tensors weights_ = layer_weights(kLayers, kSide, 1);
  std::unique_ptr<Plan> plan_;
  HostTensor want_[2];  // batch 1 and 5
};

TEST_F(CudaResident, EveryPassHasTheBitsOfTheFirst) {
  for (const int percent : {100, 80, 60}) {
    ASSERT_VALUE(Engine engine, Engine::create(*plan_, in_memory(weights_), on_cuda(percent)));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    expect_passes(context, 1, want_[0], "budget " + std::to_string(percent));
  }
}

// The input lies where it lay, its values are others.
TEST_F(CudaResident, ReplaysReadWhatIsThereNow) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, in_memory(weights_), on_cuda(100)));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  expect_passes(context, 1, want_[0], "first values");
  for (std::uint64_t seed = 21; seed < 24; ++seed) {
    const Tensors other = only("x", random_tensor(DType::f32, Shape{1, kSide}, seed));
    ASSERT_VALUE(const HostTensor got, run_once(context, other));
    EXPECT_TRUE(same_bits(got, first(weights_, other))) << seed;
  }
}

TEST_F(CudaResident, ShapesBudgetsAndRefitsChangeUnderIt) {
  const Tensors others = layer_weights(kLayers, kSide, 2);
  const HostTensor want_other = first(others, input(1));
  ASSERT_FALSE(same_bits(want_other, want_[0]));
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, in_memory(weights_), on_cuda(100)));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  expect_passes(context, 1, want_[0], "at first");
  expect_passes(context, 5, want_[1], "another shape");
  expect_passes(context, 1, want_[0], "the first shape again");
  for (const int percent : {70, 100, 50, 100}) {
    ASSERT_VALUE(auto change, engine.set_budget(Budget::of_percent(percent)));
    ASSERT_OK(change.wait());
    expect_passes(context, 1, want_[0], "budget " + std::to_string(percent));
  }
  for (int refit = 0; refit < 4; ++refit) {
    ASSERT_OK(engine.refit(in_memory(refit % 2 == 0 ? others : weights_), nullptr));
    expect_passes(context, 1, refit % 2 == 0 ? want_other : want_[0],
                  "refit " + std::to_string(refit));
  }
}

TEST_F(CudaResident, TwoContextsHaveTheirOwn) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, in_memory(weights_), on_cuda(100)));
  ASSERT_VALUE(ExecutionContext a, engine.create_context());
  ASSERT_VALUE(ExecutionContext b, engine.create_context());
  for (int round = 0; round < 3; ++round) {
    expect_passes(a, 1, want_[0], "the one context");
    expect_passes(b, 5, want_[1], "the other");
  }
}

// Queries, keys and values of many rows: resident they share a launch, streaming their slabs have one each.
TEST_F(CudaResident, ProductsOfOneValueHaveTheirBitsAtEveryBudget) {
  constexpr std::int64_t kRows = 40;
  Tensors weights;
  for (int i = 0; i < kLayers; ++i) {
    const std::string n = std::to_string(i);
    for (const std::string which : {"q", "k", "v"})
      weights.emplace_back(which + n, random_tensor(DType::f16, Shape{kSide, kSide}, static_cast<std::uint64_t>(i * 3 + which[0])));
    weights.emplace_back("s" + n, random_tensor(DType::f16, Shape{kSide}, static_cast<std::uint64_t>(i)));
  }
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f16, {kRows, kSide});
  for (const auto& [name, tensor] : weights) graph.initializer(name, tensor);
  std::string value = "x";
  for (int i = 0; i < kLayers; ++i) {
    const std::string n = std::to_string(i), out = i + 1 == kLayers ? "y" : "n" + n;
    for (const std::string which : {"q", "k", "v"}) {
      graph.node("MatMul", {value, which + n}, {which + "product" + n});
      graph.node("Add", {which + "product" + n, "s" + n}, {which + "of" + n});
    }
    graph.node("Mul", {"qof" + n, "kof" + n}, {"m" + n});
    graph.node("Add", {"m" + n, "vof" + n}, {"a" + n});
    graph.node("LayerNormalization", {"a" + n, "s" + n}, {out}).set("axis", -1);
    value = out;
  }
  graph.output("y", DType::f16, {kRows, kSide});
  BuildOptions build;
  build.slab_bytes = 32 << 10;
  ASSERT_VALUE(const Plan plan, build_plan(maker, folder_, "triples", build));
  const Tensors given = only("x", random_tensor(DType::f16, Shape{kRows, kSide}, 99));
  HostTensor want;
  for (const int percent : {100, 70, 40}) {
    ASSERT_VALUE(Engine engine, Engine::create(plan, in_memory(weights), on_cuda(percent)));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    for (int pass = 0; pass < 4; ++pass) {
      ASSERT_VALUE(HostTensor got, run_once(context, given));
      if (want.bytes() > 0) {
        EXPECT_TRUE(same_bits(got, want)) << percent << " %, pass " << pass;
      }
      want = std::move(got);
    }
  }
}

// The rows of a table come from host memory at first, then from the table on the device, where the budget holds it.
TEST_F(CudaResident, TablesThatPassesAskForOftenHaveAPlace) {
  constexpr std::int64_t kRows = 4096, kWide = 64, kIds = 600;
  const auto table = [](std::uint64_t seed) { return only("t", random_tensor(DType::f32, Shape{kRows, kWide}, seed)); };
  OnnxMaker maker;
  const Tensors first_table = table(1), other_table = table(2);
  auto graph = maker.graph();
  graph.input("ids", DType::i64, {kIds});
  graph.initializer("t", first_table[0].second);
  graph.node("Gather", {"t", "ids"}, {"rows"});
  graph.node("Add", {"rows", "rows"}, {"y"});
  graph.output("y", DType::f32, {kIds, kWide});
  BuildOptions build;
  build.slab_bytes = 32 << 10;
  ASSERT_VALUE(const Plan plan, build_plan(maker, folder_, "table", build));
  Tensors ids = only("ids", HostTensor(DType::i64, Shape{kIds}));
  const auto fill = [&](std::int64_t step) {
    for (std::int64_t i = 0; i < kIds; ++i) ids[0].second.as<std::int64_t>()[static_cast<std::size_t>(i)] = i * step % (2 * kRows) - kRows;
  };
  const auto expect_rows = [&](ExecutionContext& context, const Tensors& from, const std::string& when) {
    for (int pass = 0; pass < 4; ++pass) {
      fill(7 + pass);
      ASSERT_VALUE(const HostTensor got, run_once(context, ids));
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < kIds * kWide; ++i) {
        const std::int64_t id = ids[0].second.as<std::int64_t>()[static_cast<std::size_t>(i / kWide)], row = id < 0 ? id + kRows : id;
        const float value = from[0].second.as<float>()[static_cast<std::size_t>(row * kWide + i % kWide)];
        wrong += got.as<float>()[static_cast<std::size_t>(i)] == value + value ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0) << when << ", pass " << pass;
    }
  };
  ASSERT_VALUE(Engine engine, Engine::create(plan, in_memory(first_table), on_cuda(100)));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  expect_rows(context, first_table, "at first");
  fill(7);
  ids[0].second.as<std::int64_t>()[99] = kRows;
  EXPECT_EQ(run_once(context, ids).status().code(), Code::invalid_argument);
  expect_rows(context, first_table, "after an index outside");
  for (const int percent : {90, 100}) {
    ASSERT_VALUE(auto change, engine.set_budget(Budget::of_percent(percent)));
    ASSERT_OK(change.wait());
    expect_rows(context, first_table, "budget " + std::to_string(percent));
  }
  for (const Tensors* tables : {&other_table, &first_table}) {
    ASSERT_OK(engine.refit(in_memory(*tables), nullptr));
    expect_rows(context, *tables, "after a refit");
  }
}

}  // namespace
}  // namespace forebay
