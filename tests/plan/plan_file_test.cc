// Plan files: stripped and embedded forms, what opening finds (F9, F31, F33 on files with weights).
#include <gtest/gtest.h>

#include "base/checked.h"
#include "plan/plan_format.h"
#include "plan/plan_io.h"
#include "plan/sample_plan.h"
#include "plan/scratch.h"

namespace forebay::test {
namespace {

using plan::Plan;

FileSystem& fs() { return posix_file_system(); }

Status write_embedded(const std::string& path, const Plan& plan, std::uint64_t seed, bool rehydrated = false) {
  Plan copy = plan;
  copy.embedded_rehydrated = rehydrated;
  auto writer = plan::EmbeddedPlanWriter::create(fs(), path, std::move(copy), {});
  if (!writer.ok()) return writer.status();
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    const auto raw = sample_chunk(plan, c, seed);
    if (Status status = (*writer)->append_chunk(raw, 0, 1, xxh128(raw)); !status.ok()) return status;
  }
  return (*writer)->commit();
}

TEST(PlanFile, StrippedFormIsReadBack) {
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(plan::write_stripped_plan(fs(), folder / "a.plan", plan, {}).ok());
  std::shared_ptr<File> file;
  const auto read = plan::read_plan(fs(), folder / "a.plan", &file);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ((*read)->id, plan.id);
  EXPECT_TRUE((*read)->stripped());
  EXPECT_NE(file, nullptr);
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a.plan"});
}

TEST(PlanFile, EmbeddedFormHasTheSameIdAndItsChunks) {
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(plan::write_stripped_plan(fs(), folder / "a.plan", plan, {}).ok());
  const Status written = write_embedded(folder / "b.plan", plan, 3, true);
  ASSERT_TRUE(written.ok()) << written.to_string();
  std::shared_ptr<File> file;
  const auto read = plan::read_plan(fs(), folder / "b.plan", &file);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  const Plan& back = **read;
  EXPECT_EQ(back.id, plan.id);
  EXPECT_TRUE(back.embedded_rehydrated);
  ASSERT_EQ(back.embedded.size(), plan.chunks.size());
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    const plan::StoredChunk& stored = back.embedded[c];
    EXPECT_EQ(stored.offset % kBlockBytes, 0u);
    std::vector<std::byte> bytes(stored.stored_bytes);
    ASSERT_TRUE(file->read_exactly(stored.offset, bytes).ok());
    EXPECT_EQ(xxh128(bytes), stored.stored_digest);
    EXPECT_EQ(bytes, sample_chunk(plan, c, 3));
  }
  // Writing the stripped form of what was read gives the first file again.
  Plan copy = back;
  ASSERT_TRUE(plan::write_stripped_plan(fs(), folder / "c.plan", copy, {}).ok());
  EXPECT_EQ(slurp(folder / "c.plan"), slurp(folder / "a.plan"));
  EXPECT_EQ(copy.embedded.size(), back.embedded.size());
}

TEST(PlanFile, EmbeddedWritingIsDeterministic) {
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(write_embedded(folder / "a.plan", plan, 3).ok());
  ASSERT_TRUE(write_embedded(folder / "b.plan", plan, 3).ok());
  EXPECT_EQ(slurp(folder / "a.plan"), slurp(folder / "b.plan"));
  // And the structure in memory is the one on disk.
  const auto bytes = slurp(folder / "a.plan");
  const auto read = plan::parse_plan(bytes, bytes.size(), "a.plan");
  ASSERT_TRUE(read.ok());
  Plan copy = **read;
  const auto structure = plan::serialize_plan(copy, {});
  ASSERT_TRUE(structure.ok());
  ASSERT_LT(structure->size(), bytes.size());
  EXPECT_TRUE(std::equal(structure->begin(), structure->end(), bytes.begin()));
}

TEST(PlanFile, PlanWithoutWeightsEmbedsNothing) {
  const Scratch folder;
  Plan plan;
  plan.graphs.resize(1);
  ASSERT_TRUE(write_embedded(folder / "a.plan", plan, 1).ok());
  const auto read = plan::read_plan(fs(), folder / "a.plan", nullptr);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_FALSE((*read)->stripped());
}

