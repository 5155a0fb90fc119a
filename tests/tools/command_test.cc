// The command line as scripts see it: exit codes, JSON keys, environment twins, texts.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tools/command_runner.h"

namespace forebay::tools_test {
namespace {

// One small model with its plan and shards, made once.
class Command : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new WorkFolder();  // NOLINT: GoogleTest's suite state is a pointer
    const CommandResult synth = run_command({"synth", "llama", "--params", "1M", "--dtype", "f32", "-o", work_->path("m"), "--json"});
    ASSERT_EQ(synth.exit, 0) << synth.err << synth.out;
    const CommandResult build = run_command({"build", model(), "-o", plan(), "--strip", "--json"});
    ASSERT_EQ(build.exit, 0) << build.err << build.out;
  }
  static void TearDownTestSuite() {
    delete work_;
    work_ = nullptr;
  }
  static std::string model() { return work_->path("m/model.onnx"); }
  static std::string plan() { return work_->path("m.plan"); }
  static std::string path(const std::string& name) { return work_->path(name); }
  static void expect_keys(const boost::json::object& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys) EXPECT_TRUE(object.contains(key)) << key << " is missing in " << boost::json::serialize(object).substr(0, 400);
  }
  static boost::json::object expect_error(const CommandResult& result, int exit) {
    EXPECT_EQ(result.exit, exit) << result.out << result.err;
    const boost::json::object object = result.json();
    EXPECT_TRUE(object.contains("error")) << result.out;
    if (!object.contains("error")) return {};
    const boost::json::object& error = object.at("error").as_object();
    EXPECT_TRUE(error.contains("code") && error.contains("message") && error.contains("problems")) << result.out;
    return error;
  }
  static WorkFolder* work_;
};
WorkFolder* Command::work_ = nullptr;

TEST_F(Command, HelpAndVersion) {
  const CommandResult help = run_command({"--help"});
  EXPECT_EQ(help.exit, 0);
  EXPECT_TRUE(help.out.starts_with("Examples"));
  EXPECT_EQ(run_command({}).exit, 2);
  for (const char* verb : {"build", "pack", "refit", "run", "bench", "compare", "conformance", "verify", "inspect", "estimate", "check", "synth", "doctor", "demo"}) {
    const CommandResult one = run_command({verb, "--help"});
    EXPECT_EQ(one.exit, 0) << verb;
    EXPECT_TRUE(one.out.starts_with("Examples\n  forebay " + std::string(verb))) << one.out;
    EXPECT_TRUE(one.err.empty());
  }
  expect_keys(run_command({"--version", "--json"}).json(), {"version", "commit", "compiler", "libraries"});
  EXPECT_NE(run_command({"completion", "bash"}).out.find("complete -o filenames"), std::string::npos);
}

TEST_F(Command, BuildReportsSizesAndPrintsATable) {
  const CommandResult build = run_command({"build", model(), "-o", path("whole.plan"), "--json"});
  ASSERT_EQ(build.exit, 0) << build.err;
  expect_keys(build.json(), {"schema", "plan_bytes", "stripped_bytes"});
  const CommandResult text = run_command({"build", model(), "-o", path("again.plan"), "--strip"});
  EXPECT_EQ(text.exit, 0);
  EXPECT_NE(text.out.find("before"), std::string::npos);
  EXPECT_TRUE(text.err.empty()) << text.err;  // quiet: stderr is no terminal
  EXPECT_LT(std::filesystem::file_size(path("again.plan")), std::filesystem::file_size(path("whole.plan")));
}

TEST_F(Command, RunAnswersAllKeys) {
  const CommandResult run = run_command({"run", plan(), "--weights", model(), "--budget", "60%", "--iterations", "2", "--contexts", "2", "--output-dir",
                                         path("out"), "--profile", path("p.json"), "--trace", path("t.json"), "--json"});
  ASSERT_EQ(run.exit, 0) << run.out << run.err;
  const boost::json::object object = run.json();
  expect_keys(object, {"schema", "device", "numerics_id", "outputs", "budget_bytes", "min_budget_bytes", "no_stream_budget_bytes", "full_budget_bytes",
                       "peak_arena_bytes", "streamed_bytes", "pass_ms", "generation", "integrity"});
  EXPECT_EQ(object.at("schema"), "forebay.run/1");
  expect_keys(object.at("streamed_bytes").as_object(), {"disk", "link"});
  EXPECT_EQ(object.at("pass_ms").as_array().size(), 4u);
  const boost::json::object& logits = object.at("outputs").as_object().at("logits").as_object();
  expect_keys(logits, {"dtype", "shape", "sha256"});
  EXPECT_EQ(logits.at("sha256").as_string().size(), 64u);
  EXPECT_LE(object.at("peak_arena_bytes").to_number<std::uint64_t>(), object.at("budget_bytes").to_number<std::uint64_t>());
  EXPECT_TRUE(std::filesystem::exists(path("out/logits.npy")));
  for (const char* file : {"p.json", "t.json"}) {
    std::ifstream stream(path(file));
    const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    boost::json::error_code error;
    EXPECT_TRUE(boost::json::parse(text, error).is_object()) << file;
    for (const char* part : {"\"disk\"", "\"compute\"", "\"ts\""}) EXPECT_EQ(text.find(part) != std::string::npos, file == std::string("t.json")) << file << " " << part;
  }
  const boost::json::object swept = run_command({"run", plan(), "--weights", model(), "--sweep", "16", "--json"}).json();
  EXPECT_EQ(swept.at("sweep").as_object().at("budgets"), 16);
  EXPECT_GE(swept.at("sweep").as_object().at("streaming").to_number<int>(), 8);
}

