#include "refit/chunk_pipeline.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/printable.h"
#include "codec/chunk_codec.h"
#include "refit/source_check.h"
#include "refit/value_scan.h"

namespace forebay::refit {
namespace {

constexpr std::uint64_t kBatchBytes = 64ull << 20;  // raw bytes under way; a larger chunk is alone in its batch

struct Item {
  plan::ChunkId chunk = 0;
  std::vector<std::byte> raw, encoded;
  bool coded = false;  // else the raw bytes are stored
  Xxh128 raw_digest;
  std::vector<FiniteScan::Hit> hits;
  Status status;
};

// Codec states for the threads of the pool, which do not say who they are.
class CodecStates {
 public:
  std::unique_ptr<codec::ChunkCodec> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<codec::ChunkCodec>();
    auto state = std::move(free_.back());
    free_.pop_back();
    return state;
  }
  void give(std::unique_ptr<codec::ChunkCodec> state) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(state));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<codec::ChunkCodec>> free_;
};

// automatic: reading half the bytes must pay for decoding them. zstd on request: worth a codec at all.
bool worth_it(PackOptions::Choice choice, std::uint64_t stored, std::uint64_t raw) {
  if (choice == PackOptions::Choice::automatic) return stored <= raw / 2;
  return static_cast<double>(stored) < 0.97 * static_cast<double>(raw);
}

// Rows of gather-only weights are fetched one by one, so they are stored raw.
bool must_be_raw(const plan::Plan& plan, plan::ChunkId id) {
  const plan::Chunk& chunk = plan.chunks[id];
  for (std::uint32_t p = chunk.first_part; p < chunk.first_part + chunk.part_count; ++p)
    if (plan.weights[plan.parts[plan.chunk_parts[p]].weight].gather_only) return true;
  return chunk.raw_bytes == 0;
}

void encode(const plan::Plan& plan, const PackOptions& options, const FiniteScan& scan, CodecStates& states, Item& item) {
  item.raw_digest = xxh128(item.raw);
  item.hits = scan.scan(item.chunk, item.raw);
  item.coded = false;
  item.status = {};
  if (options.codec == PackOptions::Choice::raw || must_be_raw(plan, item.chunk)) return;
  auto state = states.take();
  item.status = state->encode(codec::kZstd, item.raw, options.zstd_level, item.encoded);
  states.give(std::move(state));
  item.coded = item.status.ok() && worth_it(options.codec, item.encoded.size(), item.raw.size());
}

Status values_verdict(const FiniteScan& scan, const ChunkMaker& maker, const Options& options, Logger& logger, Report& report) {
  FB_TRY(maker.finish());
  std::vector<Problem> problems = scan.problems();
  if (problems.empty()) return {};
  if (options.finite) {
    report.mismatched.insert(report.mismatched.end(), problems.begin(), problems.end());
    return weights_refused(std::move(problems));
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(problems.size(), 20); ++i)
    logger.log(LogLevel::warning, "non_finite tensor=" + printable(problems[i].tensor) + " why=" + problems[i].message);
  report.warnings.insert(report.warnings.end(), problems.begin(), problems.end());
  return {};
}

}  // namespace

Result<PipelineResult> run_chunks(const plan::Plan& plan, ChunkMaker& maker, const PackOptions& options, const char* stage,
                                  ThreadPool& pool, Logger& logger, Report& report,
                                  const std::function<Status(const EncodedChunk&)>& sink) {
  PipelineResult result;
  FiniteScan scan(plan);
  CodecStates states;
  std::vector<Item> items;  // buffers are reused from batch to batch
  std::uint64_t total = 0;
  for (const plan::Chunk& chunk : plan.chunks) total += chunk.raw_bytes;
  const std::size_t most = static_cast<std::size_t>(std::max(1, pool.threads())) * 4;
  for (plan::ChunkId next = 0; next < plan.chunks.size();) {
    std::size_t count = 0;
    for (std::uint64_t bytes = 0; next < plan.chunks.size() && count < most; ++next, ++count) {
      bytes += plan.chunks[next].raw_bytes;
      if (count != 0 && bytes > kBatchBytes) break;
      if (count == items.size()) items.emplace_back();
      Item& item = items[count];
      item.chunk = next;
      item.raw.resize(static_cast<std::size_t>(plan.chunks[next].raw_bytes));
      FB_TRY(maker.make(next, item.raw));
    }
    pool.parallel_for(static_cast<std::int64_t>(count), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) encode(plan, options, scan, states, items[static_cast<std::size_t>(i)]);
    });
    for (std::size_t i = 0; i < count; ++i) {
      Item& item = items[i];
      FB_TRY(std::move(item.status));
      scan.add(item.hits);
      const std::uint8_t codec = item.coded ? codec::kZstd : codec::kRaw;
      const std::vector<std::byte>& stored = item.coded ? item.encoded : item.raw;
      FB_TRY(sink({stored, codec, codec::codec_version(codec), item.raw_digest}));
      result.raw_bytes += item.raw.size();
      result.stored_bytes += stored.size();
      ++result.codecs[codec::codec_name(codec)];
      if (item.raw.size() > kBatchBytes) item = Item{};  // do not keep giants
    }
    if (options.refit.progress && !options.refit.progress(stage, result.raw_bytes, total))
      return Status(Code::cancelled, std::string("stopped during ") + stage + "; nothing was written");
  }
  result.read_bytes = maker.bytes_read();
  FB_TRY(values_verdict(scan, maker, options.refit, logger, report));
  return result;
}

}  // namespace forebay::refit
