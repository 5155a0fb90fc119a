// The whole road on real models: outputs against ONNX Runtime, then build --strip, pack (raw, zstd), refit from every container, and equal bits
// at 16 budgets and more over I/O engines, direct and buffered reads, one and four contexts.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/npy.h"
#include "forebay/forebay.h"
#include "models/model_runs.h"
#include "refit/catalog.h"
#include "support/safetensors_maker.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::Named;
using test::run_passes;
using test::same_bits;
using test::TempFolder;

struct Case {
  std::string name;
  std::string model;       // pkg:..., "synth PARAMS DTYPE", or "written NAME" (written_forms.py)
  std::string arguments;   // of reference.py
  test::Tolerance tolerance{};
  bool rounded = false;    // bf16: the fp32 graph on the same rounded weights
  std::size_t most_nodes = 0;  // of the plan, when set: the written-out forms are fused
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

struct Reference {
  std::string model;
  std::vector<Named> inputs, outputs;
};

std::string python() {
  const char* path = std::getenv("FOREBAY_TEST_PYTHON");
  return path == nullptr ? "" : path;
}

int run(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Reference read_reference(const std::string& folder) {
  Reference reference;
  std::ifstream manifest(folder + "/manifest.txt");
  std::string kind, name, file;
  while (manifest >> kind) {
    if (kind == "model") {
      manifest >> std::ws;
      std::getline(manifest, reference.model);
      continue;
    }
    manifest >> name >> file;
    auto tensor = read_npy(posix_file_system(), folder + "/" + file, 1ull << 30);
    EXPECT_TRUE(tensor.ok()) << tensor.status().to_string();
    if (tensor.ok()) (kind == "input" ? reference.inputs : reference.outputs).push_back({name, std::move(*tensor)});
  }
  return reference;
}

class RealModel : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (python().empty()) GTEST_SKIP() << "FOREBAY_TEST_PYTHON is not set: no ONNX Runtime to compare with";
    const Case& c = GetParam();
    std::string model = c.model;
    if (model.rfind("synth ", 0) == 0) {
      std::istringstream words(model);
      std::string word, params, dtype;
      words >> word >> params >> dtype;
      ASSERT_EQ(run(std::string(FOREBAY_COMMAND) + " synth llama --params " + params + " --dtype " + dtype + " --seed 7 -o " + (folder_ / "synth") + " >/dev/null"), 0);
      model = folder_ / "synth/model.onnx";
    }
    if (model.rfind("written ", 0) == 0) {
      const std::string name = model.substr(8);
      model = folder_ / (name + ".onnx");
      ASSERT_EQ(run(python() + " " FOREBAY_SOURCE_DIR "/tests/models/written_forms.py " + name + " " + model), 0);
    }
    const int status = run(python() + " " FOREBAY_SOURCE_DIR "/tests/models/reference.py " + model + " " + (folder_ / "reference") + " " + c.arguments +
                           (c.rounded ? " --rounded" : ""));
    if (status == 77) GTEST_SKIP() << "the package that holds " << c.model << " is not installed";
    ASSERT_EQ(status, 0) << "reference.py failed";
    reference_ = read_reference(folder_ / "reference");
    ASSERT_FALSE(reference_.outputs.empty());
  }

  // Every container of the same weights.
  void make_sources(const Plan& plan) {
    Refitter refitter(plan, {});
    sources_ = {{"onnx", {}}, {"safetensors", {}}, {"raw shards", {}}, {"zstd shards", {}}};
    sources_[0].second.paths = {reference_.model};
    auto catalog = refit::Catalog::open(posix_file_system(), sources_[0].second.paths, null_logger());
    ASSERT_TRUE(catalog.ok()) << catalog.status().to_string();
    std::vector<HostTensor> held;
    std::vector<test::NamedTensor> named;
    for (const std::string& name : (*catalog)->names()) {
      auto tensor = load_source_tensor(*(*catalog)->find(name), 1ull << 30);
      ASSERT_TRUE(tensor.ok()) << tensor.status().to_string();
      held.push_back(std::move(*tensor));
    }
    const auto names = (*catalog)->names();
    for (std::size_t i = 0; i < names.size(); ++i) named.push_back({names[i], held[i]});
    test::write_file(folder_ / "weights.safetensors", test::make_safetensors(named));
    sources_[1].second.paths = {folder_ / "weights.safetensors"};
    for (std::size_t s = 2; s < 4; ++s) {
      const std::string shards = folder_ / (s == 2 ? "shards_raw" : "shards_zstd");
      auto packed = refitter.pack(sources_[s - 2], shards, s == 2 ? "raw" : "zstd");
      ASSERT_TRUE(packed.ok()) << packed.status().to_string();
      sources_[s].second.paths = {shards};
    }
  }