TEST_F(Command, SameBitsAtEveryBudgetAndFromEverySource) {
  ASSERT_EQ(run_command({"pack", plan(), "--weights", model(), "-o", path("shards"), "--codec", "zstd"}).exit, 0);
  const CommandResult refit = run_command({"refit", plan(), "--weights", path("m/model.safetensors.index.json"), "-o", path("in.plan"), "--json"});
  ASSERT_EQ(refit.exit, 0) << refit.out;
  expect_keys(refit.json(), {"missing", "extra", "mismatched"});
  std::string bits;
  int streamed = 0, runs = 0;
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--seed", "5", "--json"});
    const CommandResult result = run_command(words);
    ASSERT_EQ(result.exit, 0) << result.out << result.err;
    const boost::json::object object = result.json();
    const std::string sha(object.at("outputs").as_object().at("logits").as_object().at("sha256").as_string());
    if (bits.empty()) bits = sha;
    EXPECT_EQ(sha, bits) << boost::json::serialize(object);
    streamed += object.at("streamed_bytes").as_object().at("disk").to_number<std::uint64_t>() > 0 ? 1 : 0;
    ++runs;
  };
  run({"run", plan(), "--weights", model(), "--budget", "unlimited"});
  const boost::json::object estimate = run_command({"estimate", plan(), "--quick", "--json"}).json();
  const std::uint64_t full = estimate.at("full_budget_bytes").to_number<std::uint64_t>();
  const boost::json::object stateful = run_command({"run", plan(), "--weights", model(), "--stateful", "--json"}).json();
  for (const char* key : {"min_budget_bytes", "no_stream_budget_bytes", "full_budget_bytes"}) EXPECT_EQ(stateful.at(key), estimate.at(key)) << key;
  const boost::json::object coded = run_command({"estimate", plan(), "--weights", path("shards"), "--quick", "--json"}).json(),
                            shards = run_command({"run", plan(), "--weights", path("shards"), "--stateful", "--json"}).json();
  for (const char* key : {"min_budget_bytes", "full_budget_bytes"}) EXPECT_EQ(shards.at(key), coded.at(key)) << key;
  // Compressed chunks take room for what is stored too, and two contexts activations for two passes.
  std::uint64_t minimum = estimate.at("min_budget_bytes").to_number<std::uint64_t>();
  for (const auto& words : {std::vector<std::string>{"run", plan(), "--weights", path("shards"), "--json"}, {"run", path("in.plan"), "--contexts", "2", "--json"}}) {
    minimum = std::max(minimum, run_command(words).json().at("min_budget_bytes").to_number<std::uint64_t>());
  }
  for (const std::uint64_t share : {0, 1, 3}) {
    const std::string budget = std::to_string(minimum + (full - minimum) * share / 4);
    run({"run", plan(), "--weights", model(), "--budget", budget, "--io", "threads", "--direct", "off"});
    run({"run", plan(), "--weights", path("shards"), "--budget", budget});
    run({"run", plan(), "--weights", path("m"), "--budget", budget});
    run({"run", path("in.plan"), "--budget", budget, "--contexts", "2"});
  }
  EXPECT_GE(streamed * 2, runs);
}

