// One plan of every released format version, kept for ever: it loads, and while the version is the writer's own, it writes back to the same
// bytes. Also files that must be refused, and why.
#include <gtest/gtest.h>

#include "plan/plan_io.h"
#include "plan/sample_plan.h"
#include "plan/scratch.h"

namespace forebay::test {
namespace {

const std::string kFolder = FOREBAY_SOURCE_DIR "/tests/golden/";

TEST(PlanGolden, Format10LoadsAndWritesBack) {
  const auto read = plan::read_plan(posix_file_system(), kFolder + "plan_1_0.plan", nullptr);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(to_hex((*read)->id), "7354b468c022efb3602e30f2db544e4d097d5dd866b0ea4af32581f0c01f4755");
  EXPECT_EQ((*read)->weights.size(), 6u);
  EXPECT_EQ((*read)->weights[3].dtype, DType::i4);
  EXPECT_EQ((*read)->graphs.size(), 3u);
  EXPECT_EQ((*read)->graphs[0].nodes[1].attributes.size(), 8u);
  EXPECT_TRUE((*read)->stripped());
  plan::Plan copy = **read;
  const auto again = plan::serialize_plan(copy, {});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, slurp(kFolder + "plan_1_0.plan"));
}

// Should this fail after a change of sample_plan, only this test and its file need care; the golden plan stays as it is.
TEST(PlanGolden, WriterStillMakesFormat10) {
  plan::Plan plan = sample_plan();
  const auto bytes = plan::serialize_plan(plan, {});
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(*bytes, slurp(kFolder + "plan_1_0.plan"));
}

TEST(PlanGolden, NewerPlanWithOptionalSectionLoads) {
  const auto read = plan::read_plan(posix_file_system(), kFolder + "plan_1_1_optional_section.plan", nullptr);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ((*read)->weights.size(), 6u);
}

TEST(PlanGolden, PlansToRefuse) {
  const auto refused = [](const char* name, const char* text) {
    const auto read = plan::read_plan(posix_file_system(), kFolder + name, nullptr);
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.status().code(), Code::invalid_model);
    EXPECT_NE(read.status().message().find(text), std::string::npos) << read.status().to_string();
    EXPECT_TRUE(plan::read_plan_header(posix_file_system(), kFolder + name).ok());
  };
  refused("plan_needs_reader_1_3.plan", "needs a reader of format 1.3");
  refused("plan_unknown_critical_section.plan", "'sparsity'");
}

}  // namespace
}  // namespace forebay::test
