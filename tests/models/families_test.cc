// Model families as torch.onnx exports them, with random weights at small widths: outputs against ONNX Runtime's, equal bits at 13 budgets
// of a stripped plan, and the decode loop. Needs no Python: the references are kept in fixtures/.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/check.h"
#include "models/fixture_reader.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::Fixture;
using test::Named;
using test::TempFolder;

const HostTensor* find(const std::vector<Named>& tensors, const std::string& name) {
  const auto at = std::find_if(tensors.begin(), tensors.end(), [&](const Named& t) { return t.name == name; });
  return at == tensors.end() ? nullptr : &at->tensor;
}

Result<Plan> stripped_plan(const Fixture& fixture, const std::string& path, bool fuse = true) {
  BuildOptions options;
  options.strip = true;
  options.fuse = fuse;
  auto built = build(fixture.model, path, options);
  if (!built.ok()) return std::move(built).status();
  return Plan::load(path);
}

WeightSources weights_of(const Fixture& fixture) {
  WeightSources sources;
  sources.paths = {fixture.model};
  return sources;
}

EngineOptions with_budget(const Budget& budget) {
  EngineOptions options;
  options.threads = 2;
  options.budget = budget;
  return options;
}

void expect_reference(const Plan& plan, const test::Pass& pass, const Fixture& fixture) {
  const auto outputs = plan.outputs();
  ASSERT_EQ(outputs.size(), fixture.outputs.size());
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const HostTensor* const reference = find(fixture.outputs, outputs[o].name);
    ASSERT_NE(reference, nullptr) << outputs[o].name;
    const DType wanted = outputs[o].dtype == DType::bf16 ? DType::f32 : outputs[o].dtype;  // bf16 references are runs in fp32
    EXPECT_EQ(reference->dtype(), wanted) << outputs[o].name;
    test::expect_close(pass.outputs[o], *reference, {0, 0, fixture.tolerance}, outputs[o].name);
  }
}

class Family : public testing::TestWithParam<std::string> {};

TEST_P(Family, AgreesWithOnnxRuntimeAndHasEqualBitsAtEveryBudget) {
  TempFolder folder;
  const Fixture fixture = test::unpack_fixture("fixtures", GetParam(), folder.path());
  ASSERT_FALSE(fixture.model.empty());
  ASSERT_VALUE(const Plan plan, stripped_plan(fixture, folder / "model.plan"));
  ASSERT_VALUE(Engine resident, Engine::create(plan, weights_of(fixture), with_budget(Budget::of_percent(100))));
  ASSERT_VALUE(const test::Pass want, test::run_passes(resident, fixture.inputs, plan.inputs(), 1));
  ASSERT_NO_FATAL_FAILURE(expect_reference(plan, want, fixture));
  ASSERT_VALUE(const Plan unfused, stripped_plan(fixture, folder / "unfused.plan", false));
  ASSERT_VALUE(Engine plain, Engine::create(unfused, weights_of(fixture), with_budget(Budget::unlimited())));
  ASSERT_VALUE(const test::Pass without, test::run_passes(plain, fixture.inputs, unfused.inputs(), 1));
  {
    SCOPED_TRACE("without fusions");
    ASSERT_NO_FATAL_FAILURE(expect_reference(unfused, without, fixture));
  }

  std::vector<std::pair<std::string, Shape>> shapes;
  for (const Named& input : fixture.inputs) shapes.emplace_back(input.name, input.tensor.shape());
  ASSERT_VALUE(const Engine::Sizes sizes, resident.sizes_for_shapes(shapes));
  constexpr std::uint64_t kSteps = 12;
  int streaming = 0;
  for (std::uint64_t step = 0; step <= kSteps; ++step) {
    EngineOptions options = with_budget(Budget::of_bytes(sizes.min_budget + (sizes.full_budget - sizes.min_budget) * step / kSteps));
    options.io = step % 2 == 0 ? "auto" : "threads";
    SCOPED_TRACE(options.budget.to_string());
    ASSERT_VALUE(Engine engine, Engine::create(plan, weights_of(fixture), options));
    ASSERT_VALUE(const test::Pass pass, test::run_passes(engine, fixture.inputs, plan.inputs(), 2));
    EXPECT_TRUE(test::same_bits(pass.outputs, want.outputs)) << "other bits";
    EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
    streaming += pass.streamed > 0 ? 1 : 0;
  }
  EXPECT_GE(streaming, 8) << "too few of the budgets really stream";
}

INSTANTIATE_TEST_SUITE_P(Exported, Family, testing::ValuesIn(test::fixture_names("fixtures")), [](const auto& c) { return c.param; });

// Each family at two opsets or by two exporters at least. A fixture is called FAMILY_EXPORTER, variants of a family
// FAMILY_VARIANT_EXPORTER.
TEST(Families, AllAreThereTwice) {
  const std::vector<std::string> names = test::fixture_names("fixtures");
  for (const std::string family : {"llama",
                                   "qwen2",
                                   "qwen3",
                                   "mistral",
                                   "gemma",
                                   "gemma2",
                                   "gpt2",
                                   "gptj",
                                   "mixtral",
                                   "bert",
                                   "t5",
                                   "whisper",
                                   "vit",
                                   "clip",
                                   "unet",
                                   "dit",
                                   "resnet",
                                   "efficientnet",
                                   "mobilenet_v3",
                                   "convnext",
                                   "yolo",
                                   "keras_encoder",
                                   "recurrent",
                                   "interpolate",
                                   "efficientdet_1",
                                   "efficientdet_4",
                                   "attention_module",
                                   "attention_sdpa",
                                   "attention_eager"}) {
    const auto exported = [&](const std::string& name) {
      return name.starts_with(family + "_") && name.find('_', family.size() + 1) == std::string::npos;
    };
    EXPECT_GE(std::count_if(names.begin(), names.end(), exported), 2) << family;
  }
}

