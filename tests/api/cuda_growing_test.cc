// A decoder's passes on the CUDA device, whose caches grow: recorded ahead when resident, streamed otherwise, with room behind each head or
// copied from place to place: the same bits. Skips where there is no GPU, and says so.
#include <gtest/gtest.h>

#include <memory>

#include "api/engine_world.h"
#include "runtime/device_library.h"

namespace forebay {
namespace {

using namespace test;

constexpr int kLayers = 3, kSteps = 14;
constexpr std::int64_t kHidden = 1024, kInner = 1536, kHeads = 16, kKeyHeads = 2, kHead = 64, kPrompt = 5, kMost = 64;

struct Matrix {
  const char* name;
  std::int64_t rows, columns;
};
constexpr Matrix kMatrices[] = {{"q", kHeads* kHead, kHidden}, {"k", kKeyHeads* kHead, kHidden}, {"v", kKeyHeads* kHead, kHidden},
                                {"o", kHidden, kHeads* kHead}, {"g", kInner, kHidden},           {"u", kInner, kHidden},
                                {"d", kHidden, kInner}};

constexpr std::int64_t kBlock = 32;  // of packed weights

Tensors decoder_weights(bool packed) {
  Tensors weights;
  std::uint64_t seed = 1;
  for (int i = 0; i < kLayers; ++i) {
    for (const Matrix& m : kMatrices) {
      const std::string name = m.name + std::to_string(i);
      if (!packed) {
        weights.emplace_back(name, random_tensor(DType::bf16, Shape{m.rows, m.columns}, ++seed));
        continue;
      }
      const std::int64_t blocks = m.columns / kBlock;
      weights.emplace_back(name, random_tensor(DType::u8, Shape{m.rows, blocks, kBlock / 2}, ++seed));
      weights.emplace_back(name + "_scale", random_tensor(DType::bf16, Shape{m.rows * blocks}, ++seed));
    }
    for (const char* norm : {"a", "b"}) weights.emplace_back(norm + std::to_string(i), random_tensor(DType::bf16, Shape{kHidden}, ++seed));
  }
  return weights;
}

// Norms with skips, heads in groups, caches of [1, heads, rows, width], a gated layer; `turned`: queries and keys are rotated. `packed`: weights are
// MatMulNBits'.
OnnxMaker make_decoder(const Tensors& weights, bool turned, bool packed) {
  OnnxMaker maker(23, 10);
  maker.import("com.microsoft", 1);
  auto graph = maker.graph();
  graph.input("x", DType::bf16, {"n", kHidden});
  for (const auto& [name, tensor] : weights) graph.initializer(name, tensor);
  graph.initializer_i64("q_dims", {1, -1, kHeads, kHead});
  graph.initializer_i64("k_dims", {1, -1, kKeyHeads, kHead});
  graph.initializer_i64("back", {-1, kHidden});
  const auto product = [&](const std::string& from, const std::string& weight, const std::string& to) {
    if (!packed) {
      graph.node("Gemm", {from, weight}, {to}).set("transB", 1);
      return;
    }
    const auto& m = *std::find_if(std::begin(kMatrices), std::end(kMatrices), [&](const Matrix& one) { return weight[0] == one.name[0]; });
    auto node = graph.node("MatMulNBits", {from, weight, weight + "_scale"}, {to}, "com.microsoft");
    node.set("K", m.columns).set("N", m.rows).set("bits", 4).set("block_size", kBlock);
  };
  const auto heads = [&](const std::string& from, const std::string& dims, const std::string& to) {
    graph.node("Reshape", {from, dims}, {to + "_split"});
    graph.node("Transpose", {to + "_split"}, {to}).set("perm", std::vector<std::int64_t>{0, 2, 1, 3});
  };
  // In f32, as exporters have it.
  const auto rotate = [&](const std::string& from, const std::string& to) {
    const auto multiply = [&](const std::string& half, const std::string& table) {
      graph.node("Mul", {from + half, table}, {from + half + table});
      return from + half + table;
    };
    graph.node("Cast", {from}, {from + "_wide"}).set("to", std::int64_t{1});
    graph.node("Split", {from + "_wide", "halves"}, {from + "_1", from + "_2"}).set("axis", -1);
    graph.node("Sub", {multiply("_1", "cos"), multiply("_2", "sin")}, {from + "_low"});
    graph.node("Add", {multiply("_2", "cos"), multiply("_1", "sin")}, {from + "_high"});
    graph.node("Concat", {from + "_low", from + "_high"}, {from + "_both"}).set("axis", -1);
    graph.node("Cast", {from + "_both"}, {to}).set("to", std::int64_t{16});
  };
  if (turned) {
    graph.initializer_i64("halves", {kHead / 2, kHead / 2});
    for (const char* table : {"cos", "sin"}) graph.input(table, DType::f32, {"n", kHead / 2});
  }
  std::string skip, value = "x";
  for (int i = 0; i < kLayers; ++i) {
    const std::string n = std::to_string(i);
    const auto norm = [&](const std::string& scale, const std::string& to) {
      if (skip.empty()) {
        graph.node("SimplifiedLayerNormalization", {value, scale}, {to}).set("axis", -1);
        skip = value;
        return;
      }
      graph.node("SkipSimplifiedLayerNormalization", {value, skip, scale}, {to, "", "", to + "_sum"}, "com.microsoft");
      skip = to + "_sum";
    };
    norm("a" + n, "an" + n);
    for (const std::string which : {"q", "k", "v"}) {
      product("an" + n, which + n, which + "p" + n);
      const bool rotates = turned && which != "v";
      heads(which + "p" + n, which == "q" ? "q_dims" : "k_dims", which + (rotates ? "s" : "h") + n);
      if (rotates) rotate(which + "s" + n, which + "h" + n);
    }
    for (const std::string which : {"k", "v"}) {
      const std::string past = "past_key_values." + n + which, present = "present." + n + which;
      graph.input(past, DType::bf16, {1, kKeyHeads, "past", kHead});
      graph.node("Concat", {past, which + "h" + n}, {present}).set("axis", 2);
      graph.output(present, DType::bf16, {1, kKeyHeads, "total", kHead});
    }
    graph.node("Attention", {"qh" + n, "present." + n + "k", "present." + n + "v"}, {"mixed" + n});
    graph.node("Transpose", {"mixed" + n}, {"turned" + n}).set("perm", std::vector<std::int64_t>{0, 2, 1, 3});
    graph.node("Reshape", {"turned" + n, "back"}, {"joined" + n});
    product("joined" + n, "o" + n, "op" + n);
    value = "op" + n;
    norm("b" + n, "bn" + n);
    product("bn" + n, "g" + n, "gp" + n);
    product("bn" + n, "u" + n, "up" + n);
    graph.node("Sigmoid", {"gp" + n}, {"sg" + n});
    graph.node("Mul", {"gp" + n, "sg" + n}, {"swish" + n});
    graph.node("Mul", {"swish" + n, "up" + n}, {"gated" + n});
    value = i + 1 == kLayers ? "y" : "dp" + n;
    product("gated" + n, "d" + n, value);
  }
  graph.output("y", DType::bf16, {"n", kHidden});
  return maker;
}

class CudaGrowing : public testing::Test {
 protected:
  void SetUp() override {
    auto device = load_device("cuda");
    if (!device.ok()) GTEST_SKIP() << device.status().to_string();
  }
  Result<Plan> plan(bool declared, bool turned = false) {
    turned_ = turned;
    maker_ = make_decoder(weights_, turned, packed_);
    BuildOptions options;
    options.slab_bytes = 256 << 10;
    for (int i = 0; declared && i < 2 * kLayers; ++i) {
      const std::string name = "past_key_values." + std::to_string(i / 2) + (i % 2 == 0 ? "k" : "v");
      options.shapes.push_back({name, {1, kKeyHeads, 0, kHead}, {1, kKeyHeads, 8, kHead}, {1, kKeyHeads, kMost, kHead}});
    }
    return build_plan(maker_, folder_, std::string(declared ? "declared" : "free") + (turned ? "_turned" : ""), options);
  }
  Tensors inputs_of(int step) const {
    const std::int64_t rows = step == 0 ? kPrompt : 1;
    const auto seed = static_cast<std::uint64_t>(500 + step);
    Tensors inputs = only("x", random_tensor(DType::bf16, Shape{rows, kHidden}, seed));
    for (std::uint64_t i = 0; turned_ && i < 2; ++i)
      inputs.emplace_back(i == 0 ? "cos" : "sin", random_tensor(DType::f32, Shape{rows, kHead / 2}, seed + 100 * (i + 1)));
    return inputs;
  }
  // A prompt, then single steps; and the first layer's keys at the end. When it is profiled each launch runs by itself.
  Result<std::vector<HostTensor>> decode(Engine& engine, bool profiled = false) {
    auto context = engine.create_context();
    if (!context.ok()) return std::move(context).status();
    context->set_profiling(profiled);
    for (const auto& [output, input] : engine.plan().state_pairs()) {
      if (Status bound = context->bind_state(output, input); !bound.ok()) return bound;
    }
    std::vector<HostTensor> made;
    for (int step = 0; step <= kSteps; ++step) {
      auto y = run_once(*context, inputs_of(step));
      if (!y.ok()) return std::move(y).status();
      made.push_back(std::move(*y));
    }
    auto keys = context->output("present.0k");
    if (!keys.ok()) return std::move(keys).status();
    made.push_back(std::move(*keys));
    EXPECT_LE(engine.memory().committed, engine.memory().budget);
    state_bytes_ = engine.memory().state;
    return made;
  }
  Result<std::vector<HostTensor>> decode(const Plan& of, int percent, bool profiled = false) {
    EngineOptions options = with_budget(Budget::of_percent(percent));
    options.device = "cuda";
    auto engine = Engine::create(of, in_memory(weights_), options);
    if (!engine.ok()) return std::move(engine).status();
    auto made = decode(*engine, profiled);
    return made;
  }
  void expect_same(const std::vector<HostTensor>& got, const std::vector<HostTensor>& want, const std::string& what) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i], want[i])) << what << ", pass " << i;
  }

  explicit CudaGrowing(bool packed = false) : packed_(packed), weights_(decoder_weights(packed)) {}

  TempFolder folder_;
  const bool packed_;
  const Tensors weights_;
  OnnxMaker maker_;
  bool turned_ = false;
  std::uint64_t state_bytes_ = 0;
};

