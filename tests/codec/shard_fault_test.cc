// Writing shard sets and plans while operations fail or the process is killed (F21-F25): the folder shows the old set or the new one,
// whole; nothing half-written stays; the same operation succeeds afterwards (I2, I5, I7).
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "codec/chunk_codec.h"
#include "plan/plan_io.h"
#include "plan/sample_plan.h"
#include "plan/scratch.h"
#include "refit/shard_reader.h"
#include "refit/shard_writer.h"
#include "support/fault_fs.h"

namespace forebay::test {
namespace {

plan::Plan plan_with_id() {
  plan::Plan plan = sample_plan();
  EXPECT_TRUE(plan::serialize_plan(plan, {}).ok());
  return plan;
}

Status pack(FileSystem& fs, const std::string& folder, const plan::Plan& plan, std::uint64_t seed) {
  refit::ShardWriterOptions options;
  options.max_shard_bytes = 120'000;
  auto writer = refit::ShardWriter::create(fs, folder, plan, options);
  if (!writer.ok()) return writer.status();
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    const auto raw = sample_chunk(plan, c, seed);
    if (Status status = (*writer)->append(raw, codec::kRaw, 1, xxh128(raw)); !status.ok()) return status;
  }
  return (*writer)->commit();
}

Status embed(FileSystem& fs, const std::string& path, const plan::Plan& plan, std::uint64_t seed) {
  auto writer = plan::EmbeddedPlanWriter::create(fs, path, plan, {});
  if (!writer.ok()) return writer.status();
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    const auto raw = sample_chunk(plan, c, seed);
    if (Status status = (*writer)->append_chunk(raw, 0, 1, xxh128(raw)); !status.ok()) return status;
  }
  return (*writer)->commit();
}

// Which seed the set in the folder was made from; 0 for none. Anything but one complete set fails the test.
std::uint64_t seed_of(const std::string& folder, const plan::Plan& plan) {
  const auto set = refit::ShardSet::open(posix_file_system(), folder, DirectIo::off);
  if (!set.ok()) {
    EXPECT_EQ(set.status().code(), Code::not_found) << set.status().to_string();
    return 0;
  }
  std::uint64_t found = 0;
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    std::vector<std::byte> stored;
    const Status read = (*set)->read_stored(c, stored);
    EXPECT_TRUE(read.ok()) << read.to_string();
    const std::uint64_t seed = stored == sample_chunk(plan, c, 5) ? 5 : stored == sample_chunk(plan, c, 6) ? 6 : 99;
    EXPECT_TRUE(found == 0 || found == seed) << "a mix of sets";
    found = seed;
  }
  return found;
}

std::uint64_t plan_seed_of(const std::string& path, const plan::Plan& plan) {
  std::shared_ptr<File> file;
  const auto read = plan::read_plan(posix_file_system(), path, &file);
  if (!read.ok()) {
    EXPECT_EQ(read.status().code(), Code::not_found) << read.status().to_string();
    return 0;
  }
  std::vector<std::byte> stored((*read)->embedded[0].stored_bytes);
  EXPECT_TRUE(file->read_exactly((*read)->embedded[0].offset, stored).ok());
  EXPECT_EQ(xxh128(stored), (*read)->embedded[0].stored_digest);
  return stored == sample_chunk(plan, 0, 5) ? 5 : stored == sample_chunk(plan, 0, 6) ? 6 : 99;
}

bool has_temporaries(const Scratch& folder) {
  for (const std::string& name : folder.names()) {
    if (name.ends_with(".tmp")) return true;
  }
  return false;
}

struct Mode {
  FaultOp op;
  int error;
};

TEST(ShardFaults, EveryFailingOperationLeavesOneWholeSet) {  // F21-F24
  const plan::Plan plan = plan_with_id();
  std::uint64_t injected = 0;
  for (const Mode mode : {Mode{FaultOp::write, ENOSPC},
                          {FaultOp::write, EDQUOT},
                          {FaultOp::sync, EIO},
                          {FaultOp::rename, EIO},
                          {FaultOp::create, EACCES},
                          {FaultOp::sync_folder, EIO},
                          {FaultOp::list, EIO},
                          {FaultOp::open, EMFILE}}) {
    FaultFs fs;
    injected += fault_loop(fs, {.op = mode.op, .error = mode.error}, [&](std::uint64_t) {
      const Scratch folder;
      ASSERT_TRUE(pack(posix_file_system(), folder.path(), plan, 5).ok());
      const auto before = folder.names();
      const Status status = pack(fs, folder.path(), plan, 6);
      const std::uint64_t seed = seed_of(folder.path(), plan);
      EXPECT_TRUE(seed == 6 || (seed == 5 && !status.ok())) << seed << " " << status.to_string();
      EXPECT_FALSE(has_temporaries(folder));
      EXPECT_TRUE(seed == 6 || folder.names() == before) << status.to_string();
      const Status again = pack(posix_file_system(), folder.path(), plan, 6);
      EXPECT_TRUE(again.ok()) << again.to_string();
      EXPECT_EQ(seed_of(folder.path(), plan), 6u);
    });
  }
  EXPECT_GT(injected, 20u);
}

