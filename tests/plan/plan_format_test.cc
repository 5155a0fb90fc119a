// The bytes of a plan: one spelling, every damage found, versions and sections as docs/plan_format.md says (F32, F33).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/digest.h"
#include "plan/plan_format.h"
#include "plan/plan_io.h"
#include "plan/plan_surgery.h"
#include "plan/sample_plan.h"

namespace forebay::test {
namespace {

using plan::Plan;

std::vector<std::byte> bytes_of(Plan& plan) {
  auto bytes = plan::serialize_plan(plan, {});
  EXPECT_TRUE(bytes.ok()) << bytes.status().to_string();
  return bytes.ok() ? *bytes : std::vector<std::byte>();
}

Result<std::shared_ptr<const Plan>> parse(const std::vector<std::byte>& bytes) {
  return plan::parse_plan(bytes, bytes.size(), "test.plan");
}

void expect_refused(const std::vector<std::byte>& bytes, Code code, const std::string& text) {
  const auto parsed = parse(bytes);
  ASSERT_FALSE(parsed.ok()) << "wanted: " << text;
  EXPECT_EQ(parsed.status().code(), code) << parsed.status().to_string();
  EXPECT_NE(parsed.status().message().find(text), std::string::npos) << parsed.status().to_string();
  EXPECT_EQ(parsed.status().problems()[0].file, "test.plan");
}

TEST(PlanFormat, RoundTripKeepsEverything) {
  Plan plan = sample_plan();
  const auto bytes = bytes_of(plan);
  const auto parsed = parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  const Plan& back = **parsed;
  EXPECT_EQ(back.id, plan.id);
  EXPECT_EQ(back.model_name, plan.model_name);
  EXPECT_EQ(back.opsets, plan.opsets);
  EXPECT_EQ(back.numerics, plan.numerics);
  EXPECT_EQ(back.slab_bytes, plan.slab_bytes);
  ASSERT_EQ(back.values.size(), plan.values.size());
  for (std::size_t i = 0; i < plan.values.size(); ++i) {
    EXPECT_EQ(back.values[i].name, plan.values[i].name);
    EXPECT_EQ(back.values[i].dtype, plan.values[i].dtype);
    EXPECT_EQ(back.values[i].has_rank, plan.values[i].has_rank);
    EXPECT_EQ(back.values[i].kind, plan.values[i].kind);
    EXPECT_EQ(back.values[i].index, plan.values[i].index);
    ASSERT_EQ(back.values[i].dims.size(), plan.values[i].dims.size());
  }
  const auto& node = back.graphs[0].nodes[1];
  EXPECT_EQ(node.domain, "forebay");
  EXPECT_EQ(node.inputs[2], plan::kNone);
  EXPECT_EQ(node.fused_from, plan.graphs[0].nodes[1].fused_from);
  ASSERT_EQ(node.attributes.size(), 8u);
  EXPECT_EQ(std::get<float>(node.attributes[0].value), 0.1f);
  EXPECT_EQ(std::get<std::string>(node.attributes[2].value), std::string("a\0b\xff", 4));
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(node.attributes[3].value)[2], std::numeric_limits<std::int64_t>::min());
  EXPECT_TRUE(std::signbit(std::get<std::vector<float>>(node.attributes[4].value)[1]));
  EXPECT_TRUE(std::get<std::vector<std::int64_t>>(node.attributes[6].value).empty());
  EXPECT_EQ(std::get<plan::TensorRef>(node.attributes[7].value).constant, 1u);
  EXPECT_EQ(back.constants[0].data, plan.constants[0].data);
  EXPECT_TRUE(back.constants[0].kept);
  EXPECT_EQ(back.weights[3].shape, plan.weights[3].shape);
  EXPECT_EQ(back.weights[3].quant_block, 16);
  EXPECT_EQ(back.weights[2].recipe.describe(), "Mul(Div)");
  EXPECT_EQ(back.weights[0].recipe.describe(), "identity");
  EXPECT_EQ(back.parts.size(), plan.parts.size());
  EXPECT_EQ(back.kernels.size(), 2u);
  EXPECT_TRUE(back.stripped());
  Plan copy = back;
  EXPECT_EQ(bytes_of(copy), bytes);
}

TEST(PlanFormat, RandomPlansWriteBackToTheSameBytes) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Plan plan = random_plan(seed);
    const auto bytes = bytes_of(plan);
    const auto parsed = parse(bytes);
    ASSERT_TRUE(parsed.ok()) << "seed " << seed << ": " << parsed.status().to_string();
    Plan copy = **parsed;
    ASSERT_EQ(bytes_of(copy), bytes) << "seed " << seed;
    Plan again = random_plan(seed);
    ASSERT_EQ(bytes_of(again), bytes) << "seed " << seed;
  }
}