TEST(PlanFile, TruncationAtEveryChunkEdgeIsRefused) {  // F9
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(write_embedded(folder / "a.plan", plan, 3).ok());
  const auto bytes = slurp(folder / "a.plan");
  const auto whole = plan::parse_plan(bytes, bytes.size(), "a.plan");
  ASSERT_TRUE(whole.ok());
  std::vector<std::uint64_t> edges = {0, sizeof(plan::PlanHeader), bytes.size()};
  for (const plan::StoredChunk& chunk : (*whole)->embedded) {
    edges.push_back(chunk.offset);
    edges.push_back(chunk.offset + chunk.stored_bytes);
  }
  for (const std::uint64_t edge : edges) {
    for (const std::uint64_t size : {edge - 1, edge, edge + 1}) {
      if (size >= bytes.size()) continue;  // edge - 1 of 0 wraps
      spill(folder / "cut.plan", {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
      const auto cut = plan::read_plan(fs(), folder / "cut.plan", nullptr);
      ASSERT_FALSE(cut.ok()) << size;
      EXPECT_EQ(cut.status().code(), Code::corruption) << size;
      EXPECT_NE(cut.status().message().find(std::to_string(size)), std::string::npos) << cut.status().to_string();
    }
  }
}

TEST(PlanFile, EveryFlipInTheStructureOfAnEmbeddedPlanIsRefused) {  // F33
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(write_embedded(folder / "a.plan", plan, 3).ok());
  auto bytes = slurp(folder / "a.plan");
  const auto whole = plan::parse_plan(bytes, bytes.size(), "a.plan");
  ASSERT_TRUE(whole.ok());
  Plan copy = **whole;
  const std::size_t structure = plan::serialize_plan(copy, {}).value().size();
  for (std::size_t i = 0; i < structure; ++i) {
    bytes[i] ^= std::byte{0x10};
    ASSERT_FALSE(plan::parse_plan(bytes, bytes.size(), "a.plan").ok()) << i;
    bytes[i] ^= std::byte{0x10};
  }
}

TEST(PlanFile, WriterRefusesMisuse) {
  const Scratch folder;
  Plan plan = sample_plan();
  auto writer = plan::EmbeddedPlanWriter::create(fs(), folder / "a.plan", plan, {});
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->commit().code(), Code::failed_precondition);
  const std::vector<std::byte> wrong(12);
  EXPECT_EQ((*writer)->append_chunk(wrong, 0, 1, xxh128(wrong)).code(), Code::invalid_argument);
  EXPECT_TRUE((*writer)->append_chunk(wrong, 1, 1, xxh128(wrong)).ok());
  writer->reset();
  EXPECT_TRUE(folder.names().empty());  // nothing half-written
}

TEST(PlanFile, AnOlderFileStaysUntilCommit) {
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(write_embedded(folder / "a.plan", plan, 3).ok());
  const auto before = slurp(folder / "a.plan");
  {
    auto writer = plan::EmbeddedPlanWriter::create(fs(), folder / "a.plan", plan, {});
    ASSERT_TRUE(writer.ok());
    const auto raw = sample_chunk(plan, 0, 4);
    ASSERT_TRUE((*writer)->append_chunk(raw, 0, 1, xxh128(raw)).ok());
  }
  EXPECT_EQ(slurp(folder / "a.plan"), before);
}

TEST(PlanFile, HeaderOfANewerPlanCanBeShown) {
  const Scratch folder;
  Plan plan = sample_plan();
  ASSERT_TRUE(plan::write_stripped_plan(fs(), folder / "a.plan", plan, {}).ok());
  const auto info = plan::read_plan_header(fs(), folder / "a.plan");
  ASSERT_TRUE(info.ok()) << info.status().to_string();
  EXPECT_EQ(info->major, 1);
  EXPECT_EQ(info->id, plan.id);
  EXPECT_EQ(info->sections.size(), 9u);
  EXPECT_EQ(info->sections[0].name, "graph");
  EXPECT_TRUE(info->sections[0].critical);
  EXPECT_EQ(info->sections.back().name, "kernels.cuda");
  EXPECT_EQ(plan::read_plan(fs(), folder / "none.plan", nullptr).status().code(), Code::not_found);
}

}  // namespace
}  // namespace forebay::test
