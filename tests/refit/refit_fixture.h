// What the tests of refit share: a pool, a logger that keeps lines, catalogs from memory, and the bytes a plan's chunks should have.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "refit/chunk_read.h"
#include "refit/plan_maker.h"
#include "refit/refit.h"
#include "refit/safetensors_text.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::test {

class LineLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view line) noexcept override {
    const std::lock_guard lock(mutex_);
    lines_.emplace_back(line);
  }
  bool has(std::string_view part) const {
    for (const std::string& line : lines_)
      if (line.find(part) != std::string::npos) return true;
    return false;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

using Tensors = std::map<std::string, HostTensor>;

inline SourceTensor memory_source(const std::string& name, const HostTensor& tensor) {
  SourceTensor source;
  source.name = name;
  source.dtype = tensor.dtype();
  source.shape = tensor.shape();
  source.memory = std::make_shared<const HostTensor>(tensor.clone());
  source.stored_bytes = tensor.bytes();
  return source;
}
inline std::shared_ptr<const refit::Catalog> memory_catalog(const Tensors& tensors) {
  std::vector<SourceTensor> sources;
  for (const auto& [name, tensor] : tensors) sources.push_back(memory_source(name, tensor));
  return refit::Catalog::from_memory(std::move(sources));
}
inline void write_safetensors(const std::string& path, const Tensors& tensors, std::size_t pad = 8) {
  NamedTensors list;
  for (const auto& [name, tensor] : tensors) list.emplace_back(name, &tensor);
  write_file(path, safetensors_bytes(list, pad));
}
inline std::shared_ptr<const refit::Catalog> open_catalog(const std::vector<std::string>& sources, FileSystem& fs = posix_file_system()) {
  auto catalog = refit::Catalog::open(fs, sources, null_logger());
  EXPECT_TRUE(catalog.ok()) << catalog.status().to_string();
  return catalog.ok() ? *catalog : nullptr;
}

// The raw bytes that chunk `id` must have when the weights are `weights` (in plan form, by weight name).
inline std::vector<std::byte> wanted_chunk(const plan::Plan& plan, plan::ChunkId id, const Tensors& weights) {
  const plan::Chunk& chunk = plan.chunks[id];
  std::vector<std::byte> raw(chunk.raw_bytes);
  for (std::uint32_t p = chunk.first_part; p < chunk.first_part + chunk.part_count; ++p) {
    const plan::Part& part = plan.parts[plan.chunk_parts[p]];
    const HostTensor& tensor = weights.at(plan.weights[part.weight].name);
    if (part.bytes != 0) std::memcpy(raw.data() + part.offset_in_chunk, tensor.data() + part.offset_in_weight, part.bytes);
  }
  return raw;
}
inline void expect_chunks(const plan::Plan& plan, refit::ChunkMaker& maker, const Tensors& weights) {
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    std::vector<std::byte> raw(plan.chunks[c].raw_bytes, std::byte{0x5a});
    ASSERT_OK(maker.make(c, raw));
    EXPECT_TRUE(raw == wanted_chunk(plan, c, weights)) << "chunk " << c << " differs";
  }
  EXPECT_OK(maker.finish());
}
inline void expect_generation(const plan::GenerationPtr& generation, const Tensors& weights) {
  const plan::Plan& plan = *generation->plan;
  codec::ChunkCodec codec;
  std::vector<std::byte> stored;
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    std::vector<std::byte> raw(plan.chunks[c].raw_bytes, std::byte{0x5a});
    ASSERT_OK(refit::read_bound_chunk(*generation, c, codec, stored, raw));
    EXPECT_TRUE(raw == wanted_chunk(plan, c, weights)) << "chunk " << c << " differs";
  }
}

inline const Problem* find_problem(const std::vector<Problem>& problems, std::string_view code, std::string_view tensor) {
  for (const Problem& problem : problems)
    if (problem.code == code && problem.tensor == tensor) return &problem;
  return nullptr;
}

// A plan with one of each: slabs, a pack of small ones, a gather-only table, and the tensors it was made from.
struct SmallModel {
  Tensors tensors;
  std::shared_ptr<const plan::Plan> plan;
};
inline Tensors small_tensors(std::uint64_t seed) {
  Tensors tensors;
  tensors["embed"] = random_tensor(DType::bf16, {300, 256}, seed + 1);
  tensors["layer.0.weight"] = random_tensor(DType::f32, {96, 130}, seed + 2);
  tensors["layer.0.bias"] = random_tensor(DType::f32, {96}, seed + 3);
  tensors["layer.0.scale"] = random_tensor(DType::f32, {3}, seed + 4);
  tensors["mask"] = random_tensor(DType::boolean, {50}, seed + 5);
  tensors["layer.1.weight"] = random_tensor(DType::f16, {64, 64}, seed + 6);
  return tensors;
}
inline SmallModel small_model(std::uint64_t seed = 1, plan::RefitMode mode = plan::RefitMode::all) {
  SmallModel model;
  model.tensors = small_tensors(seed);
  PlanMaker maker(mode);
  maker.weight({.name = "embed", .dtype = DType::bf16, .shape = {300, 256}, .slab_rows = 128, .gather_only = true});
  maker.weight({.name = "layer.0.weight", .dtype = DType::f32, .shape = {96, 130}, .slab_rows = 40});
  maker.weight({.name = "layer.0.bias", .dtype = DType::f32, .shape = {96}, .packed = true});
  maker.weight({.name = "layer.0.scale", .dtype = DType::f32, .shape = {3}, .packed = true});
  maker.weight({.name = "mask", .dtype = DType::boolean, .shape = {50}, .packed = true});
  maker.weight({.name = "layer.1.weight", .dtype = DType::f16, .shape = {64, 64}});
  if (mode == plan::RefitMode::identical)
    for (const auto& [name, tensor] : model.tensors) maker.source_digest(name, tensor);
  model.plan = maker.finish();
  return model;
}

}  // namespace forebay::test
