// Real models from the Python environment that FOREBAY_TEST_PYTHON names: they build, keep no float table, and their stripped plans are
// small.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "builder/build.h"
#include "onnx/tensor_walk.h"
#include "plan/plan_io.h"

namespace forebay::builder {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> models() {
  std::vector<fs::path> found;
  const char* python = std::getenv("FOREBAY_TEST_PYTHON");
  if (python == nullptr) return found;
  std::error_code error;
  const fs::path lib = fs::path(python).parent_path().parent_path() / "lib";
  for (const auto& version : fs::directory_iterator(lib, error)) {
    const fs::path site = version.path() / "site-packages";
    for (const char* folder : {"rapidocr_onnxruntime/models", "magika/models", "silero_vad/data"})
      for (const auto& entry : fs::recursive_directory_iterator(site / folder, error))
        if (entry.path().extension() == ".onnx") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

TEST(RealModels, Build) {
  const std::vector<fs::path> paths = models();
  if (paths.empty()) GTEST_SKIP() << "FOREBAY_TEST_PYTHON names no environment with models";
  ThreadPool pool(1);
  std::size_t built_count = 0;
  for (const fs::path& path : paths) {
    const std::string name = path.filename().string();
    SCOPED_TRACE(name);
    Result<onnx::Model> model = onnx::read_model(posix_file_system(), path.string(), onnx::Limits());
    ASSERT_TRUE(model.ok()) << model.status().to_string();
    std::uint64_t tensor_bytes = 0;
    onnx::for_each_tensor(model->graph, [&](const std::string&, const SourceTensor& tensor) { tensor_bytes += tensor.bytes(); });
    const std::vector<Problem> problems = check(*model);
    Result<Output> built = build(std::move(model).value(), Options(), pool, null_logger());
    EXPECT_EQ(problems.empty(), built.ok() || built.status().code() != Code::unsupported);
    if (!built.ok()) {
      ASSERT_EQ(built.status().code(), Code::unsupported) << built.status().to_string();
      for (const Problem& problem : problems) GTEST_LOG_(INFO) << name << ": " << problem.message;
      continue;
    }
    ++built_count;
    for (const plan::Constant& constant : built->plan.constants) {
      EXPECT_LE(constant.data.size(), 16'384u) << constant.name;
      if (dtype_is_float(constant.dtype) && constant.shape.elements() > 1)
        GTEST_LOG_(INFO) << name << " keeps " << constant.name << " " << constant.shape.to_string();
    }
    const Result<std::vector<std::byte>> bytes = plan::serialize_plan(built->plan, {});
    ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
    GTEST_LOG_(INFO) << name << ": " << tensor_bytes << " tensor bytes, stripped plan " << bytes->size() << ", nodes "
                     << built->summary.model_nodes << " -> " << built->summary.plan_nodes << ", weights " << built->plan.weights.size()
                     << ", chunks " << built->plan.chunks.size();
    EXPECT_LT(bytes->size(), tensor_bytes / 2 + 65'536);
  }
  GTEST_LOG_(INFO) << built_count << " of " << paths.size() << " models built";
}

}  // namespace
}  // namespace forebay::builder