TEST_F(Command, EstimateCheckInspectVerify) {
  const boost::json::object estimate = run_command({"estimate", plan(), "--quick", "--json"}).json();
  expect_keys(estimate, {"min_budget_bytes", "no_stream_budget_bytes", "full_budget_bytes", "rows"});
  expect_keys(estimate.at("rows").as_array().at(0).as_object(), {"budget_bytes", "predicted_ms"});
  EXPECT_EQ(run_command({"estimate", model(), "--quick", "--json"}).json().at("full_budget_bytes"), estimate.at("full_budget_bytes"));
  const CommandResult check = run_command({"check", model(), "--json"});
  EXPECT_EQ(check.exit, 0);
  EXPECT_TRUE(check.json().at("unsupported").as_array().empty());
  const boost::json::object inspect = run_command({"inspect", plan(), "--json"}).json();
  expect_keys(inspect, {"plan_bytes", "weights_bytes", "embedded_bytes", "refit", "weights", "kept"});
  expect_keys(inspect.at("weights").as_array().at(0).as_object(), {"name", "dtype", "shape", "bytes", "recipe", "closure"});
  EXPECT_EQ(run_command({"inspect", model(), "--json"}).exit, 0);
  EXPECT_EQ(run_command({"inspect", path("m"), "--json"}).exit, 0);
  const CommandResult verify = run_command({"verify", plan(), "--weights", model(), "--json"});
  EXPECT_EQ(verify.exit, 0) << verify.out;
}

TEST_F(Command, BenchRowsAndLimits) {
  const CommandResult bench = run_command({"bench", plan(), "--weights", model(), "--budget", "1,80%,unlimited", "--iterations", "3", "--quick", "--json"});
  ASSERT_EQ(bench.exit, 0) << bench.out;
  const boost::json::object object = bench.json();
  expect_keys(object, {"schema", "machine", "limits", "rows"});
  expect_keys(object.at("limits").as_object(), {"disk_gbps", "link_gbps", "memory_gbps"});
  const boost::json::array& rows = object.at("rows").as_array();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_TRUE(rows[0].as_object().at("refused").is_string());  // below the minimum, and the grid goes on
  expect_keys(rows[1].as_object(), {"budget", "budget_bytes", "peak_arena_bytes", "host_cache_bytes", "pass_ms", "streamed_bytes", "disk_share", "link_share",
                                    "bound_by", "refused"});
  expect_keys(rows[1].as_object().at("pass_ms").as_object(), {"min", "p50", "p90", "p99", "max"});
  const boost::json::object& limit = rows[1].as_object().at("disk_limit").as_object();
  expect_keys(limit, {"median", "min", "max", "spread", "steady", "readings"});
  EXPECT_GE(limit.at("readings").as_array().size(), 2u);  // it streams: before the passes and behind them
  EXPECT_GT(limit.at("median").to_number<double>(), 0);
  EXPECT_EQ(rows[2].as_object().at("disk_share").to_number<double>(), 0);
  EXPECT_TRUE(rows[2].as_object().at("refused").is_null());
}

TEST_F(Command, BenchOfGenerations) {
  const CommandResult bench = run_command({"bench", plan(), "--weights", model(), "--budget", "60%,unlimited", "--prompt", "8", "--decode",
                                           "3", "--iterations", "2", "--quick", "--json"});
  ASSERT_EQ(bench.exit, 0) << bench.out;
  const boost::json::object result = bench.json();
  const boost::json::array& rows = result.at("rows").as_array();
  ASSERT_EQ(rows.size(), 2u);
  for (const auto& value : rows) {
    const boost::json::object& row = value.as_object();
    expect_keys(row, {"budget", "budget_bytes", "peak_arena_bytes", "state_bytes", "first_token_ms", "prefill", "decode", "tokens",
                      "throttled", "gpu"});
    for (const char* phase : {"prefill", "decode"}) {
      expect_keys(row.at(phase).as_object(), {"pass_ms", "tokens_per_second", "streamed_bytes", "link_share", "disk_share", "bound_by"});
    }
    EXPECT_EQ(row.at("tokens").as_array().size(), 4u);
    EXPECT_EQ(row.at("tokens"), rows[0].as_object().at("tokens"));
  }
  expect_error(run_command({"bench", plan(), "--weights", model(), "--prompt", "8", "--input", "input_ids=x.npy", "--quick", "--json"}), 2);
  expect_error(run_command({"bench", plan(), "--weights", model(), "--prompt", "8", "--contexts", "2", "--quick", "--json"}), 2);
}

