#include <filesystem>
#include <limits>

#include <gtest/gtest.h>

#include "plan/plan_io.h"
#include "refit/refit_fixture.h"
#include "refit/shard_reader.h"

namespace forebay::test {
namespace {

using refit::PackOptions;
using refit::Report;

class Pack : public ::testing::Test {
 protected:
  Result<refit::PackResult> pack(const std::shared_ptr<const plan::Plan>& plan, const std::shared_ptr<const refit::Catalog>& catalog,
                                 const PackOptions& options = {}) {
    return refit::pack(fs, plan, catalog, folder / "shards", options, pool, logger);
  }
  plan::GenerationPtr bound(const std::shared_ptr<const plan::Plan>& plan) {
    Report report;
    auto generation = refit::bind(fs, plan, open_catalog({folder / "shards"}), {}, 1, pool, logger, &report);
    EXPECT_OK(generation);
    return generation.ok() ? *generation : nullptr;
  }
  FileSystem& fs = posix_file_system();
  TempFolder folder;
  ThreadPool pool{3};
  LineLogger logger;
};

// Half noise, half zeros: zstd stores about half. Noise: zstd gains nothing. A ramp: zstd gains much.
HostTensor compressible(std::int64_t elements, double noise, std::uint64_t seed) {
  HostTensor tensor(DType::u8, Shape{elements});
  Random random(seed);
  random.fill({tensor.data(), static_cast<std::size_t>(static_cast<double>(elements) * noise)});
  return tensor;
}

TEST_F(Pack, EveryCodecGivesTheSameBytes) {
  const SmallModel model = small_model();
  for (const PackOptions::Choice codec : {PackOptions::Choice::raw, PackOptions::Choice::zstd, PackOptions::Choice::automatic}) {
    PackOptions options;
    options.codec = codec;
    options.max_shard_bytes = 180'000;  // the table fits one shard
    ASSERT_VALUE(const refit::PackResult result, pack(model.plan, memory_catalog(model.tensors), options));
    EXPECT_GT(result.files.size(), 2u);
    EXPECT_GT(result.read_bytes, 0u);
    const auto generation = bound(model.plan);
    ASSERT_NE(generation, nullptr);
    EXPECT_EQ(generation->binding.integrity, "digests");
    EXPECT_EQ(generation->binding.host_bytes, 0u);
    expect_generation(generation, model.tensors);
    std::uint64_t bytes = 0;
    EXPECT_OK(refit::verify(fs, *generation, {}, &bytes));
    EXPECT_EQ(bytes, result.raw_bytes);
    // Rows of a gather-only table lie raw, whatever the codec, with digests by group.
    EXPECT_TRUE(generation->binding.rows[0].available);
    EXPECT_EQ(generation->binding.rows[0].group_digests.size(), (300u * 512 + 65535) / 65536);
  }
}

TEST_F(Pack, TheCodecMustPay) {
  PlanMaker maker;
  Tensors tensors;
  const std::pair<const char*, double> kinds[] = {{"noise", 1.0}, {"mostly", 0.98}, {"some", 0.6}, {"half", 0.3}};
  for (const auto& [name, noise] : kinds) {
    maker.weight({.name = name, .dtype = DType::u8, .shape = {100'000}});
    tensors[name] = compressible(100'000, noise, 5);
  }
  const auto plan = maker.finish();
  const auto codecs = [&](PackOptions::Choice codec) {
    PackOptions options;
    options.codec = codec;
    auto result = pack(plan, memory_catalog(tensors), options);
    EXPECT_OK(result);
    EXPECT_EQ(result->raw_bytes, 400'000u);
    return result->codecs;
  };
  using Counts = std::map<std::string, std::uint64_t>;
  EXPECT_EQ(codecs(PackOptions::Choice::raw), (Counts{{"raw", 4}}));
  EXPECT_EQ(codecs(PackOptions::Choice::zstd), (Counts{{"raw", 2}, {"zstd", 2}}));       // gains of 0 and 2 % are not taken
  EXPECT_EQ(codecs(PackOptions::Choice::automatic), (Counts{{"raw", 3}, {"zstd", 1}}));  // only what is stored in half
}

TEST_F(Pack, ShardsCanBePackedAgain) {
  const SmallModel model = small_model();
  ASSERT_OK(pack(model.plan, memory_catalog(model.tensors)));
  PackOptions options;
  options.codec = PackOptions::Choice::zstd;
  ASSERT_OK(refit::pack(fs, model.plan, open_catalog({folder / "shards"}), folder / "again", options, pool, logger));
  Report report;
  ASSERT_VALUE(const plan::GenerationPtr again,
               refit::bind(fs, model.plan, open_catalog({folder / "again"}), {}, 1, pool, logger, &report));
  expect_generation(again, model.tensors);
}

TEST_F(Pack, NonFiniteValuesWarnOrRefuseAndThenNothingIsWritten) {
  const SmallModel model = small_model();
  Tensors tensors = small_tensors(1);
  tensors["layer.1.weight"].as<std::uint16_t>()[100] = 0x7c00;
  ASSERT_VALUE(const refit::PackResult warned, pack(model.plan, memory_catalog(tensors)));
  ASSERT_EQ(warned.report.warnings.size(), 1u);
  EXPECT_EQ(warned.report.warnings[0].message, "1 values are infinite or NaN, the first at element 100");
  EXPECT_TRUE(logger.has("non_finite tensor=layer.1.weight"));
  std::filesystem::remove_all(folder / "shards");
  PackOptions options;
  options.refit.finite = true;
  EXPECT_CODE(pack(model.plan, memory_catalog(tensors), options), Code::weight_mismatch);
  EXPECT_TRUE(!std::filesystem::exists(folder / "shards") || std::filesystem::is_empty(folder / "shards"));
}

TEST_F(Pack, AMismatchIsRefusedBeforeTheFolderIsTouched) {
  const SmallModel model = small_model(1, plan::RefitMode::identical);
  Tensors tensors = small_tensors(1);
  tensors["layer.1.weight"].data()[0] ^= std::byte{1};
  EXPECT_CODE(pack(model.plan, memory_catalog(tensors)), Code::weight_mismatch);
  EXPECT_FALSE(std::filesystem::exists(folder / "shards"));
}

TEST_F(Pack, CancelLeavesNothing) {
  const SmallModel model = small_model();
  PackOptions options;
  int calls = 0;
  options.refit.progress = [&](const char* stage, std::uint64_t done, std::uint64_t total) {
    EXPECT_STREQ(stage, "pack");
    EXPECT_LE(done, total);
    return ++calls < 1;
  };
  EXPECT_CODE(pack(model.plan, memory_catalog(model.tensors), options), Code::cancelled);
  EXPECT_TRUE(std::filesystem::is_empty(folder / "shards"));
}

TEST_F(Pack, EmbeddedPlansHoldTheWeightsAndCanBeRefittedAgain) {
  const SmallModel model = small_model();
  const std::string path = folder / "full.plan", again = folder / "again.plan";
  ASSERT_VALUE(const refit::EmbedResult first, refit::embed(fs, model.plan, memory_catalog(model.tensors), path, {}, pool, logger));
  EXPECT_EQ(first.plan_bytes, std::filesystem::file_size(path));
  ASSERT_VALUE(const std::shared_ptr<const plan::Plan> read, plan::read_plan(fs, path, nullptr));
  EXPECT_EQ(read->id, model.plan->id);
  EXPECT_EQ(read->embedded.size(), read->chunks.size());
  EXPECT_TRUE(read->embedded_rehydrated);
  for (const DirectIo direct : {DirectIo::off, DirectIo::prefer}) {
    ASSERT_VALUE(const plan::GenerationPtr generation, refit::bind_embedded(fs, read, path, direct, 1));
    expect_generation(generation, model.tensors);
    EXPECT_OK(refit::verify(fs, *generation, {}, nullptr));
    EXPECT_EQ(generation->binding.integrity, "digests");
  }
  const Tensors other = small_tensors(50);
  ASSERT_OK(refit::embed(fs, read, memory_catalog(other), again, {}, pool, logger));
  ASSERT_VALUE(const std::shared_ptr<const plan::Plan> second, plan::read_plan(fs, again, nullptr));
  ASSERT_VALUE(const plan::GenerationPtr generation, refit::bind_embedded(fs, second, again, DirectIo::off, 2));
  expect_generation(generation, other);
  // A to B to A gives the first bytes again.
  ASSERT_OK(refit::embed(fs, second, memory_catalog(model.tensors), again, {}, pool, logger));
  EXPECT_EQ(read_file(again), read_file(path));
}

TEST_F(Pack, RowsOfAnEmbeddedTableLieTogetherOrAreNotOffered) {
  PlanMaker maker;
  maker.weight({.name = "aligned", .dtype = DType::f32, .shape = {32, 1024}, .slab_rows = 8, .gather_only = true});
  maker.weight({.name = "odd", .dtype = DType::f32, .shape = {33, 100}, .slab_rows = 8, .gather_only = true});
  const auto plan = maker.finish();
  Tensors tensors;
  tensors["aligned"] = random_tensor(DType::f32, {32, 1024}, 1);
  tensors["odd"] = random_tensor(DType::f32, {33, 100}, 2);
  ASSERT_OK(refit::embed(fs, plan, memory_catalog(tensors), folder / "p.plan", {}, pool, logger));
  ASSERT_VALUE(const std::shared_ptr<const plan::Plan> read, plan::read_plan(fs, folder / "p.plan", nullptr));
  ASSERT_VALUE(const plan::GenerationPtr generation, refit::bind_embedded(fs, read, folder / "p.plan", DirectIo::off, 1));
  const auto& rows = generation->binding.rows;
  ASSERT_TRUE(rows[0].available);
  EXPECT_FALSE(rows[1].available);
  std::vector<std::byte> row(rows[0].row_bytes);
  ASSERT_OK(generation->binding.files[0].buffered->read_exactly(rows[0].offset + 31 * rows[0].row_bytes, row));
  EXPECT_EQ(std::memcmp(row.data(), tensors["aligned"].data() + 31 * 4096, 4096), 0);
}

TEST_F(Pack, VerifyFindsEveryChangedByte) {
  const SmallModel model = small_model();
  ASSERT_OK(refit::embed(fs, model.plan, memory_catalog(model.tensors), folder / "p.plan", {}, pool, logger));
  ASSERT_VALUE(const std::shared_ptr<const plan::Plan> read, plan::read_plan(fs, folder / "p.plan", nullptr));
  const std::string good = read_file(folder / "p.plan");
  Random random(1);
  for (std::size_t c = 0; c < read->chunks.size(); ++c) {
    std::string bad = good;
    const std::size_t at = read->embedded[c].offset + random.below(read->embedded[c].stored_bytes);
    bad[at] = static_cast<char>(bad[at] ^ (1 << random.below(8)));
    write_file(folder / "p.plan", bad);
    ASSERT_VALUE(const plan::GenerationPtr generation, refit::bind_embedded(fs, read, folder / "p.plan", DirectIo::off, 1));
    const Status status = refit::verify(fs, *generation, {}, nullptr);
    EXPECT_CODE(status, Code::corruption);
    EXPECT_EQ(exit_code(status), 5);
    EXPECT_EQ(status.problems()[0].file, "p.plan");
    EXPECT_EQ(status.problems()[0].offset, read->embedded[c].offset);
  }
}

TEST_F(Pack, StrippedAndReplacedPlansAreNotBound) {
  const SmallModel model = small_model();
  plan::Plan copy = *model.plan;
  ASSERT_OK(plan::write_stripped_plan(fs, folder / "s.plan", copy, {}));
  EXPECT_CODE(refit::bind_embedded(fs, model.plan, folder / "s.plan", DirectIo::off, 1), Code::failed_precondition);
  ASSERT_OK(refit::embed(fs, model.plan, memory_catalog(model.tensors), folder / "p.plan", {}, pool, logger));
  ASSERT_VALUE(const std::shared_ptr<const plan::Plan> read, plan::read_plan(fs, folder / "p.plan", nullptr));
  EXPECT_CODE(refit::bind_embedded(fs, read, folder / "absent.plan", DirectIo::off, 1), Code::not_found);
  PlanMaker other;
  other.weight({.name = "w", .shape = {4}});
  Tensors tensors;
  tensors["w"] = random_tensor(DType::f32, {4}, 1);
  ASSERT_OK(refit::embed(fs, other.finish(), memory_catalog(tensors), folder / "p.plan", {}, pool, logger));
  EXPECT_CODE(refit::bind_embedded(fs, read, folder / "p.plan", DirectIo::off, 1), Code::corruption);
}

}  // namespace
}  // namespace forebay::test