TEST_F(CudaGrowing, HasTheBitsOfAStreamedPass) {
  ASSERT_VALUE(const Plan free, plan(false));
  ASSERT_VALUE(const auto want, decode(free, 100));
  for (const int percent : {100, 50}) {
    ASSERT_VALUE(const auto got, decode(free, percent));
    expect_same(got, want, std::to_string(percent) + " %");
  }
}

class CudaGrowingPacked : public CudaGrowing {
 protected:
  CudaGrowingPacked() : CudaGrowing(true) {}
};

// Resident, products of one value share a launch with the norm ahead of them; streamed, each slab is launched for itself.
TEST_F(CudaGrowingPacked, HasTheBitsOfAStreamedPass) {
  ASSERT_VALUE(const Plan free, plan(false));
  ASSERT_VALUE(const auto want, decode(free, 100));
  for (const int percent : {100, 60}) {
    ASSERT_VALUE(const auto got, decode(free, percent));
    expect_same(got, want, std::to_string(percent) + " %");
  }
}

TEST_F(CudaGrowing, RoomBehindEachHeadChangesNoBit) {
  ASSERT_VALUE(const Plan free, plan(false));
  ASSERT_VALUE(const auto want, decode(free, 100));
  ASSERT_VALUE(const Plan declared, plan(true));
  for (const int percent : {100, 60}) {
    ASSERT_VALUE(const auto got, decode(declared, percent));
    expect_same(got, want, "declared, " + std::to_string(percent) + " %");
    EXPECT_EQ(state_bytes_, static_cast<std::uint64_t>(2 * kLayers * kKeyHeads * kMost * kHead * 2));  // one place each
  }
}