TEST(PlanFaults, EveryFailingOperationLeavesOneWholePlan) {  // F21-F24
  const plan::Plan plan = plan_with_id();
  std::uint64_t injected = 0;
  for (const Mode mode : {Mode{FaultOp::write, ENOSPC},
                          {FaultOp::sync, EIO},
                          {FaultOp::rename, EIO},
                          {FaultOp::create, EROFS},
                          {FaultOp::sync_folder, EIO}}) {
    FaultFs fs;
    injected += fault_loop(fs, {.op = mode.op, .error = mode.error}, [&](std::uint64_t) {
      const Scratch folder;
      ASSERT_TRUE(embed(posix_file_system(), folder / "a.plan", plan, 5).ok());
      const Status status = embed(fs, folder / "a.plan", plan, 6);
      const std::uint64_t seed = plan_seed_of(folder / "a.plan", plan);
      EXPECT_TRUE(seed == 6 || (seed == 5 && !status.ok())) << seed << " " << status.to_string();
      EXPECT_EQ(folder.names(), std::vector<std::string>{"a.plan"});
    });
  }
  EXPECT_GT(injected, 10u);
}

// Runs `body` in a child that the n-th operation kills; false when it ended without meeting the fault.
template <typename Body>
bool killed(FaultOp op, FaultKind kind, std::uint64_t nth, Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    FaultFs fs;
    fs.arm({.op = op, .kind = kind, .nth = nth});
    static_cast<void>(body(fs));
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFSIGNALED(status);
}

TEST(ShardFaults, AKillAtEveryStepLeavesOneWholeSet) {  // F25
  const plan::Plan plan = plan_with_id();
  int kills = 0;
  for (const FaultOp op : {FaultOp::write, FaultOp::sync, FaultOp::rename, FaultOp::sync_folder, FaultOp::create, FaultOp::remove}) {
    for (const FaultKind kind : {FaultKind::kill, FaultKind::torn_kill}) {
      if (kind == FaultKind::torn_kill && op != FaultOp::write) continue;
      for (std::uint64_t nth = 1;; ++nth) {
        const Scratch folder;
        ASSERT_TRUE(pack(posix_file_system(), folder.path(), plan, 5).ok());
        if (!killed(op, kind, nth, [&](FaultFs& fs) { return pack(fs, folder.path(), plan, 6); })) break;
        ++kills;
        const std::uint64_t seed = seed_of(folder.path(), plan);
        EXPECT_TRUE(seed == 5 || seed == 6);
        // The next writer cleans up.
        ASSERT_TRUE(pack(posix_file_system(), folder.path(), plan, 6).ok());
        EXPECT_EQ(seed_of(folder.path(), plan), 6u);
        EXPECT_FALSE(has_temporaries(folder));
        EXPECT_EQ(folder.names().size(), 3u) << "two shards and an index";
      }
    }
  }
  EXPECT_GT(kills, 30);
}

TEST(PlanFaults, AKillAtEveryStepLeavesOneWholePlan) {  // F25
  const plan::Plan plan = plan_with_id();
  int kills = 0;
  for (const FaultOp op : {FaultOp::write, FaultOp::sync, FaultOp::rename, FaultOp::sync_folder}) {
    for (std::uint64_t nth = 1;; ++nth) {
      const Scratch folder;
      ASSERT_TRUE(embed(posix_file_system(), folder / "a.plan", plan, 5).ok());
      if (!killed(op, op == FaultOp::write ? FaultKind::torn_kill : FaultKind::kill, nth,
                  [&](FaultFs& fs) { return embed(fs, folder / "a.plan", plan, 6); })) {
        break;
      }
      ++kills;
      const std::uint64_t seed = plan_seed_of(folder / "a.plan", plan);
      EXPECT_TRUE(seed == 5 || seed == 6) << seed;
      ASSERT_TRUE(embed(posix_file_system(), folder / "a.plan", plan, 6).ok());
      EXPECT_EQ(folder.names(), std::vector<std::string>{"a.plan"});
    }
  }
  EXPECT_GT(kills, 10);
}

}  // namespace
}  // namespace forebay::test