TEST_F(Command, CompareWithTheCpuAndWithAFolder) {
  const CommandResult layers = run_command({"compare", plan(), "--weights", model(), "--budget", "60%", "--against", "cpu", "--layers", "--json"});
  ASSERT_EQ(layers.exit, 0) << layers.out;
  const boost::json::object object = layers.json();
  expect_keys(object.at("outputs").as_object().at("logits").as_object(), {"max_abs", "max_rel", "pass"});
  EXPECT_TRUE(object.at("first_diverging").is_null());
  EXPECT_GT(object.at("layers_compared").to_number<int>(), 10);
  ASSERT_EQ(run_command({"run", plan(), "--weights", model(), "--seed", "1", "--output-dir", path("ref")}).exit, 0);
  EXPECT_EQ(run_command({"compare", plan(), "--weights", model(), "--seed", "1", "--reference", path("ref"), "--json"}).exit, 0);
  // Other shapes of the inputs give other outputs.
  const CommandResult differs = run_command({"compare", plan(), "--weights", model(), "--seed", "1", "--shapes", "input_ids=1x3", "--reference", path("ref"), "--json"});
  EXPECT_EQ(expect_error(differs, 1).at("code"), "gate_failed");
}

TEST_F(Command, ExitCodes) {
  // 2 usage
  expect_error(run_command({"run", plan(), "--bugdet", "1", "--json"}), 2);
  expect_error(run_command({"build", model(), "--strip", "--refit", "none", "-o", path("x"), "--json"}), 2);
  expect_error(run_command({"run", plan(), "--weights", model(), "--budget", "0", "--json"}), 2);
  EXPECT_EQ(run_command({"rnu"}).exit, 2);
  // 3 not a plan, not a model
  { std::ofstream(path("junk.plan")) << "this is not a plan, and it is longer than a header would be" << std::string(4096, 'x'); }
  { std::ofstream(path("junk.onnx")) << std::string(200, '\xff'); }
  expect_error(run_command({"run", path("junk.plan"), "--json"}), 3);
  expect_error(run_command({"inspect", path("junk.plan"), "--json"}), 3);
  expect_error(run_command({"check", path("junk.onnx"), "--json"}), 3);
  // 4 weights missing: stripped, and of another model
  expect_error(run_command({"run", plan(), "--json"}), 4);
  ASSERT_EQ(run_command({"synth", "llama", "--params", "10M", "--dtype", "f32", "-o", path("other")}).exit, 0);
  const boost::json::object mismatch = expect_error(run_command({"refit", plan(), "--weights", path("other/model.onnx"), "--dry-run", "--json"}), 4);
  EXPECT_GT(mismatch.at("problems").as_array().size(), 5u);  // all at once
  // 6 out of budget, the minimum named
  const boost::json::object small = expect_error(run_command({"run", plan(), "--weights", model(), "--budget", "4096", "--json"}), 6);
  EXPECT_NE(std::string(small.at("message").as_string()).find("minimum"), std::string::npos) << boost::json::serialize(small);
  // 7 no such device
  CommandOptions no_library;
  no_library.environment["FOREBAY_CUDA_LIBRARY"] = path("nowhere.so");
  expect_error(run_command({"run", plan(), "--weights", model(), "--device", "cuda", "--json"}, no_library), 7);
  const CommandResult plain = run_command({"run", plan(), "--weights", model(), "--device", "cuda"}, no_library);
  EXPECT_EQ(plain.exit, 7);
  EXPECT_NE(plain.err.find("which is not there: looked for " + path("nowhere.so")), std::string::npos) << plain.err;
  { std::ofstream(path("nowhere.so")) << "no library"; }
  const CommandResult broken = run_command({"run", plan(), "--weights", model(), "--device", "cuda"}, no_library);
  EXPECT_EQ(broken.exit, 7);
  EXPECT_NE(broken.err.find("nowhere.so cannot be loaded: "), std::string::npos) << broken.err;
  EXPECT_NE(plain.err.find("--device cpu"), std::string::npos) << plain.err;
  // 8 no such file, no place to write
  expect_error(run_command({"run", path("absent.plan"), "--json"}), 8);
  expect_error(run_command({"build", model(), "-o", path("no/such/folder/x.plan"), "--json"}), 8);
}

void flip_bit(const std::string& path, int from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-from_end, std::ios::end);
  const int byte = file.get();
  file.seekp(-from_end, std::ios::end);
  file.put(static_cast<char>(byte ^ 1));
}

TEST_F(Command, CorruptionIsExitFive) {
  ASSERT_EQ(run_command({"build", model(), "-o", path("flip.plan")}).exit, 0);
  flip_bit(path("flip.plan"), 5000);
  expect_error(run_command({"verify", path("flip.plan"), "--json"}), 5);
  std::filesystem::copy_file(path("flip.plan"), path("cut.plan"));
  std::filesystem::resize_file(path("cut.plan"), std::filesystem::file_size(path("cut.plan")) / 2);
  expect_error(run_command({"verify", path("cut.plan"), "--json"}), 5);
  // The last byte of a shard is padding, which no digest has.
  ASSERT_EQ(run_command({"pack", plan(), "--weights", model(), "-o", path("padded"), "--codec", "zstd"}).exit, 0);
  EXPECT_EQ(run_command({"verify", plan(), "--weights", path("padded")}).exit, 0);
  flip_bit(path("padded/forebay-00001.shard"), 1);
  expect_error(run_command({"verify", plan(), "--weights", path("padded"), "--json"}), 5);
}