  struct Named2 : std::pair<std::string, WeightSources> {
    using std::pair<std::string, WeightSources>::pair;
    operator const WeightSources&() const { return second; }
  };

  // Outputs at `budget` must be `want`; returns whether the last pass streamed.
  bool expect_equal(const Plan& plan, const WeightSources& source, const EngineOptions& options, int contexts, const std::vector<HostTensor>& want, const std::string& what) {
    auto engine = Engine::create(plan, source, options);
    EXPECT_TRUE(engine.ok()) << what << ": " << engine.status().to_string();
    if (!engine.ok()) return false;
    const auto infos = plan.inputs();
    std::vector<std::thread> threads;
    std::vector<std::uint64_t> streamed(static_cast<std::size_t>(contexts));
    for (int t = 0; t < contexts; ++t) {
      threads.emplace_back([&, t] {
        auto pass = run_passes(*engine, reference_.inputs, infos, 2);
        EXPECT_TRUE(pass.ok()) << what << ": " << pass.status().to_string();
        if (!pass.ok()) return;
        EXPECT_TRUE(same_bits(pass->outputs, want)) << what << ": other bits";
        streamed[static_cast<std::size_t>(t)] = pass->streamed;
      });
    }
    for (std::thread& thread : threads) thread.join();
    const MemoryReport memory = engine->memory();
    EXPECT_LE(memory.peak_committed, memory.budget) << what;
    return streamed[0] > 0;
  }

  TempFolder folder_;
  Reference reference_;
  std::vector<Named2> sources_;
};

