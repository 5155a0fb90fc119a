// Every com.microsoft operator against ONNX Runtime, through build and engine: with everything resident, then the same bits at the least
// budget.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/half.h"
#include "forebay/forebay.h"
#include "onnx/onnx_model.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

namespace fs = std::filesystem;

double value_at(const HostTensor& t, std::int64_t i) {
  const auto k = static_cast<std::size_t>(i);
  switch (t.dtype()) {
    case DType::f32:
      return static_cast<double>(t.as<float>()[k]);
    case DType::f16:
      return static_cast<double>(f16_to_f32(t.as<std::uint16_t>()[k]));
    case DType::i32:
      return static_cast<double>(t.as<std::int32_t>()[k]);
    default:
      ADD_FAILURE() << "an output of type " << dtype_name(t.dtype());
      return 0;
  }
}

// Not a number is expected where nothing is promised; the lowest number is what hides a score.
std::string difference(const HostTensor& got, const HostTensor& want) {
  if (got.dtype() != want.dtype() || !(got.shape() == want.shape())) {
    return std::string(dtype_name(got.dtype())) + got.shape().to_string() + " for " + std::string(dtype_name(want.dtype())) +
           want.shape().to_string();
  }
  const double share = want.dtype() == DType::f16 ? 1e-2 : 1e-4;
  double scale = 0;
  for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
    if (const double b = value_at(want, i); std::abs(b) < 1e30) scale = std::max(scale, std::abs(b));
  }
  for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
    const double a = value_at(got, i), b = value_at(want, i);
    if (std::isnan(b) || a == b || std::abs(a - b) <= share * scale) continue;
    return "element " + std::to_string(i) + " of " + want.shape().to_string() + ": " + std::to_string(a) + " for " + std::to_string(b);
  }
  return "";
}

HostTensor read(const fs::path& file, std::string* name) {
  auto tensor = onnx::read_tensor_file(posix_file_system(), file.string(), 1 << 20, name);
  EXPECT_TRUE(tensor.ok()) << tensor.status().to_string();
  return tensor.ok() ? std::move(tensor).value() : HostTensor();
}

struct Named {
  std::string name;
  HostTensor tensor;
};
std::vector<Named> read_all(const fs::path& folder, const std::string& prefix) {
  std::vector<Named> all;
  for (int i = 0; fs::exists(folder / (prefix + "_" + std::to_string(i) + ".pb")); ++i) {
    std::string name;
    HostTensor tensor = read(folder / (prefix + "_" + std::to_string(i) + ".pb"), &name);
    all.push_back({name, std::move(tensor)});
  }
  return all;
}

Result<std::vector<HostTensor>> run(const Plan& plan, const std::string& model, Budget budget, const std::vector<Named>& inputs,
                                    const std::vector<Named>& outputs, std::uint64_t* least) {
  EngineOptions options;
  options.threads = 2;
  options.budget = budget;
  WeightSources sources;
  sources.paths = {model};
  auto engine = Engine::create(plan, sources, options);
  if (!engine.ok()) return std::move(engine).status();
  auto context = engine->create_context();
  if (!context.ok()) return std::move(context).status();
  for (const Named& input : inputs) {
    if (Status status = context->set_input(input.name, input.tensor); !status.ok()) return status;
  }
  if (Status status = context->execute(); !status.ok()) return status;
  *least = engine->memory().min_budget;
  std::vector<HostTensor> made;
  for (const Named& output : outputs) {
    auto tensor = context->output(output.name);
    if (!tensor.ok()) return std::move(tensor).status();
    made.push_back(std::move(tensor).value());
  }
  return made;
}

void check_case(const fs::path& folder, const std::string& plan_path) {
  SCOPED_TRACE(folder.filename().string());
  const std::string model = (folder / "model.onnx").string();
  BuildOptions options;
  options.strip = true;
  options.slab_bytes = 4096;
  const auto built = build(model, plan_path, options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const auto plan = Plan::load(plan_path);
  ASSERT_TRUE(plan.ok()) << plan.status().to_string();
  const std::vector<Named> inputs = read_all(folder / "test_data_set_0", "input"), outputs = read_all(folder / "test_data_set_0", "output");
  ASSERT_FALSE(outputs.empty());
  std::uint64_t least = 0;
  const auto resident = run(*plan, model, Budget::unlimited(), inputs, outputs, &least);
  ASSERT_TRUE(resident.ok()) << resident.status().to_string();
  for (std::size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(difference((*resident)[i], outputs[i].tensor), "") << outputs[i].name;
  const auto streamed = run(*plan, model, Budget::of_bytes(least), inputs, outputs, &least);
  ASSERT_TRUE(streamed.ok()) << streamed.status().to_string();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(std::memcmp((*streamed)[i].data(), (*resident)[i].data(), (*resident)[i].bytes()), 0) << outputs[i].name;
  }
}

TEST(VendorOps, AgreeWithOnnxRuntime) {
  const char* python = std::getenv("FOREBAY_TEST_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "FOREBAY_TEST_PYTHON is not set: no ONNX Runtime to compare with";
  test::TempFolder folder;
  const std::string cases = folder / "cases";
  fs::create_directory(cases);
  const int status =
      std::system((std::string(python) + " " FOREBAY_SOURCE_DIR "/tests/models/vendor_ops_cases.py " + cases + " >/dev/null").c_str());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "this Python lacks onnx or onnxruntime";
  ASSERT_EQ(status, 0);
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(cases)) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  EXPECT_GT(found.size(), 100u);
  for (const fs::path& one : found) check_case(one, folder / "case.plan");
}

}  // namespace
}  // namespace forebay
