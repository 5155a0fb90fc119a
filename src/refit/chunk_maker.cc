#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "base/check.h"
#include "codec/chunk_codec.h"
#include "refit/recipe_runner.h"
#include "refit/refit.h"
#include "refit/shard_reader.h"

namespace forebay::refit {
namespace {

constexpr std::uint64_t kCacheBytes = 256ull << 20;  // of computed weights that wait for their next chunk; the one in use may be larger

// Chunks out of the user's tensors, recipes run on the way.
class TensorChunkMaker final : public ChunkMaker {
 public:
  TensorChunkMaker(std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog, std::vector<ResolvedSource> sources,
                   std::vector<std::string> allowed, ThreadPool& pool)
      : plan_(std::move(plan)), catalog_(std::move(catalog)), allowed_(std::move(allowed)), runner_(*plan_, std::move(sources), pool) {}

  Status make(plan::ChunkId id, std::span<std::byte> raw) override {
    const plan::Chunk& chunk = plan_->chunks[id];
    FB_CHECK(raw.size() == chunk.raw_bytes);
    std::uint64_t covered = 0;
    for (std::uint32_t p = chunk.first_part; p < chunk.first_part + chunk.part_count; ++p)
      covered += plan_->parts[plan_->chunk_parts[p]].bytes;
    if (covered != raw.size()) std::memset(raw.data(), 0, raw.size());  // padding is zero, so that digests are the same in every copy
    for (std::uint32_t p = chunk.first_part; p < chunk.first_part + chunk.part_count; ++p) {
      const plan::Part& part = plan_->parts[plan_->chunk_parts[p]];
      const auto out = raw.subspan(static_cast<std::size_t>(part.offset_in_chunk), static_cast<std::size_t>(part.bytes));
      Status status = runner_.way(part.weight) == RecipeRunner::Way::whole ? copy_computed(part, out)
                                                                           : runner_.read(part.weight, part.offset_in_weight, out);
      if (!status.ok()) return std::move(status).with_tensor(plan_->weights[part.weight].name);
    }
    return {};
  }
  Status finish() const override {
    std::vector<Problem> problems = runner_.losses(allowed_);
    return problems.empty() ? Status() : weights_refused(std::move(problems));
  }
  std::uint64_t bytes_read() const override { return runner_.bytes_read(); }

 private:
  struct Computed {
    HostTensor tensor;
    std::uint64_t last_use = 0;
  };

  Status copy_computed(const plan::Part& part, std::span<std::byte> out) {
    auto at = cache_.find(part.weight);
    if (at == cache_.end()) {
      make_room(plan_->weights[part.weight].bytes);
      FB_ASSIGN(HostTensor tensor, runner_.evaluate(part.weight));
      cached_bytes_ += tensor.bytes();
      at = cache_.emplace(part.weight, Computed{std::move(tensor), 0}).first;
    }
    at->second.last_use = ++clock_;
    if (!out.empty()) std::memcpy(out.data(), at->second.tensor.data() + part.offset_in_weight, out.size());
    if (part.offset_in_weight + part.bytes == plan_->weights[part.weight].bytes) drop(at);
    return {};
  }
  void make_room(std::uint64_t bytes) {
    while (!cache_.empty() && cached_bytes_ + bytes > kCacheBytes)
      drop(std::min_element(cache_.begin(), cache_.end(),
                            [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
  }
  void drop(std::map<plan::WeightId, Computed>::iterator at) {
    cached_bytes_ -= at->second.tensor.bytes();
    cache_.erase(at);
  }

  std::shared_ptr<const plan::Plan> plan_;
  std::shared_ptr<const Catalog> catalog_;  // owns the tensors
  std::vector<std::string> allowed_;
  RecipeRunner runner_;
  std::map<plan::WeightId, Computed> cache_;
  std::uint64_t cached_bytes_ = 0, clock_ = 0;
};

class ShardChunkMaker final : public ChunkMaker {
 public:
  explicit ShardChunkMaker(std::shared_ptr<const ShardSet> shards) : shards_(std::move(shards)) {}
  Status make(plan::ChunkId id, std::span<std::byte> raw) override {
    const ShardChunk& chunk = shards_->index().chunks[id];
    FB_CHECK(raw.size() == chunk.raw_bytes);
    FB_TRY(shards_->read_stored(id, stored_));
    bytes_read_ += stored_.size();
    Status status = codec_.decode(chunk.codec, chunk.codec_version, stored_, raw);
    if (status.ok() && xxh128(raw) != chunk.raw_digest) status = Status(Code::corruption, "the digest of the decoded bytes differs");
    if (status.ok()) return {};
    return std::move(status)
        .with_context("chunk " + std::to_string(id))
        .with_file(shards_->index().files[chunk.file].name)
        .with_offset(chunk.offset);
  }
  Status finish() const override { return {}; }
  std::uint64_t bytes_read() const override { return bytes_read_; }

 private:
  std::shared_ptr<const ShardSet> shards_;
  codec::ChunkCodec codec_;
  std::vector<std::byte> stored_;
  std::uint64_t bytes_read_ = 0;
};

}  // namespace

Result<std::unique_ptr<ChunkMaker>> ChunkMaker::create(std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                                                       const Options& options, ThreadPool& pool) {
  std::vector<ResolvedSource> sources = resolve_sources(*plan, *catalog, options.map);
  FB_TRY(check_sources(*plan, *catalog, options, sources, std::vector<bool>(sources.size()), nullptr));
  std::unique_ptr<ChunkMaker> maker;
  if (catalog->shards() != nullptr)
    maker = std::make_unique<ShardChunkMaker>(catalog->shards());
  else
    maker = std::make_unique<TensorChunkMaker>(std::move(plan), std::move(catalog), std::move(sources), options.allow_inexact, pool);
  return maker;
}

}  // namespace forebay::refit
