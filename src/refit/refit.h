// Refit: check a whole catalog against a plan, then bind, embed or pack. Everything wrong is reported at once and nothing is changed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "forebay/logger.h"
#include "plan/binding.h"
#include "plan/plan_data.h"
#include "plan/plan_io.h"
#include "refit/catalog.h"
#include "runtime/thread_pool.h"

namespace forebay::refit {

// Called now and then from the working thread; false cancels (Code::cancelled, nothing left half-written).
using Progress = std::function<bool(const char* stage, std::uint64_t done_bytes, std::uint64_t total_bytes)>;

struct Options {
  NameMap map;
  bool strict = false;  // extra tensors are refused
  bool finite = false;  // non-finite values are refused (bind checks them only when set: it has to read everything)
  std::vector<std::string> allow_inexact;  // weights whose cast recipes may overflow or flush
  DirectIo direct = DirectIo::prefer;
  std::uint64_t max_host_bytes = 0;  // bound for recipe results kept in host memory by bind; 0: half of MemAvailable
  Progress progress;
};

struct Report {
  std::vector<Problem> missing, extra, mismatched, warnings;  // mismatched: dtype, shape, digest, kept constant, duplicate names
};

// Every problem at once; the Status (weight_mismatch) holds all of them, nearest names as hints. Reads headers; identical plans and kept
// constants read payloads only when `digests` is set. Shards and embedded weights are checked by their plan and weight ids.
Status check(const plan::Plan& plan, const Catalog& catalog, const Options& options, bool digests, Report* report);

// A generation that streams from where the weights lie: shards chunk by chunk, the user's own files in
// place when the recipe is identity and the extent raw, everything else computed into host memory (resource_exhausted naming
// weights, bytes and the `forebay pack` command when beyond max_host_bytes). Checks first.
Result<plan::GenerationPtr> bind(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                                 const Options& options, std::uint64_t number, ThreadPool& pool, Logger& logger, Report* report);
// The weights embedded in the plan's own file.
Result<plan::GenerationPtr> bind_embedded(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, const std::string& plan_path,
                                          DirectIo direct, std::uint64_t number);

// The raw bytes of any chunk of a plan from a catalog: recipes run by the CPU kernels, in bounded memory. One thread.
class ChunkMaker {
 public:
  static Result<std::unique_ptr<ChunkMaker>> create(std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                                                    const Options& options, ThreadPool& pool);
  virtual ~ChunkMaker() = default;
  // raw.size() == Chunk::raw_bytes. Chunks in ascending order are cheapest: a weight that must be computed whole is kept until its
  // last chunk.
  virtual Status make(plan::ChunkId chunk, std::span<std::byte> raw) = 0;
  // After the last chunk: weight_mismatch naming every weight whose cast overflowed or flushed, unless allowed by name.
  virtual Status finish() const = 0;
  virtual std::uint64_t bytes_read() const = 0;
};

struct PackOptions {
  enum class Choice : std::uint8_t { automatic, raw, zstd } codec = Choice::automatic;  // automatic: zstd where stored <= 50 % of raw
  int zstd_level = 3;
  std::uint64_t max_shard_bytes = 4ull << 30;
  Options refit;
};
struct PackResult {
  std::uint64_t raw_bytes = 0, stored_bytes = 0, read_bytes = 0;
  std::map<std::string, std::uint64_t> codecs;  // chunks by codec name
  std::vector<std::string> files;
  Report report;
};
// Shards in execution order into `folder` (made when missing). Durable: the index appears last. RSS bounded (1 GiB for an 8 GB model).
Result<PackResult> pack(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                        const std::string& folder, const PackOptions& options, ThreadPool& pool, Logger& logger);

struct EmbedResult {
  std::uint64_t plan_bytes = 0, weight_bytes = 0, read_bytes = 0;
  Report report;
};
// A plan file with the weights inside (one sequential copy), refittable again. A plan that has an id already (it was read, or
// written before) is marked as rehydrated.
Result<EmbedResult> embed(FileSystem& fs, std::shared_ptr<const plan::Plan> plan, std::shared_ptr<const Catalog> catalog,
                          const std::string& out_path, const Options& options, ThreadPool& pool, Logger& logger,
                          const plan::SerializeOptions& format = {});

// Every digest of the plan's embedded weights or of the shards, decoded sizes too: for `verify`.
Status verify(FileSystem& fs, const plan::Generation& generation, const Options& options, std::uint64_t* bytes);

}  // namespace forebay::refit
