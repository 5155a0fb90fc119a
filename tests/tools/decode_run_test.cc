// Whole generations: the same tokens at every budget, and those that single passes over everything so far give.
#include "decode_run.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "context_runs.h"
#include "forebay/builder.h"
#include "gpu_sampler.h"
#include "synth/synth_llama.h"

namespace forebay::tools {
namespace {

class Decode : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() / ("forebay-decode-" + std::to_string(::getpid()))).string();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    SynthOptions synth;
    synth.params = "1M";
    synth.dtype = DType::f32;
    synth.seed = 3;
    ASSERT_TRUE(synth_llama(posix_file_system(), folder_, synth).ok());
    BuildOptions options;
    options.strip = true;
    const auto report = build(join_path(folder_, "model.onnx"), path(), options);
    ASSERT_TRUE(report.ok()) << report.status().to_string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return join_path(folder_, "m.plan"); }
  Result<Engine> engine(const Plan& plan, const Budget& budget, std::uint64_t host_cache = 0) const {
    EngineOptions options;
    options.host_cache_bytes = host_cache;
    options.budget = budget;
    options.threads = 2;
    WeightSources sources;
    sources.paths = {join_path(folder_, "model.onnx")};
    return Engine::create(plan, sources, options);
  }
  std::string folder_;
};

// The likeliest token after `tokens`, without a cache.
std::int64_t next_of(Engine& engine, const DecodeInputs& inputs, const std::vector<std::int64_t>& tokens) {
  auto context = engine.create_context();
  EXPECT_TRUE(context.ok());
  for (const auto& [output, input] : engine.plan().state_pairs()) EXPECT_TRUE(context->bind_state(output, input).ok());
  for (const NamedTensor& input : inputs.make(tokens, 1, 0, 0)) EXPECT_TRUE(context->set_input(input.name, input.tensor).ok());
  EXPECT_TRUE(context->execute().ok());
  const auto chosen = inputs.choose(*context);
  return chosen.ok() && chosen->size() == 1 ? chosen->front() : -1;
}

TEST_F(Decode, TokensOfSinglePassesAtEveryBudget) {
  const auto plan = Plan::load(path());
  ASSERT_TRUE(plan.ok()) << plan.status().to_string();
  const auto inputs = DecodeInputs::of(plan->inputs(), plan->outputs(), plan->state_pairs());
  ASSERT_TRUE(inputs.ok()) << inputs.status().to_string();
  EXPECT_EQ(inputs->token_input(), "input_ids");
  DecodeRequest request;
  request.prompt = 9;
  request.tokens = 5;
  request.iterations = 2;
  request.seed = 11;
  std::vector<std::int64_t> tokens;
  for (const double percent : {35.0, 60.0, 100.0}) {
    auto at = engine(*plan, Budget::of_percent(percent));
    ASSERT_TRUE(at.ok()) << at.status().to_string();
    const auto outcome = run_decode(*at, *inputs, request);
    ASSERT_TRUE(outcome.ok()) << outcome.status().to_string();
    EXPECT_EQ(outcome->prefill.pass_ms.size(), 2u);
    EXPECT_EQ(outcome->decode.pass_ms.size(), 10u);
    EXPECT_EQ(outcome->first_token_ms.size(), 2u);
    EXPECT_GT(outcome->memory.state, 0u);
    EXPECT_LE(outcome->memory.peak_committed, outcome->memory.budget);
    EXPECT_EQ(outcome->decode.disk_bytes > 0, percent < 100);
    if (tokens.empty()) tokens = outcome->tokens;
    EXPECT_EQ(outcome->tokens, tokens) << percent;
  }
  ASSERT_EQ(tokens.size(), 6u);
  // The prompt again, longer by a token each time.
  HostTensor prompt(DType::i64, Shape{1, request.prompt});
  fill_from_seed(prompt, request.seed, "input_ids");
  const auto given = prompt.as<std::int64_t>();
  std::vector<std::int64_t> so_far(given.begin(), given.end());
  auto whole = engine(*plan, Budget::unlimited());
  ASSERT_TRUE(whole.ok());
  for (const std::int64_t token : tokens) {
    EXPECT_EQ(next_of(*whole, *inputs, so_far), token) << so_far.size();
    so_far.push_back(token);
  }
}

// A measured generation beside a host cache that still grows would tell of the disk.
TEST_F(Decode, TheHostCacheIsFullBeforeItMeasures) {
  const auto plan = Plan::load(path());
  ASSERT_TRUE(plan.ok());
  const auto inputs = DecodeInputs::of(plan->inputs(), plan->outputs(), plan->state_pairs());
  ASSERT_TRUE(inputs.ok());
  auto at = engine(*plan, Budget::of_percent(35), 64u << 20);
  ASSERT_TRUE(at.ok());
  int calls = 0;
  EXPECT_TRUE(fill_host_cache(*at, [&calls]() -> Status { return ++calls, Status(); }).ok());
  EXPECT_EQ(calls, 3) << "it gives up where passes add nothing";
  EXPECT_FALSE(fill_host_cache(*at, []() -> Status { return Status(Code::internal, "no pass"); }).ok());
  DecodeRequest request;
  request.prompt = 3;
  const auto outcome = run_decode(*at, *inputs, request);
  ASSERT_TRUE(outcome.ok()) << outcome.status().to_string();
  EXPECT_GT(at->io().host_cache_wanted, 0u);
  EXPECT_GE(at->io().host_cache_bytes, at->io().host_cache_wanted);
  EXPECT_EQ(outcome->prefill.disk_bytes, 0u);
  EXPECT_EQ(outcome->prefill.pass_ms.size(), 1u);
}

