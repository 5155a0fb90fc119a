// The kept fixtures of exported models and of other engines' bugs on the CUDA device: outputs against ONNX Runtime's, fused and as written,
// and equal bits from the least budget to all of it. Skips where there is no GPU, and says so.
#include <gtest/gtest.h>

#include <algorithm>

#include "models/fixture_reader.h"
#include "runtime/device_library.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::Fixture;
using test::TempFolder;

class OnCuda : public testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  void SetUp() override {
    const auto device = load_device("cuda");
    if (!device.ok()) GTEST_SKIP() << device.status().to_string();
  }
};

Result<Engine> open(const Plan& plan, const Fixture& fixture, const Budget& budget) {
  EngineOptions options;
  options.threads = 2;
  options.device = "cuda";
  options.budget = budget;
  WeightSources sources;
  sources.paths = {fixture.model};
  return Engine::create(plan, sources, options);
}

TEST_P(OnCuda, AgreesWithOnnxRuntimeAndHasEqualBitsAtEveryBudget) {
  const auto& [set, name] = GetParam();
  for (const bool fuse : {true, false}) {
    SCOPED_TRACE(fuse ? "fused" : "as written");
    TempFolder folder;
    const Fixture fixture = test::unpack_fixture(set, name, folder.path());
    ASSERT_FALSE(fixture.model.empty());
    BuildOptions build_options;
    build_options.strip = true;
    build_options.fuse = fuse;
    ASSERT_OK(build(fixture.model, folder / "model.plan", build_options).status());
    ASSERT_VALUE(const Plan plan, Plan::load(folder / "model.plan"));
    ASSERT_VALUE(Engine resident, open(plan, fixture, Budget::unlimited()));
    ASSERT_VALUE(const test::Pass want, test::run_passes(resident, fixture.inputs, plan.inputs(), 2));
    const std::vector<TensorInfo> outputs = plan.outputs();
    ASSERT_EQ(outputs.size(), fixture.outputs.size());
    for (std::size_t o = 0; o < want.outputs.size(); ++o) {
      const std::string& output = outputs[o].name;
      const auto kept =
          std::find_if(fixture.outputs.begin(), fixture.outputs.end(), [&](const test::Named& t) { return t.name == output; });
      ASSERT_NE(kept, fixture.outputs.end()) << output;
      test::expect_close(want.outputs[o], kept->tensor, {0, 0, fixture.tolerance}, output);
    }
    std::vector<std::pair<std::string, Shape>> shapes;
    for (const test::Named& input : fixture.inputs) shapes.emplace_back(input.name, input.tensor.shape());
    ASSERT_VALUE(const Engine::Sizes sizes, resident.sizes_for_shapes(shapes));
    for (const std::uint64_t quarters : {0u, 2u}) {
      const Budget budget = Budget::of_bytes(sizes.min_budget + (sizes.full_budget - sizes.min_budget) * quarters / 4);
      SCOPED_TRACE(budget.to_string());
      ASSERT_VALUE(Engine engine, open(plan, fixture, budget));
      ASSERT_VALUE(const test::Pass pass, test::run_passes(engine, fixture.inputs, plan.inputs(), 2));
      EXPECT_TRUE(test::same_bits(pass.outputs, want.outputs)) << "other bits";
      EXPECT_LE(engine.memory().peak_committed, engine.memory().budget);
    }
  }
}

std::vector<std::pair<std::string, std::string>> all_fixtures() {
  std::vector<std::pair<std::string, std::string>> all;
  for (const char* set : {"fixtures", "replays"}) {
    for (const std::string& name : test::fixture_names(set)) all.emplace_back(set, name);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Kept, OnCuda, testing::ValuesIn(all_fixtures()),
                         [](const auto& c) { return c.param.first + "_" + c.param.second; });

}  // namespace
}  // namespace forebay
