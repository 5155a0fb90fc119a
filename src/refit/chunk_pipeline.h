// Passes every chunk of a plan, in order, from a maker to a sink: batches of bounded size, encoded by the pool. For pack and embed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "base/digest.h"
#include "refit/refit.h"

namespace forebay::refit {

struct EncodedChunk {
  std::span<const std::byte> stored;
  std::uint8_t codec = 0, codec_version = 0;
  Xxh128 raw_digest;
};

struct PipelineResult {
  std::uint64_t raw_bytes = 0, stored_bytes = 0, read_bytes = 0;
  std::map<std::string, std::uint64_t> codecs;
};

// Refuses at the end, before the caller commits, what the values forbid: lossy casts, and with Options::finite non-finite values
// (else warnings).
Result<PipelineResult> run_chunks(const plan::Plan& plan, ChunkMaker& maker, const PackOptions& options, const char* stage,
                                  ThreadPool& pool, Logger& logger, Report& report,
                                  const std::function<Status(const EncodedChunk&)>& sink);

}  // namespace forebay::refit
