#include <cmath>

#include <gtest/gtest.h>

#include "refit/refit_fixture.h"
#include "refit/shard_reader.h"

namespace forebay::test {
namespace {

using refit::Options;
using refit::Report;

Status check_model(const SmallModel& model, const Tensors& tensors, Report* report, const Options& options = {}, bool digests = true) {
  return refit::check(*model.plan, *memory_catalog(tensors), options, digests, report);
}

TEST(RefitCheck, WhatFitsPasses) {
  const SmallModel model = small_model();
  Report report;
  EXPECT_OK(check_model(model, model.tensors, &report));
  EXPECT_OK(check_model(model, small_tensors(99), &report));  // other values: an explicit refit
  EXPECT_TRUE(report.missing.empty() && report.extra.empty() && report.mismatched.empty());
}

// F35: each tensor in turn, then all at once.
TEST(RefitCheck, MissingTensors) {
  const SmallModel model = small_model();
  for (const auto& [name, tensor] : model.tensors) {
    Tensors fewer = small_tensors(1);
    fewer.erase(name);
    Report report;
    const Status status = check_model(model, fewer, &report);
    EXPECT_CODE(status, Code::weight_mismatch);
    EXPECT_EQ(exit_code(status), 4);
    ASSERT_EQ(report.missing.size(), 1u);
    EXPECT_EQ(report.missing[0].tensor, name);
    EXPECT_EQ(report.missing[0].code, "weight_missing");
  }
  Report report;
  const Status status = check_model(model, {}, &report);
  EXPECT_EQ(report.missing.size(), model.tensors.size());
  EXPECT_EQ(status.problems().size(), model.tensors.size());
}

TEST(RefitCheck, TheTextHoldsTwentyAndTheCount) {
  PlanMaker maker;
  for (int i = 0; i < 45; ++i) maker.weight({.name = "w" + std::to_string(i), .shape = {2}, .packed = true});
  Report report;
  const Status status = refit::check(*maker.finish(), *memory_catalog({}), {}, true, &report);
  EXPECT_EQ(status.problems().size(), 45u);
  EXPECT_NE(status.message().find("45 problems"), std::string::npos);
  EXPECT_NE(status.message().find("and 25 more"), std::string::npos);
  EXPECT_NE(status.message().find("w19:"), std::string::npos);
  EXPECT_EQ(status.message().find("w20:"), std::string::npos);
}

TEST(RefitCheck, NearestNamesAreSuggested) {
  const SmallModel model = small_model();
  Tensors renamed = small_tensors(1);
  auto node = renamed.extract("layer.0.weight");
  node.key() = "layers.0.weight";
  renamed.insert(std::move(node));
  Report report;
  EXPECT_CODE(check_model(model, renamed, &report), Code::weight_mismatch);
  ASSERT_EQ(report.missing.size(), 1u);
  EXPECT_NE(report.missing[0].hint.find("layers.0.weight"), std::string::npos) << report.missing[0].hint;
  ASSERT_EQ(report.extra.size(), 1u);
}

// F36
TEST(RefitCheck, ExtraTensorsAreListedAndRefusedWhenStrict) {
  const SmallModel model = small_model();
  Tensors more = small_tensors(1);
  more["unused"] = random_tensor(DType::f32, {2}, 1);
  Report report;
  EXPECT_OK(check_model(model, more, &report));
  ASSERT_EQ(report.extra.size(), 1u);
  EXPECT_EQ(report.extra[0].tensor, "unused");
  Options strict;
  strict.strict = true;
  EXPECT_CODE(check_model(model, more, &report, strict), Code::weight_mismatch);
}

// F38: dtype, rank, dims, with expected and found; all in one go.
TEST(RefitCheck, WrongDtypeRankAndDims) {
  const SmallModel model = small_model();
  Tensors wrong = small_tensors(1);
  wrong["embed"] = random_tensor(DType::f16, {300, 256}, 1);
  wrong["layer.0.bias"] = random_tensor(DType::f32, {96, 1}, 1);
  wrong["layer.0.weight"] = random_tensor(DType::f32, {130, 96}, 1);
  wrong["layer.1.weight"] = random_tensor(DType::f32, {64, 65}, 1);
  Report report;
  const Status status = check_model(model, wrong, &report);
  EXPECT_CODE(status, Code::weight_mismatch);
  EXPECT_EQ(report.mismatched.size(), 5u);
  EXPECT_EQ(find_problem(report.mismatched, "dtype_mismatch", "embed")->message, "expected bf16, found f16");
  EXPECT_EQ(find_problem(report.mismatched, "shape_mismatch", "layer.0.bias")->message, "expected [96], found [96,1]");
  const Problem* swapped = find_problem(report.mismatched, "shape_mismatch", "layer.0.weight");
  ASSERT_NE(swapped, nullptr);
  EXPECT_NE(swapped->hint.find("transpose"), std::string::npos);
  EXPECT_NE(find_problem(report.mismatched, "dtype_mismatch", "layer.1.weight"), nullptr);
  EXPECT_NE(find_problem(report.mismatched, "shape_mismatch", "layer.1.weight"), nullptr);
}

TEST(RefitCheck, ClosuresMustBeComplete) {
  PlanMaker maker;
  maker.source("a", DType::f32, {4});
  maker.source("b", DType::f32, {4});
  maker.weight({.name = "sum", .shape = {4}, .sources = {"a", "b"}, .nodes = {recipe_node("Add", {0, 1})}});
  const auto plan = maker.finish();
  Tensors tensors;
  tensors["a"] = random_tensor(DType::f32, {4}, 1);
  Report report;
  EXPECT_CODE(refit::check(*plan, *memory_catalog(tensors), {}, true, &report), Code::weight_mismatch);
  EXPECT_NE(find_problem(report.missing, "weight_missing", "b"), nullptr);
  const Problem* closure = find_problem(report.missing, "closure_incomplete", "sum");
  ASSERT_NE(closure, nullptr);
  EXPECT_EQ(closure->message, "it is made from 2 tensors, of which 1 are missing: b");
}

// F34: other weights of the same shapes. P4: identical means identical.
TEST(RefitCheck, IdenticalPlansRefuseOtherWeights) {
  const SmallModel model = small_model(1, plan::RefitMode::identical);
  Report report;
  EXPECT_OK(check_model(model, model.tensors, &report));
  Tensors other = small_tensors(1);
  other["layer.1.weight"].data()[77] ^= std::byte{1};
  other["mask"].data()[0] ^= std::byte{1};
  const Status status = check_model(model, other, &report);
  EXPECT_CODE(status, Code::weight_mismatch);
  EXPECT_EQ(report.mismatched.size(), 2u);
  const Problem* problem = find_problem(report.mismatched, "not_identical", "layer.1.weight");
  ASSERT_NE(problem, nullptr);
  EXPECT_NE(problem->message.find("sha256"), std::string::npos);
  Report quick;
  EXPECT_OK(check_model(model, other, &quick, {}, false));  // headers only
}

TEST(RefitCheck, KeptConstantsMustHoldTheSameValue) {
  PlanMaker maker;
  maker.weight({.name = "w", .shape = {4}});
  const HostTensor shape = random_tensor(DType::i64, {3}, 1);
  maker.kept("target_shape", shape);
  const auto plan = maker.finish();
  Tensors tensors;
  tensors["w"] = random_tensor(DType::f32, {4}, 1);
  Report report;
  EXPECT_OK(refit::check(*plan, *memory_catalog(tensors), {}, true, &report));  // the source need not be there
  tensors["target_shape"] = shape.clone();
  EXPECT_OK(refit::check(*plan, *memory_catalog(tensors), {}, true, &report));
  EXPECT_TRUE(report.extra.empty());
  tensors["target_shape"].as<std::int64_t>()[2] += 1;
  EXPECT_CODE(refit::check(*plan, *memory_catalog(tensors), {}, true, &report), Code::weight_mismatch);
  ASSERT_NE(find_problem(report.mismatched, "kept_constant_differs", "target_shape"), nullptr);
  tensors["target_shape"] = random_tensor(DType::i64, {4}, 1);
  Report shapes;
  EXPECT_CODE(refit::check(*plan, *memory_catalog(tensors), {}, false, &shapes), Code::weight_mismatch);
  EXPECT_NE(find_problem(shapes.mismatched, "shape_mismatch", "target_shape"), nullptr);
}

TEST(RefitCheck, TheMapRenamesAndTransposes) {
  const SmallModel model = small_model();
  Tensors hf = small_tensors(1);
  auto node = hf.extract("layer.0.weight");
  HostTensor swapped(DType::f32, Shape{130, 96});
  for (std::size_t r = 0; r < 96; ++r)
    for (std::size_t c = 0; c < 130; ++c) swapped.as<float>()[c * 96 + r] = node.mapped().as<float>()[r * 130 + c];
  hf["h.0.w"] = std::move(swapped);
  Options options;
  options.map.entries["layer.0.weight"] = {"h.0.w", true};
  Report report;
  EXPECT_OK(check_model(model, hf, &report, options));
  EXPECT_TRUE(report.extra.empty());
  options.map.entries["layer.0.weight"].transpose = false;
  EXPECT_CODE(check_model(model, hf, &report, options), Code::weight_mismatch);
  EXPECT_NE(find_problem(report.mismatched, "shape_mismatch", "layer.0.weight")->message.find("(by the map: h.0.w)"), std::string::npos);
  options.map.entries["layer.0.weight"].transpose = true;
  options.map.entries["layer.0.bias"] = {"layer.0.bias", true};  // rank 1
  options.map.entries["layer.0.wieght"] = {"x", false};
  Report wrong;
  EXPECT_CODE(check_model(model, hf, &wrong, options), Code::weight_mismatch);
  EXPECT_NE(find_problem(wrong.mismatched, "shape_mismatch", "layer.0.bias"), nullptr);
  const Problem* unknown = find_problem(wrong.mismatched, "map_unknown_name", "layer.0.wieght");
  ASSERT_NE(unknown, nullptr);
  EXPECT_NE(unknown->hint.find("layer.0.weight"), std::string::npos);
}

// F31, T2: shards of another plan.
TEST(RefitCheck, ShardsOfAnotherPlanAreRefusedWithBothIds) {
  TempFolder folder;
  ThreadPool pool(1);
  const SmallModel model = small_model();
  ASSERT_OK(refit::pack(posix_file_system(), model.plan, memory_catalog(model.tensors), folder / "shards", {}, pool, null_logger()));
  const auto shards = open_catalog({folder / "shards"});
  ASSERT_NE(shards, nullptr);
  Report report;
  EXPECT_OK(refit::check(*model.plan, *shards, {}, true, &report));
  PlanMaker other;
  other.weight({.name = "embed", .dtype = DType::bf16, .shape = {300, 256}});
  const auto plan = other.finish();
  const Status status = refit::check(*plan, *shards, {}, true, &report);
  EXPECT_CODE(status, Code::weight_mismatch);
  EXPECT_NE(status.to_string().find(to_hex(plan->id).substr(0, 12)), std::string::npos) << status.to_string();
  EXPECT_NE(status.to_string().find(to_hex(model.plan->id).substr(0, 12)), std::string::npos) << status.to_string();
}

TEST(RefitCheck, PlansWithFrozenWeightsAreNotRefitted) {
  SmallModel model = small_model();
  plan::Plan frozen = *model.plan;
  frozen.refit = plan::RefitMode::none;
  Report report;
  EXPECT_OK(refit::check(frozen, *memory_catalog(model.tensors), {}, true,
                         &report));  // being built: its weights are put in for the first time
  frozen.embedded.resize(frozen.chunks.size());
  EXPECT_CODE(refit::check(frozen, *memory_catalog(model.tensors), {}, true, &report), Code::failed_precondition);
}

TEST(RefitCheck, ReadErrorsAndCancelAreNotMismatches) {
  const SmallModel model = small_model(1, plan::RefitMode::identical);
  Options options;
  options.progress = [](const char*, std::uint64_t, std::uint64_t) { return false; };
  Report report;
  EXPECT_CODE(check_model(model, model.tensors, &report, options), Code::cancelled);
}

}  // namespace
}  // namespace forebay::test
