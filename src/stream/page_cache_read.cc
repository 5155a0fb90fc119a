// Weights that the page cache holds. A direct read would go to the disk for them, and io_uring would copy them on the thread that submits:
// the pool's threads read them instead, a chunk each, and take the digest of every piece while it is still in their cache.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "stream/read_pipeline.h"

namespace forebay::stream {
namespace {

constexpr std::uint64_t kPieceBytes = 512u << 10;
constexpr std::uint64_t kPageBytes = 4096;

// cachestat (Linux 6.5): how many pages of a range are there, without touching them. Older headers lack it.
constexpr long kCachestatCall = 451;
struct CacheRange {
  std::uint64_t offset = 0, bytes = 0;
};
struct CachePages {
  std::uint64_t cached = 0, dirty = 0, writeback = 0, evicted = 0, recently_evicted = 0;
};

// False too where the kernel does not tell: an older one, a file of somebody else's.
bool holds_all(int descriptor, CacheRange range) {
  CachePages pages;
  if (range.bytes == 0 || ::syscall(kCachestatCall, descriptor, &range, &pages, 0u) != 0) return false;
  return pages.cached > (range.offset + range.bytes - 1) / kPageBytes - range.offset / kPageBytes;
}

}  // namespace

// Only where the caller has left the way of reading to us.
bool ReadPipeline::in_page_cache(const LoadSlot& slot) const {
  if (options_.io != IoChoice::automatic || options_.direct == DirectIo::require || options_.wrap_engine) return false;
  const ChunkSource& source = config_.bound->source(slot.chunk);
  return source.buffered->descriptor() >= 0 && holds_all(source.buffered->descriptor(), {source.read_offset, source.needed});
}

Status ReadPipeline::too_short(const LoadSlot& slot, std::uint64_t at) const {
  const ChunkSource& source = config_.bound->source(slot.chunk);
  std::uint64_t real = source.read_offset + at;
  if (auto identity = source.buffered->identity(); identity.ok()) real = identity->bytes;
  return config_.bound->name_failure(slot.chunk, Status(Code::corruption, "the file is shorter than its index says: bytes up to " +
                                                                              std::to_string(source.read_offset + source.needed) +
                                                                              " wanted, " + std::to_string(real) + " there"));
}

// The digest of the stored bytes. What was evicted meanwhile comes from the disk, a little later.
Result<Xxh128> ReadPipeline::read_page_cache(LoadSlot& slot, Xxh128Stream& digest) {
  const ChunkSource& source = config_.bound->source(slot.chunk);
  static_cast<void>(digest.finish());  // what a read that failed has left
  for (std::uint64_t at = 0; at < source.needed;) {
    ReadRequest request;
    request.file = request.buffered = source.buffered;
    request.offset = source.read_offset + at;
    request.to = slot.read_to + at;
    request.bytes = request.needed = static_cast<std::uint32_t>(std::min(kPieceBytes, source.needed - at));
    ReadProgress progress;
    progress.begin(request);
    progress.finish_blocking();
    page_cache_retries_.fetch_add(progress.retries(), std::memory_order_relaxed);
    ReadDone done = progress.take();
    if (!done.status.ok()) return config_.bound->name_failure(slot.chunk, std::move(done.status));
    if (done.bytes < request.needed) return too_short(slot, at + done.bytes);
    const std::uint64_t skip = std::min<std::uint64_t>(source.lead > at ? source.lead - at : 0, done.bytes);
    digest.update({request.to + skip, static_cast<std::size_t>(done.bytes - skip)});
    at += done.bytes;
  }
  stats_.page_cache_bytes.fetch_add(source.needed - source.lead, std::memory_order_relaxed);
  trace(TraceSpan::Lane::disk, slot, slot.begun_ns, source.needed);
  return digest.finish();
}

}  // namespace forebay::stream
