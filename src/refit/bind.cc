// From a checked catalog to a generation that streams from where the weights lie.
#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "base/memory_info.h"
#include "base/printable.h"
#include "plan/plan_io.h"
#include "refit/bind_files.h"
#include "refit/recipe_runner.h"
#include "refit/refit.h"
#include "refit/shard_reader.h"
#include "refit/value_scan.h"

namespace forebay::refit {
namespace {

// Bytes of one row of the outermost axis; 0 where rows cannot be fetched one by one.
std::uint64_t row_bytes_of(const plan::Weight& weight) {
  if (!weight.gather_only || weight.shape.rank() == 0 || weight.shape[0] <= 0 || weight.dtype == DType::boolean) return 0;
  const auto rows = static_cast<std::uint64_t>(weight.shape[0]);
  if (weight.bytes % rows != 0) return 0;
  const std::uint64_t row = weight.bytes / rows;
  return row * 8 == static_cast<std::uint64_t>(weight.shape.elements(1, weight.shape.rank()) * dtype_bits(weight.dtype)) ? row : 0;
}

Status cancelled() { return Status(Code::cancelled, "stopped while binding weights"); }

class Binder {
 public:
  Binder(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog, const Options& options,
         ThreadPool& pool, Logger& logger)
      : fs_(fs),
        plan_(std::move(plan)),
        catalog_(std::move(catalog)),
        options_(options),
        pool_(pool),
        logger_(logger),
        sources_(resolve_sources(*plan_, *catalog_, options.map)),
        runner_(*plan_, sources_, pool) {}

  Result<plan::Binding> run(Report* report) {
    FB_TRY(check_sources(*plan_, *catalog_, options_, sources_, digests_now(), report));
    if (catalog_->shards() != nullptr) {
      FB_ASSIGN(binding_, catalog_->shards()->bind(*plan_));
      if (options_.direct == DirectIo::off)
        for (plan::BoundFile& file : binding_.files) file.direct = nullptr;
      if (options_.direct == DirectIo::require)
        for (const plan::BoundFile& file : binding_.files)
          if (file.direct == nullptr)
            return Status(Code::unavailable, "direct reads are required, and the file system refuses them").with_file(file.name);
    } else {
      binding_.integrity = "first-read";
      binding_.chunks.resize(plan_->chunks.size());
      binding_.rows.resize(plan_->weights.size());
      FB_TRY(bind_in_place());
      FB_TRY(bind_rows());
    }
    FB_TRY(make_host_chunks(report));
    return std::move(binding_);
  }

 private:
  // Whether a chunk is one slab whose bytes lie ready in the user's file. Bools are not: a file may hold other bytes than 0 and 1.
  bool in_place(const plan::Chunk& chunk) const {
    if (chunk.part_count != 1 || chunk.raw_bytes == 0) return false;
    const plan::Part& part = plan_->parts[plan_->chunk_parts[chunk.first_part]];
    return part.offset_in_chunk == 0 && part.bytes == chunk.raw_bytes && extent_of(part.weight) != nullptr;
  }
  // The source tensor whose file extent is the weight, or null.
  const SourceTensor* extent_of(plan::WeightId id) const {
    const plan::Weight& weight = plan_->weights[id];
    if (runner_.way(id) != RecipeRunner::Way::direct || weight.dtype == DType::boolean) return nullptr;
    const ResolvedSource& source = runner_.source(id);
    return source.fits && source.tensor->file != nullptr && source.tensor->bytes() == weight.bytes ? source.tensor : nullptr;
  }
  bool checked_on_arrival(const plan::Weight& weight) const {
    return weight.part_count == 1 && !weight.gather_only && in_place(plan_->chunks[plan_->parts[weight.first_part].chunk]);
  }
  // Identical plans: a tensor that is one slab of a file is checked when it first arrives. All others are read through once, now.
  std::vector<bool> digests_now() const {
    std::vector<bool> now(sources_.size());
    for (std::size_t i = 0; i < sources_.size(); ++i) now[i] = plan_->sources[i].has_sha256 && sources_[i].for_constant;
    if (catalog_->shards() != nullptr) return now;
    for (const plan::Weight& weight : plan_->weights) {
      if (checked_on_arrival(weight)) continue;
      for (const std::uint32_t i : weight.recipe.sources) now[i] = plan_->sources[i].has_sha256;
    }
    return now;
  }

  Result<std::uint32_t> file_index(const SourceTensor& tensor) {
    const auto [at, fresh] = file_indices_.try_emplace(tensor.file.get(), static_cast<std::uint32_t>(binding_.files.size()));
    if (fresh) {
      FB_ASSIGN(plan::BoundFile file, bind_file(fs_, tensor.file, tensor.open_folder, tensor.open_name, options_.direct));
      binding_.files.push_back(std::move(file));
    }
    return at->second;
  }

