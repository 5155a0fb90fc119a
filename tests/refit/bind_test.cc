#include <unistd.h>

#include <limits>

#include <gtest/gtest.h>

#include "refit/refit_fixture.h"
#include "support/fault_fs.h"

namespace forebay::test {
namespace {

using plan::ChunkBinding;
using refit::Options;
using refit::Report;

Result<plan::GenerationPtr> bind_to(const std::shared_ptr<const plan::Plan>& plan, const std::vector<std::string>& sources,
                                    const Options& options = {}, Logger& logger = null_logger(),
                                    FileSystem& fs = posix_file_system()) {
  ThreadPool pool(2);
  Report report;
  auto catalog = refit::Catalog::open(fs, sources, null_logger());
  if (!catalog.ok()) return catalog.status();
  return refit::bind(fs, plan, *catalog, options, 7, pool, logger, &report);
}

TEST(Bind, UsesTheUsersFileInPlace) {
  TempFolder folder;
  const SmallModel model = small_model();
  write_safetensors(folder / "m.safetensors", model.tensors);
  LineLogger logger;
  ASSERT_VALUE(const plan::GenerationPtr generation, bind_to(model.plan, {folder / "m.safetensors"}, {}, logger));
  EXPECT_EQ(generation->number, 7u);
  const plan::Binding& binding = generation->binding;
  EXPECT_EQ(binding.integrity, "first-read");
  ASSERT_EQ(binding.files.size(), 1u);
  ASSERT_EQ(binding.chunks.size(), model.plan->chunks.size());
  std::uint64_t host = 0;
  for (plan::ChunkId c = 0; c < binding.chunks.size(); ++c) {
    const bool pack = model.plan->chunks[c].part_count > 1;
    EXPECT_EQ(binding.chunks[c].where, pack ? ChunkBinding::Where::host : ChunkBinding::Where::file) << c;
    EXPECT_FALSE(binding.chunks[c].has_digest);
    if (pack) host += model.plan->chunks[c].raw_bytes;
  }
  EXPECT_EQ(binding.host_bytes, host);
  EXPECT_TRUE(logger.has("weights_in_host_memory chunks=1 bytes=" + std::to_string(host)));
  ASSERT_EQ(binding.rows.size(), model.plan->weights.size());
  EXPECT_TRUE(binding.rows[0].available);
  EXPECT_EQ(binding.rows[0].row_bytes, 512u);
  EXPECT_FALSE(binding.rows[1].available);
  std::vector<std::byte> row(512);
  ASSERT_OK(binding.files[binding.rows[0].file].buffered->read_exactly(binding.rows[0].offset + 123 * 512, row));
  EXPECT_EQ(std::memcmp(row.data(), model.tensors.at("embed").data() + 123 * 512, 512), 0);
  expect_generation(generation, model.tensors);
}

TEST(Bind, AShardedIndexAndMixturesGiveTheSameBytes) {
  TempFolder folder;
  const SmallModel model = small_model();
  Tensors a, b;
  for (const auto& [name, tensor] : model.tensors) (a.size() < 2 ? a : b)[name] = tensor.clone();
  write_safetensors(folder / "a.safetensors", a, 4096);
  write_safetensors(folder / "b.safetensors", b);
  ASSERT_VALUE(const plan::GenerationPtr generation, bind_to(model.plan, {folder / "b.safetensors", folder / "a.safetensors"}));
  EXPECT_EQ(generation->binding.files.size(), 2u);
  expect_generation(generation, model.tensors);
}

TEST(Bind, DirectHandlesAreTheSameFile) {
  TempFolder folder;
  const SmallModel model = small_model();
  write_safetensors(folder / "m.safetensors", model.tensors);
  ASSERT_EQ(::symlink("m.safetensors", (folder / "link.safetensors").c_str()), 0);
  for (const char* name : {"m.safetensors", "link.safetensors"}) {
    Options options;
    options.direct = DirectIo::off;
    ASSERT_VALUE(const plan::GenerationPtr off, bind_to(model.plan, {folder / name}, options));
    EXPECT_EQ(off->binding.files[0].direct, nullptr);
    options.direct = DirectIo::prefer;
    ASSERT_VALUE(const plan::GenerationPtr prefer, bind_to(model.plan, {folder / name}, options));
    const plan::BoundFile& file = prefer->binding.files[0];
    if (file.direct == nullptr) GTEST_SKIP() << "no direct I/O on this file system";
    EXPECT_TRUE(file.direct->direct());
    ASSERT_VALUE(const FileIdentity identity, file.direct->identity());
    EXPECT_EQ(identity.inode, file.identity.inode);
  }
}

TEST(Bind, WhatDoesNotFitInHostMemoryIsNamedWithTheCommand) {
  TempFolder folder;
  PlanMaker maker;
  maker.source("w", DType::f32, {100, 100});
  maker.weight({.name = "w.T", .shape = {100, 100}, .sources = {"w"}, .nodes = {recipe_node("Transpose", {0})}});
  const auto plan = maker.finish();
  Tensors tensors;
  tensors["w"] = random_tensor(DType::f32, {100, 100}, 1);
  write_safetensors(folder / "m.safetensors", tensors);
  Options options;
  options.max_host_bytes = 39'999;
  const auto refused = bind_to(plan, {folder / "m.safetensors"}, options);
  EXPECT_CODE(refused, Code::resource_exhausted);
  EXPECT_EQ(exit_code(refused.status()), 6);
  EXPECT_NE(refused.status().message().find("40000 bytes"), std::string::npos);
  EXPECT_NE(refused.status().message().find("w.T"), std::string::npos);
  EXPECT_NE(refused.status().problems()[0].hint.find("forebay pack"), std::string::npos);
  options.max_host_bytes = 40'000;
  EXPECT_OK(bind_to(plan, {folder / "m.safetensors"}, options));
}

TEST(Bind, IdenticalPlansCheckNowOrOnArrival) {
  TempFolder folder;
  const SmallModel model = small_model(1, plan::RefitMode::identical);
  write_safetensors(folder / "m.safetensors", model.tensors);
  ASSERT_VALUE(const plan::GenerationPtr generation, bind_to(model.plan, {folder / "m.safetensors"}));
  // layer.1.weight is one slab of one file: checked when it arrives.
  const plan::Part& last = model.plan->parts[model.plan->weights[5].first_part];
  EXPECT_TRUE(generation->binding.chunks[last.chunk].has_sha256);
  EXPECT_FALSE(generation->binding.chunks[0].has_sha256);
  EXPECT_OK(refit::verify(posix_file_system(), *generation, {}, nullptr));
  for (const char* name : {"embed", "layer.0.weight", "layer.0.bias", "mask"}) {  // slabs, packs: checked now
    Tensors other = small_tensors(1);
    other[name].data()[3] ^= std::byte{1};
    write_safetensors(folder / "other.safetensors", other);
    const auto refused = bind_to(model.plan, {folder / "other.safetensors"});
    EXPECT_CODE(refused, Code::weight_mismatch);
    EXPECT_EQ(refused.status().problems()[0].tensor, name);
  }
  Tensors other = small_tensors(1);
  other["layer.1.weight"].data()[3] ^= std::byte{1};
  write_safetensors(folder / "other.safetensors", other);
  ASSERT_VALUE(const plan::GenerationPtr late, bind_to(model.plan, {folder / "other.safetensors"}));
  EXPECT_CODE(refit::verify(posix_file_system(), *late, {}, nullptr), Code::corruption);
}

// F39
TEST(Bind, NonFiniteValuesAreRefusedWhenAsked) {
  TempFolder folder;
  const SmallModel model = small_model();
  Tensors tensors = small_tensors(1);
  tensors["embed"].as<std::uint16_t>()[70'000] = 0x7fc0;
  tensors["embed"].as<std::uint16_t>()[40'000] = 0x7f80;
  tensors["layer.0.bias"].as<float>()[5] = -std::numeric_limits<float>::infinity();
  write_safetensors(folder / "m.safetensors", tensors);
  EXPECT_OK(bind_to(model.plan, {folder / "m.safetensors"}));
  Options options;
  options.finite = true;
  const auto refused = bind_to(model.plan, {folder / "m.safetensors"}, options);
  EXPECT_CODE(refused, Code::weight_mismatch);
  ASSERT_EQ(refused.status().problems().size(), 2u);
  EXPECT_EQ(refused.status().problems()[0].message, "2 values are infinite or NaN, the first at element 40000");
  EXPECT_EQ(refused.status().problems()[1].tensor, "layer.0.bias");
}

TEST(Bind, BoolsOfForeignBytesAreNormalised) {
  TempFolder folder;
  PlanMaker maker;
  maker.weight({.name = "mask", .dtype = DType::boolean, .shape = {8}});
  const auto plan = maker.finish();
  HostTensor bytes(DType::u8, Shape{8});
  for (std::size_t i = 0; i < 8; ++i) bytes.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 40);
  const std::string file = safetensors_file("{" + safetensors_entry("mask", "BOOL", "[8]", 0, 8) + "}",
                                            std::string(reinterpret_cast<const char*>(bytes.data()), 8));
  write_file(folder / "m.safetensors", file);
  auto generation = bind_to(plan, {folder / "m.safetensors"});
  ASSERT_OK(generation);
  EXPECT_EQ((*generation)->binding.chunks[0].where, ChunkBinding::Where::host);
  Tensors wanted;
  wanted["mask"] = HostTensor(DType::boolean, Shape{8});
  for (std::size_t i = 1; i < 8; ++i) wanted["mask"].as<std::uint8_t>()[i] = 1;
  expect_generation(*generation, wanted);
}

TEST(Bind, EveryReadErrorIsAStatus) {
  TempFolder folder;
  const SmallModel model = small_model(1, plan::RefitMode::identical);
  write_safetensors(folder / "m.safetensors", model.tensors);
  FaultFs fs;
  for (const FaultOp op : {FaultOp::open, FaultOp::read, FaultOp::identity}) {
    fault_loop(fs, {.op = op}, [&](std::uint64_t) {
      const auto generation = bind_to(model.plan, {folder / "m.safetensors"}, {}, null_logger(), fs);
      if (!generation.ok()) {
        EXPECT_NE(generation.status().code(), Code::internal) << generation.status().to_string();
      } else if (op != FaultOp::read) {  // the generation's files still belong to the failing layer
        expect_generation(*generation, model.tensors);
      }
    });
  }
  fs.disarm();
  fs.arm({.op = FaultOp::read, .kind = FaultKind::short_transfer, .lasting = true, .seed = 3});
  ASSERT_VALUE(const plan::GenerationPtr generation, bind_to(model.plan, {folder / "m.safetensors"}, {}, null_logger(), fs));
  expect_generation(generation, model.tensors);
}

}  // namespace
}  // namespace forebay::test