TEST_P(RealModel, AgreesWithOnnxRuntimeAndHasEqualBitsEverywhere) {
  const Case& c = GetParam();
  BuildOptions build_options;
  build_options.strip = true;
  auto built = build(reference_.model, folder_ / "model.plan", build_options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  if (c.most_nodes > 0) {
    EXPECT_LE(built->plan_nodes, c.most_nodes);
    EXPECT_GT(built->fused_nodes, 0u);
  }
  auto plan = Plan::load(folder_ / "model.plan");
  ASSERT_TRUE(plan.ok()) << plan.status().to_string();
  ASSERT_TRUE(plan->stripped());
  ASSERT_NO_FATAL_FAILURE(make_sources(*plan));

  // Fully resident, against ONNX Runtime.
  EngineOptions resident;
  resident.budget = Budget::of_percent(100);
  resident.threads = 2;
  auto engine = Engine::create(*plan, sources_[0], resident);
  ASSERT_TRUE(engine.ok()) << engine.status().to_string();
  auto want = run_passes(*engine, reference_.inputs, plan->inputs(), 1);
  ASSERT_TRUE(want.ok()) << want.status().to_string();
  const auto outputs = plan->outputs();
  ASSERT_EQ(outputs.size(), reference_.outputs.size());
  for (std::size_t o = 0; o < outputs.size(); ++o) test::expect_close(want->outputs[o], reference_.outputs[o].tensor, c.tolerance, outputs[o].name);
  std::vector<std::pair<std::string, Shape>> shapes;
  for (const Named& input : reference_.inputs) shapes.emplace_back(input.name, input.tensor.shape());

  // Refitted plans: the weights inside.
  auto embedded = Refitter(*plan, {}).embed(sources_[1], folder_ / "full.plan");
  ASSERT_TRUE(embedded.ok()) << embedded.status().to_string();
  auto full = Plan::load(folder_ / "full.plan");
  ASSERT_TRUE(full.ok()) << full.status().to_string();
  EXPECT_EQ(full->id(), plan->id());

  int run_count = 0, streaming = 0;
  for (std::size_t s = 0; s <= sources_.size(); ++s) {
    const bool inside = s == sources_.size();
    const WeightSources none;
    // Coded chunks need a stored slot beside the raw one: each container has its own minimum.
    auto probe = Engine::create(inside ? *full : *plan, inside ? none : sources_[s].second, resident);
    ASSERT_TRUE(probe.ok()) << probe.status().to_string();
    auto sizes = probe->sizes_for_shapes(shapes);
    ASSERT_TRUE(sizes.ok()) << sizes.status().to_string();
    for (int b = 0; b < 17; ++b) {
      EngineOptions options;
      options.threads = 2;
      options.budget = b == 16 ? Budget::unlimited() : Budget::of_bytes(sizes->min_budget + (sizes->full_budget - sizes->min_budget) * static_cast<std::uint64_t>(b) / 16);
      options.io = b % 2 == 0 ? "uring" : "threads";
      options.direct = b % 3 == 0 ? "off" : "auto";
      const int contexts = b % 4 == 1 ? 4 : 1;
      const std::string what = c.name + " from " + (inside ? "the plan" : sources_[s].first) + " at " + options.budget.to_string() + " " + options.io + " direct " + options.direct;
      if (expect_equal(inside ? *full : *plan, inside ? none : sources_[s].second, options, contexts, want->outputs, what)) ++streaming;
      ++run_count;
    }
  }
  EXPECT_GE(streaming * 2, run_count) << "too few of the runs really stream";

  EngineOptions below;
  below.budget = Budget::of_bytes(4096);
  auto small = Engine::create(*plan, sources_[0], below);
  Status refused = small.ok() ? run_passes(*small, reference_.inputs, plan->inputs(), 1).status() : small.status();
  EXPECT_EQ(refused.code(), Code::resource_exhausted);
}

INSTANTIATE_TEST_SUITE_P(
    Models, RealModel,
    testing::Values(Case{"ocr_det", "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "--shape x=1x3x96x160"},
                    Case{"ocr_rec", "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "--shape x=1x3x48x160"},
                    Case{"ocr_cls", "pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "--shape x=1x3x48x192"},
                    Case{"magika", "pkg:magika/models/standard_v3_3/model.onnx", "--shape bytes=2x2048 --int bytes=0:256"},
                    Case{"silero", "pkg:silero_vad/data/silero_vad_op18_ifless.onnx", "--shape input=1x576 --shape state=2x1x128 --value sr=16000"},
                    Case{"encoder_f32", "written encoder_f32", "--int input_ids=0:256", 0, 0, 1e-4, false, 41},
                    Case{"encoder_f16", "written encoder_f16", "--int input_ids=0:256", 0, 0, 1e-2, false, 41},
                    Case{"decoder_f32", "written decoder_f32", "--int input_ids=0:256", 0, 0, 1e-4, false, 53},
                    Case{"decoder_f16", "written decoder_f16", "--int input_ids=0:256", 0, 0, 1e-2, false, 55},
                    Case{"seq2seq_f32", "written seq2seq_f32", "", 0, 0, 1e-4, false, 60},
                    Case{"seq2seq_f16", "written seq2seq_f16", "", 0, 0, 1e-2, false, 60},
                    Case{"llama_f32", "synth 10M f32", "--shape input_ids=1x5 --int input_ids=0:256"},
                    Case{"llama_f16", "synth 10M f16", "--shape input_ids=1x5 --int input_ids=0:256", {0, 0, 1e-2}},
                    Case{"llama_bf16", "synth 10M bf16", "--shape input_ids=1x5 --int input_ids=0:256", {0, 0, 3e-2}, true}),
    [](const testing::TestParamInfo<Case>& c) { return c.param.name; });

}  // namespace
}  // namespace forebay