TEST_F(Command, EnvironmentTwinsAndTextErrors) {
  CommandOptions options;
  options.environment = {{"FOREBAY_BUDGET", "4096"}, {"FOREBAY_WEIGHTS", model()}};
  const CommandResult refused = run_command({"run", plan()}, options);
  EXPECT_EQ(refused.exit, 6);
  EXPECT_TRUE(refused.out.empty()) << refused.out;
  EXPECT_NE(refused.err.find("resource_exhausted"), std::string::npos) << refused.err;
  EXPECT_EQ(refused.err.find('\033'), std::string::npos);  // no colour without a terminal
  options.environment["FOREBAY_JSON"] = path("twin.json");
  EXPECT_EQ(run_command({"run", plan(), "--budget", "unlimited"}, options).exit, 0);
  EXPECT_TRUE(std::filesystem::exists(path("twin.json")));
}

TEST_F(Command, ConformanceCountsAndNames) {
  std::filesystem::create_directories(path("suite/test_bad/test_data_set_0"));
  { std::ofstream(path("suite/test_bad/model.onnx")) << std::string(100, '\xff'); }
  const CommandResult result = run_command({"conformance", path("suite"), "--json"});
  EXPECT_EQ(result.exit, 1) << result.out;
  const boost::json::object object = result.json();
  expect_keys(object, {"passed", "wrong", "unsupported", "skipped", "cases"});
  EXPECT_EQ(object.at("wrong"), 1);
  expect_keys(object.at("cases").as_array().at(0).as_object(), {"name", "status", "reason"});
  expect_error(run_command({"conformance", path("m"), "--json"}), 8);
}

TEST_F(Command, TheRuntimeProgramRunsPlansAndHasNoBuilder) {
  CommandOptions options;
  options.program = FOREBAY_RUN_COMMAND;
  const CommandResult run = run_command({"run", plan(), "--weights", model(), "--json"}, options);
  EXPECT_EQ(run.exit, 0) << run.out << run.err;
  EXPECT_EQ(run_command({"build", model(), "-o", path("r.plan")}, options).exit, 2);
}

TEST_F(Command, ADeviceThatIsNoneIsRefusedAsUsage) {
  for (const char* verb : {"run", "bench", "estimate"}) {
    std::vector<std::string> words{verb, plan(), "--device", "gpu"};
    if (std::string_view(verb) != "estimate") words.insert(words.end(), {"--weights", model()});
    const CommandResult refused = run_command(words);
    EXPECT_EQ(refused.exit, 2) << refused.err;
    EXPECT_NE(refused.err.find("there is no device 'gpu': it is cpu or cuda"), std::string::npos) << refused.err;
  }
  const CommandResult second = run_command({"run", plan(), "--weights", model(), "--device", "cuda:1"});
  EXPECT_EQ(second.exit, 2) << second.err;
  EXPECT_NE(second.err.find("CUDA_VISIBLE_DEVICES"), std::string::npos) << second.err;
}

TEST_F(Command, DoctorSaysWhatItTried) {
  const CommandResult doctor = run_command({"doctor", "--quick", "--path", path(""), "--json"});
  ASSERT_EQ(doctor.exit, 0) << doctor.out << doctor.err;
  expect_keys(doctor.json(), {"machine", "libraries", "io_uring", "memlock_bytes", "paths", "problems", "driver", "cuda"});
  const CommandResult text = run_command({"doctor", "--quick", "--path", path("")});
  const boost::json::value json = doctor.json();
  const boost::json::value& cuda = json.at("cuda");
  expect_keys(cuda.as_object(), {"usable", cuda.at("usable").as_bool() ? "name" : "reason"});
  EXPECT_NE(text.out.find("\nCUDA device: "), std::string::npos) << text.out;
  for (const boost::json::value& one : json.at("libraries").as_array()) {
    if (one.at("name") != "libcudnn.so.9") continue;
    const bool found = one.at("found").as_bool();
    const std::string line = found ? std::string(one.at("version").as_string()) : "none (libcudnn.so.9)";
    EXPECT_NE(text.out.find("\ncuDNN: " + line), std::string::npos) << text.out;
  }
}

}  // namespace
}  // namespace forebay::tools_test
