// A pass without weights takes its time with states and without, again and again; what cannot be passed is refused, not run.
#include "trial_pass.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "forebay/builder.h"
#include "input_maker.h"
#include "plan/plan_io.h"
#include "runtime/cpu/cpu_device.h"
#include "runtime/state_room.h"
#include "support/status_test.h"
#include "support/temp_folder.h"
#include "synth/synth_llama.h"

namespace forebay::tools {
namespace {

TEST(TrialPass, NeedsNoWeights) {
  const test::TempFolder folder;
  SynthOptions synth;
  synth.params = "1M";
  synth.dtype = DType::f32;
  ASSERT_OK(synth_llama(posix_file_system(), folder.path(), synth).status());
  BuildOptions options;
  options.strip = true;
  ASSERT_OK(build(folder / "model.onnx", folder / "m.plan", options).status());
  std::filesystem::remove(folder / "model.safetensors");
  ASSERT_VALUE(const auto plan, plan::read_plan(posix_file_system(), folder / "m.plan", nullptr));
  ASSERT_VALUE(const auto compiled, compile_plan(plan));
  InputRequest request;
  request.shapes["input_ids"] = {1, 3};
  ASSERT_VALUE(const auto shapes, input_shapes(*plan, request));
  for (const auto& states : {std::vector<StateBinding>(), planned_states(*plan)}) {
    ASSERT_VALUE(auto device, create_cpu_device());
    ASSERT_VALUE(const double ms, trial_pass_ms(std::move(device), compiled, shapes, states, null_logger()));
    EXPECT_GT(ms, 0);
  }
  ASSERT_VALUE(auto device, create_cpu_device());
  auto wrong = shapes;
  wrong[0].second = Shape{1, 3, 3};
  EXPECT_FALSE(trial_pass_ms(std::move(device), compiled, wrong, {}, null_logger()).ok());
}

}  // namespace
}  // namespace forebay::tools