  Status bind_in_place() {
    for (plan::ChunkId c = 0; c < plan_->chunks.size(); ++c) {
      const plan::Chunk& chunk = plan_->chunks[c];
      if (!in_place(chunk)) {
        binding_.chunks[c].where = plan::ChunkBinding::Where::host;
        continue;
      }
      const plan::Part& part = plan_->parts[plan_->chunk_parts[chunk.first_part]];
      const SourceTensor& tensor = *extent_of(part.weight);
      plan::ChunkBinding& to = binding_.chunks[c];
      FB_ASSIGN(to.file, file_index(tensor));
      to.offset = tensor.offset + part.offset_in_weight;
      to.stored_bytes = part.bytes;
      const plan::Source& source = plan_->sources[plan_->weights[part.weight].recipe.sources[0]];
      if (source.has_sha256 && checked_on_arrival(plan_->weights[part.weight])) {
        to.has_sha256 = true;
        to.slab_sha256 = source.sha256;
      }
    }
    return {};
  }

  Status bind_rows() {
    for (plan::WeightId w = 0; w < plan_->weights.size(); ++w) {
      const std::uint64_t row_bytes = row_bytes_of(plan_->weights[w]);
      const SourceTensor* tensor = row_bytes != 0 ? extent_of(w) : nullptr;
      if (tensor == nullptr) continue;
      plan::RowBinding& rows = binding_.rows[w];
      FB_ASSIGN(rows.file, file_index(*tensor));
      rows.offset = tensor->offset;
      rows.row_bytes = row_bytes;
      rows.available = true;
    }
    return {};
  }

  // Names and bytes first: what does not fit is refused before anything is computed.
  Status check_host_bytes() {
    std::uint64_t bytes = 0;
    std::vector<plan::WeightId> weights;
    for (plan::ChunkId c = 0; c < plan_->chunks.size(); ++c) {
      if (binding_.chunks[c].where != plan::ChunkBinding::Where::host) continue;
      const plan::Chunk& chunk = plan_->chunks[c];
      bytes += chunk.raw_bytes;
      for (std::uint32_t p = chunk.first_part; p < chunk.first_part + chunk.part_count; ++p)
        weights.push_back(plan_->parts[plan_->chunk_parts[p]].weight);
    }
    binding_.host_bytes = bytes;
    const std::uint64_t limit = options_.max_host_bytes != 0 ? options_.max_host_bytes : memory_info().available_bytes / 2;
    if (bytes <= limit) return {};
    std::sort(weights.begin(), weights.end());
    weights.erase(std::unique(weights.begin(), weights.end()), weights.end());
    std::stable_sort(weights.begin(), weights.end(), [&](auto a, auto b) { return plan_->weights[a].bytes > plan_->weights[b].bytes; });
    Problem problem;
    problem.code = "host_memory";
    problem.message = std::to_string(weights.size()) + " weights must be computed or put together from the sources, which takes " +
                      std::to_string(bytes) + " bytes of host memory; the limit is " + std::to_string(limit) + ". They are";
    for (std::size_t i = 0; i < std::min<std::size_t>(weights.size(), 20); ++i)
      problem.message += (i == 0 ? " " : ", ") + printable(plan_->weights[weights[i]].name);
    if (weights.size() > 20) problem.message += " and " + std::to_string(weights.size() - 20) + " more";
    problem.tensor = plan_->weights[weights.front()].name;
    problem.hint = "write them once: forebay pack PLAN --weights SRC -o DIR, then use --weights DIR; or raise --host-cache";
    return Status(Code::resource_exhausted, std::move(problem));
  }

  Status make_host_chunks(Report* report) {
    FB_TRY(check_host_bytes());
    if (binding_.host_bytes == 0 && !options_.finite) return {};
    FB_ASSIGN(const std::unique_ptr<ChunkMaker> maker, ChunkMaker::create(plan_, catalog_, options_, pool_));
    FiniteScan scan(*plan_);
    std::vector<std::byte> scratch;
    std::uint64_t done = 0, total = 0, chunks = 0;
    for (plan::ChunkId c = 0; c < plan_->chunks.size(); ++c)
      if (options_.finite || binding_.chunks[c].where == plan::ChunkBinding::Where::host) total += plan_->chunks[c].raw_bytes;
    for (plan::ChunkId c = 0; c < plan_->chunks.size(); ++c) {
      const bool host = binding_.chunks[c].where == plan::ChunkBinding::Where::host;
      if (!host && !options_.finite) continue;
      const auto size = static_cast<std::size_t>(plan_->chunks[c].raw_bytes);
      std::shared_ptr<std::vector<std::byte>> kept;
      if (host) kept = std::make_shared<std::vector<std::byte>>(size);
      std::vector<std::byte>& raw = host ? *kept : scratch;
      raw.resize(size);
      FB_TRY(maker->make(c, raw));
      if (options_.finite) scan.add(scan.scan(c, raw));
      if (host) {
        binding_.chunks[c].stored_bytes = size;
        binding_.chunks[c].host = std::move(kept);
        ++chunks;
      }
      done += size;
      if (options_.progress && !options_.progress("bind", done, total)) return cancelled();
    }
    FB_TRY(maker->finish());
    if (std::vector<Problem> problems = scan.problems(); !problems.empty()) {
      if (report != nullptr) report->mismatched.insert(report->mismatched.end(), problems.begin(), problems.end());
      return weights_refused(std::move(problems));
    }
    if (chunks != 0)
      logger_.log(LogLevel::info, "weights_in_host_memory chunks=" + std::to_string(chunks) +
                                      " bytes=" + std::to_string(binding_.host_bytes) +
                                      " why=recipes_and_packs (forebay pack makes shards that need none)");
    return {};
  }