TEST(PlanFormat, EveryFlippedBitIsRefused) {  // F33
  Plan plan = sample_plan();
  auto bytes = bytes_of(plan);
  ASSERT_LT(bytes.size(), 8192u);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::byte>(1 << bit);
      ASSERT_FALSE(parse(bytes).ok()) << "byte " << i << " bit " << bit;
      bytes[i] ^= static_cast<std::byte>(1 << bit);
    }
  }
  EXPECT_TRUE(parse(bytes).ok());
}

TEST(PlanFormat, EveryTruncationAndAnyTailIsRefused) {  // F33
  Plan plan = sample_plan();
  const auto bytes = bytes_of(plan);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    const auto parsed = parse(cut);
    ASSERT_FALSE(parsed.ok()) << size;
    EXPECT_EQ(parsed.status().code(), Code::corruption) << size;
    EXPECT_NE(parsed.status().message().find("the file has " + std::to_string(size)), std::string::npos) << parsed.status().to_string();
  }
  auto longer = bytes;
  longer.push_back(std::byte{0});
  expect_refused(longer, Code::corruption, "1 bytes follow its end");
}

TEST(PlanFormat, OtherFilesAreNamedAsSuch) {
  expect_refused(std::vector<std::byte>(4096, std::byte{'x'}), Code::invalid_model, "no forebay plan");
  expect_refused({}, Code::corruption, "cut");
}

class PlanEdit : public testing::Test {
 protected:
  void SetUp() override {
    plan_ = sample_plan();
    auto opened = open_plan(bytes_of(plan_));
    ASSERT_TRUE(opened.has_value());
    open_ = *opened;
  }
  Plan plan_;
  OpenPlan open_;
};

TEST_F(PlanEdit, ClosingUnchangedGivesTheSameBytes) { EXPECT_EQ(close_plan(open_), bytes_of(plan_)); }

TEST_F(PlanEdit, NewerMinimumReaderIsRefusedWithBothVersions) {  // F32
  open_.header.major = 1;
  open_.header.minor = 7;
  open_.header.min_reader_major = 1;
  open_.header.min_reader_minor = 3;
  expect_refused(close_plan(open_), Code::invalid_model, "needs a reader of format 1.3 or newer; this one reads 1.0");
  open_.header.min_reader_major = 2;
  expect_refused(close_plan(open_), Code::invalid_model, "2.3");
}

TEST_F(PlanEdit, NewerPlanThatNeedsNothingNewerOpens) {  // F32
  open_.header.major = 2;
  open_.header.minor = 5;
  EXPECT_TRUE(parse(close_plan(open_)).ok());
}

TEST_F(PlanEdit, RequiredFeaturesAndVersionZeroAreRefused) {
  open_.header.required_features = 4;
  expect_refused(close_plan(open_), Code::invalid_model, "bits 4");
  open_.header.required_features = 0;
  open_.header.min_reader_major = 0;
  expect_refused(close_plan(open_), Code::invalid_model, "version 0");
}