// Rotations and new rows of the caches in attention's launch, and each in its own.
TEST_F(CudaGrowing, SharedLaunchesChangeNoBit) {
  for (const bool turned : {false, true}) {
    ASSERT_VALUE(const Plan free, plan(false, turned));
    ASSERT_VALUE(const auto want, decode(free, 100, true));
    ASSERT_VALUE(const auto got, decode(free, 100));
    expect_same(got, want, "copied");
    ASSERT_VALUE(const Plan declared, plan(true, turned));
    for (const int percent : {100, 40}) {
      ASSERT_VALUE(const auto behind, decode(declared, percent));
      expect_same(behind, want, "behind the rows of each head, " + std::to_string(percent) + " %");
    }
  }
}

// What is recorded ahead of a pass that then has other shapes, or starts anew, is not used.
TEST_F(CudaGrowing, AnotherTurnThanForeseen) {
  ASSERT_VALUE(const Plan free, plan(false));
  ASSERT_VALUE(const auto want, decode(free, 100));
  EngineOptions options = with_budget(Budget::of_percent(100));
  options.device = "cuda";
  ASSERT_VALUE(Engine engine, Engine::create(free, in_memory(weights_), options));
  for (int round = 0; round < 3; ++round) {
    ASSERT_VALUE(const auto got, decode(engine));
    expect_same(got, want, "round " + std::to_string(round));
    if (round > 0) continue;
    ASSERT_VALUE(auto change, engine.set_budget(Budget::of_percent(70)));
    ASSERT_OK(change.wait());
  }
}

}  // namespace
}  // namespace forebay
