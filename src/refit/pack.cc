// pack: shards in execution order. embed: a plan with the weights inside.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "refit/chunk_pipeline.h"
#include "refit/refit.h"
#include "refit/shard_writer.h"
#include "refit/source_check.h"

namespace forebay::refit {
namespace {

// Everything that can be refused before a byte is written, digests of identical plans included.
Result<std::unique_ptr<ChunkMaker>> checked_maker(const std::shared_ptr<const plan::Plan>& plan,
                                                  const std::shared_ptr<const Catalog>& catalog, const Options& options,
                                                  ThreadPool& pool, Report& report) {
  FB_TRY(check(*plan, *catalog, options, true, &report));
  return ChunkMaker::create(plan, catalog, options, pool);
}

}  // namespace

Result<PackResult> pack(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                        const std::string& folder, const PackOptions& options, ThreadPool& pool, Logger& logger) {
  PackResult result;
  FB_ASSIGN(const std::unique_ptr<ChunkMaker> maker, checked_maker(plan, catalog, options.refit, pool, result.report));
  ShardWriterOptions writing;
  writing.max_shard_bytes = options.max_shard_bytes;
  if (options.codec != PackOptions::Choice::zstd)
    for (const plan::Chunk& chunk : plan->chunks) writing.expected_bytes += chunk.raw_bytes;
  FB_ASSIGN(const std::unique_ptr<ShardWriter> writer, ShardWriter::create(fs, folder, *plan, writing));
  FB_ASSIGN(PipelineResult run, run_chunks(*plan, *maker, options, "pack", pool, logger, result.report, [&](const EncodedChunk& chunk) {
    return writer->append(chunk.stored, chunk.codec, chunk.codec_version, chunk.raw_digest);
  }));
  FB_TRY(writer->commit());
  result.raw_bytes = run.raw_bytes;
  result.stored_bytes = run.stored_bytes;
  result.read_bytes = run.read_bytes;
  result.codecs = std::move(run.codecs);
  result.files = writer->files();
  return result;
}

Result<EmbedResult> embed(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                          const std::string& out_path, const Options& options, ThreadPool& pool, Logger& logger,
                          const plan::SerializeOptions& format) {
  EmbedResult result;
  FB_ASSIGN(const std::unique_ptr<ChunkMaker> maker, checked_maker(plan, catalog, options, pool, result.report));
  plan::Plan structure = *plan;
  structure.embedded.clear();
  structure.embedded_rehydrated = plan->id != Sha256{} && !plan->chunks.empty();
  FB_ASSIGN(const std::unique_ptr<plan::EmbeddedPlanWriter> writer,
            plan::EmbeddedPlanWriter::create(fs, out_path, std::move(structure), format));
  PackOptions raw;
  raw.codec = PackOptions::Choice::raw;
  raw.refit = options;
  FB_ASSIGN(const PipelineResult run, run_chunks(*plan, *maker, raw, "refit", pool, logger, result.report, [&](const EncodedChunk& chunk) {
    return writer->append_chunk(chunk.stored, chunk.codec, chunk.codec_version, chunk.raw_digest);
  }));
  FB_TRY(writer->commit());
  result.plan_bytes = writer->file_bytes();
  result.weight_bytes = run.raw_bytes;
  result.read_bytes = run.read_bytes;
  return result;
}

}  // namespace forebay::refit