TEST_F(PlanEdit, OtherEndiannessIsRefused) {  // F32
  open_.header.endian = plan::kSwappedEndianMark;
  expect_refused(close_plan(open_), Code::invalid_model, "big-endian");
}

TEST_F(PlanEdit, UnknownCriticalSectionIsRefusedByName) {  // F32
  open_.add(77, plan::kFlagCritical, "sparsity", 12);
  expect_refused(close_plan(open_), Code::invalid_model, "section 'sparsity' (id 77)");
}

TEST_F(PlanEdit, UnknownOptionalSectionIsSkipped) {  // F32
  open_.add(77, 0, "hints", 100);
  open_.add(78, 0, "more", 0);
  const auto parsed = parse(close_plan(open_));
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ((*parsed)->id, plan_.id);
  // Flips in it are still found.
  auto bytes = close_plan(open_);
  bytes.back() ^= std::byte{1};
  EXPECT_FALSE(parse(bytes).ok());
}

TEST_F(PlanEdit, SectionsOutOfOrderTwiceOrMissingAreRefused) {
  auto swapped = open_;
  std::swap(swapped.sections[0], swapped.sections[1]);
  expect_refused(close_plan(swapped), Code::invalid_model, "out of order");
  auto twice = open_;
  twice.sections.insert(twice.sections.begin(), twice.sections[0]);
  expect_refused(close_plan(twice), Code::invalid_model, "there twice");
  for (std::size_t i = 0; i < 7; ++i) {
    auto missing = open_;
    missing.sections.erase(missing.sections.begin() + static_cast<std::ptrdiff_t>(i));
    expect_refused(close_plan(missing), Code::invalid_model, "is missing");
  }
}

TEST_F(PlanEdit, SectionFlagsNamesAndReservedFieldsAreFixed) {
  auto flags = open_;
  flags.sections[0].record.flags = plan::kFlagCritical;
  expect_refused(close_plan(flags), Code::invalid_model, "wrong name or flags");
  flags.sections[0].record.flags = 8;
  expect_refused(close_plan(flags), Code::invalid_model, "unknown flags");
  auto name = open_;
  name.sections[0].record.name[0] = 'G';
  expect_refused(close_plan(name), Code::invalid_model, "wrong name or flags");
  auto reserved = open_;
  reserved.header.reserved[100] = 1;
  expect_refused(close_plan(reserved), Code::invalid_model, "reserved");
  auto signature = open_;
  signature.header.signature_bytes = 64;
  expect_refused(close_plan(signature), Code::invalid_model, "reserved");
}

TEST_F(PlanEdit, AnotherSpellingIsRefused) {
  // An unknown field at the end of a message parses, and hides bytes.
  auto hidden = open_;
  for (const unsigned char byte : {0xf8, 0x07, 0x01}) hidden.find(plan::kSectionInfo)->bytes.push_back(std::byte{byte});
  expect_refused(close_plan(hidden), Code::invalid_model, "not in canonical form");
  // A newer plan may have fields that this reader does not know.
  hidden.header.minor = 1;
  EXPECT_TRUE(parse(close_plan(hidden)).ok());
}

TEST_F(PlanEdit, TablesMustHoldWholeRecords) {
  open_.find(plan::kSectionParts)->bytes.pop_back();
  expect_refused(close_plan(open_), Code::invalid_model, "whole number of records");
}

TEST_F(PlanEdit, ConstantDataMustFit) {
  auto less = open_;
  less.find(plan::kSectionConstantData)->bytes.pop_back();
  expect_refused(close_plan(less), Code::invalid_model, "are left");
  open_.find(plan::kSectionConstantData)->bytes.push_back(std::byte{});
  expect_refused(close_plan(open_), Code::invalid_model, "belong to no constant");
}