  FileSystem& fs_;
  std::shared_ptr<const plan::Plan> plan_;
  std::shared_ptr<const Catalog> catalog_;
  const Options& options_;
  ThreadPool& pool_;
  Logger& logger_;
  std::vector<ResolvedSource> sources_;
  RecipeRunner runner_;
  plan::Binding binding_;
  std::map<const File*, std::uint32_t> file_indices_;
};

// Where a gather-only weight lies as one raw run of the plan file.
plan::RowBinding embedded_rows(const plan::Plan& plan, const plan::Weight& weight) {
  plan::RowBinding rows;
  rows.row_bytes = row_bytes_of(weight);
  if (rows.row_bytes == 0) return rows;
  for (std::uint32_t p = 0; p < weight.part_count; ++p) {
    const plan::Part& part = plan.parts[weight.first_part + p];
    const plan::StoredChunk& stored = plan.embedded[part.chunk];
    const std::uint64_t at = stored.offset + part.offset_in_chunk;
    if (stored.codec != static_cast<std::uint8_t>(plan::Codec::raw)) return rows;
    if (p == 0) rows.offset = at;
    if (at != rows.offset + part.offset_in_weight) return rows;
  }
  rows.available = weight.part_count != 0;
  return rows;
}

}  // namespace

Result<plan::GenerationPtr> bind(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                                 const Options& options, std::uint64_t number, ThreadPool& pool, Logger& logger, Report* report) {
  auto generation = std::make_shared<plan::Generation>();
  generation->number = number;
  generation->plan = plan;
  Binder binder(fs, std::move(plan), std::move(catalog), options, pool, logger);
  FB_ASSIGN(generation->binding, binder.run(report));
  return plan::GenerationPtr(std::move(generation));
}

Result<plan::GenerationPtr> bind_embedded(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, const std::string& plan_path,
                                          DirectIo direct, std::uint64_t number) {
  if (plan->embedded.size() != plan->chunks.size())
    return Status(Code::failed_precondition, "the plan is stripped: it holds no weights").with_file(file_name_of(plan_path))
        .with_hint("name the weights with --weights, or make a plan with weights by forebay refit");
  FB_ASSIGN(const plan::PlanHeaderInfo header, plan::read_plan_header(fs, plan_path));
  if (header.id != plan->id)
    return Status(Code::corruption,
                  "the plan file was replaced: its id is " + to_hex(header.id) + ", the plan in use is " + to_hex(plan->id))
        .with_file(file_name_of(plan_path));
  auto generation = std::make_shared<plan::Generation>();
  generation->number = number;
  plan::Binding& binding = generation->binding;
  FB_ASSIGN(std::shared_ptr<File> file, fs.open_read(plan_path, DirectIo::off));
  FB_ASSIGN(plan::BoundFile bound, bind_file(fs, std::move(file), "", plan_path, direct));
  binding.integrity = "digests";
  binding.chunks.resize(plan->chunks.size());
  for (std::size_t c = 0; c < plan->chunks.size(); ++c) {
    const plan::StoredChunk& from = plan->embedded[c];
    plan::ChunkBinding& to = binding.chunks[c];
    to.offset = from.offset;
    to.stored_bytes = from.stored_bytes;
    to.codec = static_cast<plan::Codec>(from.codec);
    to.codec_version = from.codec_version;
    to.has_digest = true;
    to.stored_digest = from.stored_digest;
    const auto end = checked_add(from.offset, from.stored_bytes);
    if (!end || *end > bound.identity.bytes)
      return Status(Code::corruption, "the plan is cut: chunk " + std::to_string(c) + " should end at " +
                                          std::to_string(end.value_or(0)) + ", the file has " +
                                          std::to_string(bound.identity.bytes) + " bytes")
          .with_file(bound.name)
          .with_offset(from.offset);
  }
  binding.files.push_back(std::move(bound));
  binding.rows.reserve(plan->weights.size());
  for (const plan::Weight& weight : plan->weights) binding.rows.push_back(embedded_rows(*plan, weight));
  generation->plan = std::move(plan);
  return plan::GenerationPtr(std::move(generation));
}

}  // namespace forebay::refit