// Greedy decoding with the cache carried between passes on the device. The prompt was chosen so that the best token leads by more than a
// hundred tolerances at every step.
struct Decoder {
  ExecutionContext context;
  std::int64_t total = 0;

  Result<std::int64_t> next(const std::vector<std::int64_t>& ids) {
    const auto count = static_cast<std::int64_t>(ids.size());
    HostTensor tokens(DType::i64, Shape{1, count}), positions(DType::i64, Shape{1, count}), mask(DType::i64, Shape{1, total + count});
    for (std::size_t i = 0; i < ids.size(); ++i) {
      tokens.as<std::int64_t>()[i] = ids[i];
      positions.as<std::int64_t>()[i] = total + static_cast<std::int64_t>(i);
    }
    std::fill(mask.as<std::int64_t>().begin(), mask.as<std::int64_t>().end(), 1);
    total += count;
    FB_TRY(context.set_input("input_ids", tokens));
    FB_TRY(context.set_input("position_ids", positions));
    FB_TRY(context.set_input("attention_mask", mask));
    FB_TRY(context.execute());
    FB_ASSIGN(const HostTensor logits, context.output("logits"));
    const auto row = logits.as<float>().subspan(static_cast<std::size_t>((count - 1) * logits.shape()[2]));
    return std::max_element(row.begin(), row.end()) - row.begin();
  }
};

class DecodeLoop : public testing::TestWithParam<const char*> {};

void expect_tokens(const Fixture& fixture, const Plan& plan, std::uint64_t most_state) {
  const std::vector<std::int64_t>& want = fixture.facts.at("tokens");
  ASSERT_EQ(want.size(), 64u);
  for (const bool streams : {false, true}) {
    SCOPED_TRACE(streams);
    ASSERT_VALUE(Engine engine,
                 Engine::create(plan, weights_of(fixture), with_budget(streams ? Budget::of_percent(60) : Budget::unlimited())));
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    for (const TensorInfo& input : plan.inputs()) {
      if (!input.name.starts_with("past_key_values.")) continue;
      EXPECT_OK(context.bind_state("present." + input.name.substr(16), input.name));
      EXPECT_OK(context.set_input(input.name, HostTensor(input.dtype, Shape{1, input.dims[1], 0, input.dims[3]})));
    }
    Decoder decoder{std::move(context)};
    std::vector<std::int64_t> ids = fixture.facts.at("prompt"), tokens;
    std::uint64_t streamed = 0;
    while (tokens.size() < want.size()) {
      ASSERT_VALUE(const std::int64_t token, decoder.next(ids));
      streamed = decoder.context.profile().disk_bytes;  // of the last pass: earlier ones fill what a grown state made room for
      tokens.push_back(token);
      ids = {token};
    }
    EXPECT_EQ(tokens, want);
    EXPECT_EQ(streamed > 0, streams);
    EXPECT_LE(engine.memory().state, most_state);
  }
}

TEST_P(DecodeLoop, GivesOnnxRuntimesTokensAtEveryBudget) {
  TempFolder folder;
  const Fixture fixture = test::unpack_fixture("fixtures", GetParam(), folder.path());
  ASSERT_FALSE(fixture.model.empty());
  ASSERT_VALUE(const Plan plan, stripped_plan(fixture, folder / "model.plan"));
  expect_tokens(fixture, plan, UINT64_MAX);
}

// The caches have their largest size from the start, once: rows are added behind those of each head.
TEST_P(DecodeLoop, GivesThemWithCachesOfADeclaredLength) {
  constexpr std::int64_t kMost = 80;
  TempFolder folder;
  const Fixture fixture = test::unpack_fixture("fixtures", GetParam(), folder.path());
  ASSERT_FALSE(fixture.model.empty());
  ASSERT_VALUE(const Plan open, stripped_plan(fixture, folder / "open.plan"));
  BuildOptions options;
  options.strip = true;
  std::uint64_t bytes = 0;
  for (const TensorInfo& input : open.inputs()) {
    if (!input.name.starts_with("past_key_values.")) continue;
    const std::int64_t heads = input.dims[1], width = input.dims[3];
    options.shapes.push_back({input.name, {1, heads, 0, width}, {1, heads, 8, width}, {1, heads, kMost, width}});
    bytes += static_cast<std::uint64_t>(heads * kMost * width) * 4;
  }
  ASSERT_OK(build(fixture.model, folder / "model.plan", options));
  ASSERT_VALUE(const Plan plan, Plan::load(folder / "model.plan"));
  expect_tokens(fixture, plan, bytes + 4096);
}

INSTANTIATE_TEST_SUITE_P(Exported, DecodeLoop, testing::Values("llama_ts17", "llama_dy18"),
                         [](const auto& c) { return std::string(c.param); });

}  // namespace
}  // namespace forebay