// Every field of every table record at 0, max and max - 1, digests repaired: refused or, where it changes nothing of note, written back as
// it is.
TEST_F(PlanEdit, EveryTableFieldAtItsEdges) {
  int refused = 0;
  for (const std::uint32_t id : {plan::kSectionParts, plan::kSectionChunkParts, plan::kSectionChunks}) {
    const std::size_t size = open_.find(id)->bytes.size();
    for (std::size_t at = 0; at + 4 <= size; at += 4) {
      for (const std::uint32_t value : {0u, 0xffffffffu, 0xfffffffeu}) {
        OpenPlan edited = open_;
        auto& bytes = edited.find(id)->bytes;
        std::uint32_t old = 0;
        std::memcpy(&old, bytes.data() + at, 4);
        if (old == value) continue;
        std::memcpy(bytes.data() + at, &value, 4);
        const auto parsed = parse(close_plan(edited));
        EXPECT_FALSE(parsed.ok()) << "section " << id << " at " << at << " value " << value;
        refused += parsed.ok() ? 0 : 1;
      }
    }
  }
  EXPECT_GT(refused, 100);
}

// Random bytes set in the sections, digests repaired: never a crash, and what is accepted has one spelling.
TEST_F(PlanEdit, RandomDamageBehindRightDigests) {
  std::uint64_t state = 12345;
  const auto next = [&] { return (state = state * 6364136223846793005ull + 1442695040888963407ull) >> 33; };
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    OpenPlan edited = open_;
    auto& bytes = edited.sections[next() % edited.sections.size()].bytes;
    if (bytes.empty()) continue;
    for (std::uint64_t k = 1 + next() % 3; k-- > 0;)
      bytes[next() % bytes.size()] = static_cast<std::byte>(next() % 4 == 0 ? 0xff : next() % 256);
    const auto closed = close_plan(edited);
    const auto parsed = parse(closed);
    if (!parsed.ok()) continue;
    ++accepted;
    Plan copy = **parsed;
    ASSERT_EQ(bytes_of(copy), closed) << "round " << round;
  }
  EXPECT_GT(accepted, 100);
}

TEST(PlanFormat, CompatibleWithVersions) {
  Plan plan = sample_plan();
  EXPECT_TRUE(plan::serialize_plan(plan, {1, 0}).ok());
  for (const auto& [major, minor] : {std::pair<int, int>{0, 9}, {1, 1}, {2, 0}}) {
    const auto refused = plan::serialize_plan(plan, {static_cast<std::uint16_t>(major), static_cast<std::uint16_t>(minor)});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), Code::invalid_argument);
  }
}

TEST(PlanFormat, IdCoversStructureAlone) {
  Plan plan = sample_plan();
  bytes_of(plan);
  const Sha256 id = plan.id;
  Plan kernels = sample_plan();
  kernels.kernels.pop_back();
  kernels.producer = "another";
  bytes_of(kernels);
  EXPECT_EQ(kernels.id, id);
  Plan other = sample_plan();
  other.graphs[0].nodes[0].attributes[0].value = std::int64_t{1};
  bytes_of(other);
  EXPECT_NE(other.id, id);
}

TEST(PlanFormat, LargeGraphsAreLinear) {
  Plan plan;
  plan.graphs.resize(1);
  plan::Value value;
  value.name = "x";
  value.dtype = DType::f32;
  value.kind = plan::ValueKind::input;
  plan.values.push_back(value);
  plan.graphs[0].inputs = {0};
  value.kind = plan::ValueKind::intermediate;
  constexpr std::uint32_t kNodes = 100'000;
  for (std::uint32_t i = 0; i < kNodes; ++i) {
    value.name = "v" + std::to_string(i);
    plan.values.push_back(value);
    plan::Node node;
    node.name = "n" + std::to_string(i);
    node.op = "Add";
    node.inputs = {i, i / 2};
    node.outputs = {i + 1};
    plan.graphs[0].nodes.push_back(std::move(node));
  }
  plan.graphs[0].outputs = {kNodes};
  const auto bytes = bytes_of(plan);
  EXPECT_TRUE(parse(bytes).ok());
}

}  // namespace
}  // namespace forebay::test