TEST_F(Decode, ABatchHasItsOwnTokensAndCache) {
  const auto plan = Plan::load(path());
  ASSERT_TRUE(plan.ok());
  const auto inputs = DecodeInputs::of(plan->inputs(), plan->outputs(), plan->state_pairs());
  ASSERT_TRUE(inputs.ok());
  auto at = engine(*plan, Budget::unlimited());
  ASSERT_TRUE(at.ok());
  DecodeRequest request;
  request.prompt = 4;
  request.tokens = 0;
  request.batch = 3;
  const auto prompt_only = run_decode(*at, *inputs, request);
  ASSERT_TRUE(prompt_only.ok()) << prompt_only.status().to_string();
  EXPECT_TRUE(prompt_only->decode.pass_ms.empty());
  EXPECT_EQ(prompt_only->tokens.size(), 1u);
  request.tokens = 2;
  const auto both = run_decode(*at, *inputs, request);
  ASSERT_TRUE(both.ok()) << both.status().to_string();
  EXPECT_EQ(both->tokens.size(), 3u);
  EXPECT_EQ(both->tokens.front(), prompt_only->tokens.front());
}

TensorInfo info(const std::string& name, DType dtype, std::vector<std::int64_t> dims, std::vector<std::string> names) {
  return {name, dtype, std::move(dims), std::move(names)};
}

TEST(DecodeInputs, MaskAndPositionsFollowTheCache) {
  const auto inputs = DecodeInputs::of(
      {info("position_ids", DType::i64, {-1, -1}, {"batch", "sequence"}), info("input_ids", DType::i64, {-1, -1}, {"batch", "sequence"}),
       info("attention_mask", DType::i64, {-1, -1}, {"batch", "past + sequence"}),
       info("past.0", DType::f32, {-1, 2, -1, 4}, {"batch", "", "past", ""})},
      {info("logits", DType::f32, {-1, -1, 7}, {"batch", "sequence", ""}),
       info("present.0", DType::f32, {-1, 2, -1, 4}, {"batch", "", "past + sequence", ""})},
      {{"present.0", "past.0"}});
  ASSERT_TRUE(inputs.ok()) << inputs.status().to_string();
  EXPECT_EQ(inputs->token_input(), "input_ids");
  const std::vector<std::int64_t> tokens{5, 6, 7, 8};
  const auto made = inputs->make(tokens, 2, 10, 0);
  ASSERT_EQ(made.size(), 3u);
  const auto values = [&](std::size_t i) {
    const auto span = made[i].tensor.as<std::int64_t>();
    return std::vector<std::int64_t>(span.begin(), span.end());
  };
  EXPECT_EQ(values(0), (std::vector<std::int64_t>{10, 11, 10, 11}));
  EXPECT_EQ(values(1), tokens);
  EXPECT_EQ(made[2].tensor.shape(), (Shape{2, 12}));
  EXPECT_EQ(values(2), std::vector<std::int64_t>(24, 1));
}

TEST(DecodeInputs, WhatIsNoDecoderIsRefusedWithTheReason) {
  const std::vector<TensorInfo> image{info("image", DType::f32, {1, 3, -1, -1}, {"", "", "h", "w"})};
  const auto stateless = DecodeInputs::of(image, {}, {});
  ASSERT_FALSE(stateless.ok());
  EXPECT_EQ(stateless.status().code(), Code::invalid_argument);
  EXPECT_NE(stateless.status().to_string().find("has none"), std::string::npos);
  const auto no_tokens = DecodeInputs::of(image, {}, {{"state_out", "state"}});
  ASSERT_FALSE(no_tokens.ok());
  EXPECT_NE(no_tokens.status().to_string().find("no integer input"), std::string::npos);
}

TEST(GpuSampler, NamesTheReasonsThatLowerClocks) {
  EXPECT_TRUE(GpuSampler::throttle_names(0).empty());
  EXPECT_TRUE(GpuSampler::throttle_names(0x1 | 0x2 | 0x100).empty());  // idle, application clocks, display clocks
  EXPECT_EQ(GpuSampler::throttle_names(0x4 | 0x40), (std::vector<std::string>{"software_power_cap", "hardware_thermal"}));
  GpuSampler none("cpu");
  none.start();
  EXPECT_TRUE(none.stop().is_null());
}

}  // namespace
}  // namespace forebay::tools
