// F21 to F24: pack and refit with every write, sync and rename failing in turn. The old files serve, or none are there; never a mix.
#include <filesystem>

#include <gtest/gtest.h>

#include "plan/plan_io.h"
#include "refit/refit_fixture.h"
#include "support/fault_fs.h"

namespace forebay::test {
namespace {

constexpr int kErrors[] = {ENOSPC, EIO, EDQUOT, EROFS, EACCES};
constexpr FaultOp kOps[] = {FaultOp::create,      FaultOp::write,       FaultOp::sync, FaultOp::rename,
                            FaultOp::sync_folder, FaultOp::make_folder, FaultOp::list, FaultOp::remove};

std::map<std::string, std::string> folder_content(const std::string& folder) {
  std::map<std::string, std::string> files;
  if (!std::filesystem::exists(folder)) return files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files[entry.path().filename()] = read_file(entry.path());
  return files;
}

// Whether the folder serves exactly `weights`.
bool serves(const std::string& folder, const SmallModel& model, const Tensors& weights) {
  ThreadPool pool(1);
  auto catalog = refit::Catalog::open(posix_file_system(), std::vector<std::string>{folder}, null_logger());
  if (!catalog.ok()) return false;
  auto maker = refit::ChunkMaker::create(model.plan, *catalog, {}, pool);
  if (!maker.ok()) return false;
  for (plan::ChunkId c = 0; c < model.plan->chunks.size(); ++c) {
    std::vector<std::byte> raw(model.plan->chunks[c].raw_bytes);
    if (!(*maker)->make(c, raw).ok() || raw != wanted_chunk(*model.plan, c, weights)) return false;
  }
  return true;
}

struct Setting {
  FaultOp op;
  int error;
  bool lasting;
};
std::vector<Setting> settings() {
  std::vector<Setting> all;
  int i = 0;
  for (const FaultOp op : kOps)
    for (const bool lasting : {false, true}) all.push_back({op, kErrors[static_cast<std::size_t>(i++) % std::size(kErrors)], lasting});
  return all;
}

TEST(RefitCrash, PackIntoAnEmptyFolder) {
  ThreadPool pool(2);
  const SmallModel model = small_model();
  const auto catalog = memory_catalog(model.tensors);
  refit::PackOptions options;
  options.max_shard_bytes = 60'000;
  std::uint64_t injected = 0;
  for (const Setting& setting : settings()) {
    FaultFs fs;
    injected += fault_loop(
        fs, {.op = setting.op, .error = setting.error, .lasting = setting.lasting},
        [&](std::uint64_t n) {
          SCOPED_TRACE("op " + std::to_string(static_cast<int>(setting.op)) + " n " + std::to_string(n) +
                       (setting.lasting ? " lasting" : " once"));
          TempFolder folder;
          const auto result = refit::pack(fs, model.plan, catalog, folder / "shards", options, pool, null_logger());
          if (result.ok()) {
            EXPECT_TRUE(serves(folder / "shards", model, model.tensors));
          } else {
            EXPECT_NE(result.status().code(), Code::internal) << result.status().to_string();
            EXPECT_FALSE(std::filesystem::exists(folder / "shards/forebay.index") &&
                         !serves(folder / "shards", model, model.tensors));
          }
          EXPECT_OK(refit::pack(posix_file_system(), model.plan, catalog, folder / "shards", options, pool,
                                null_logger()));  // works once the fault is gone
          EXPECT_TRUE(serves(folder / "shards", model, model.tensors));
        },
        12);
  }
  EXPECT_GT(injected, 50u);
}

TEST(RefitCrash, PackOverAnOldSet) {
  ThreadPool pool(2);
  const SmallModel model = small_model();
  const Tensors other = small_tensors(77);
  TempFolder origin;
  refit::PackOptions options;
  options.max_shard_bytes = 60'000;
  ASSERT_OK(refit::pack(posix_file_system(), model.plan, memory_catalog(model.tensors), origin / "shards", options, pool, null_logger()));
  for (const Setting& setting : settings()) {
    FaultFs fs;
    fault_loop(
        fs, {.op = setting.op, .error = setting.error, .lasting = setting.lasting},
        [&](std::uint64_t n) {
          SCOPED_TRACE("op " + std::to_string(static_cast<int>(setting.op)) + " n " + std::to_string(n) +
                       (setting.lasting ? " lasting" : " once"));
          TempFolder folder;
          std::filesystem::copy(origin / "shards", folder / "shards");
          const auto result = refit::pack(fs, model.plan, memory_catalog(other), folder / "shards", options, pool, null_logger());
          const bool old_set = serves(folder / "shards", model, model.tensors), new_set = serves(folder / "shards", model, other);
          EXPECT_TRUE(old_set || new_set);
          if (result.ok()) {
            EXPECT_TRUE(new_set);
          }
        },
        12);
  }
}

TEST(RefitCrash, EmbedOverAnOldPlan) {
  ThreadPool pool(2);
  const SmallModel model = small_model();
  const Tensors other = small_tensors(77);
  TempFolder origin;
  ASSERT_OK(refit::embed(posix_file_system(), model.plan, memory_catalog(model.tensors), origin / "old.plan", {}, pool, null_logger()));
  ASSERT_OK(refit::embed(posix_file_system(), model.plan, memory_catalog(other), origin / "new.plan", {}, pool, null_logger()));
  const std::string old_bytes = read_file(origin / "old.plan"), new_bytes = read_file(origin / "new.plan");
  for (const Setting& setting : settings()) {
    FaultFs fs;
    fault_loop(
        fs, {.op = setting.op, .error = setting.error, .lasting = setting.lasting},
        [&](std::uint64_t n) {
          SCOPED_TRACE("op " + std::to_string(static_cast<int>(setting.op)) + " n " + std::to_string(n) +
                       (setting.lasting ? " lasting" : " once"));
          TempFolder folder;
          write_file(folder / "p.plan", old_bytes);
          const auto result = refit::embed(fs, model.plan, memory_catalog(other), folder / "p.plan", {}, pool, null_logger());
          const std::string now = read_file(folder / "p.plan");
          EXPECT_TRUE(now == old_bytes || now == new_bytes);
          if (result.ok()) {
            EXPECT_TRUE(now == new_bytes);
          }
          if (!result.ok() && setting.op != FaultOp::sync_folder) {
            EXPECT_TRUE(now == old_bytes);
          }
          if (!setting.lasting || setting.op != FaultOp::remove) {
            EXPECT_EQ(folder_content(folder.path()).size(), 1u);
          }  // no temporary stays
        },
        12);
  }
}

}  // namespace
}  // namespace forebay::test
