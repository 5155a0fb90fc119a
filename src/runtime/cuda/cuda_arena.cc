// Invariant: committed_ is the sum of the pieces' bytes. Callers see to it that nothing runs on
// memory that is given back.
#include "runtime/cuda/cuda_arena.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked.h"

namespace forebay::cuda {
namespace {

CUmemAllocationProp properties(int ordinal) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  prop.location.id = ordinal;
  return prop;
}

}  // namespace

Result<std::unique_ptr<Arena>> CudaArena::reserve(std::uint64_t bytes,
                                                  std::shared_ptr<CudaState> state) {
  if (bytes == 0 || bytes > (1ull << 46)) {
    return Status(Code::invalid_argument,
                  "an arena of " + std::to_string(bytes) + " bytes cannot be reserved");
  }
  const CUmemAllocationProp prop = properties(state->ordinal);
  std::size_t granule = 0;
  FB_TRY(state->errors.check(
      state->driver.granularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
      "asking for the granule of device memory"));
  if (granule == 0 || kGranule % granule != 0) {
    return Status(Code::unavailable, "the driver maps memory in units of " +
                                         std::to_string(granule) + " bytes, 2 MiB are needed");
  }
  const std::uint64_t rounded = align_up(bytes, kGranule);
  CUdeviceptr base = 0;
  FB_TRY(
      state->errors.check(state->driver.reserve(&base, rounded, kGranule, 0, 0),
                          "reserving " + std::to_string(rounded) + " bytes of device addresses"));
  std::unique_ptr<Arena> arena(new CudaArena(reinterpret_cast<std::byte*>(base), rounded, true, std::move(state)));
  return arena;
}

Result<std::unique_ptr<Arena>> CudaArena::wrap(std::span<std::byte> memory,
                                               std::shared_ptr<CudaState> state) {
  if (memory.data() == nullptr)
    return Status(Code::invalid_argument, "the arena memory given is null");
  cudaPointerAttributes facts{};
  FB_TRY(state->errors.check(cudaPointerGetAttributes(&facts, memory.data()),
                             "asking what the arena memory is"));
  if (facts.type != cudaMemoryTypeDevice)
    return Status(Code::invalid_argument, "the arena memory given is not memory of the device");
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uint64_t skip = align_up(address, kGranule) - address;
  if (memory.size() < skip + kGranule) {
    return Status(Code::invalid_argument, "the arena memory given (" +
                                              std::to_string(memory.size()) +
                                              " bytes) holds no whole aligned granule of 2 MiB");
  }
  const std::uint64_t bytes = align_down(memory.size() - skip, kGranule);
  std::unique_ptr<Arena> arena(new CudaArena(memory.data() + skip, bytes, false, std::move(state)));
  return arena;
}

CudaArena::~CudaArena() {
  while (!pieces_.empty()) {
    const std::uint64_t offset = pieces_.begin()->first;
    if (!unmap_piece(offset).ok())
      pieces_.erase(offset);  // a lost device: the process's end gives it back
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  if (owned_) state_->driver.free_addresses(reinterpret_cast<CUdeviceptr>(base_), bytes_);
}

Status CudaArena::check_range(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset % kGranule != 0 || bytes % kGranule != 0 || !range_within(offset, bytes, bytes_)) {
    return Status(Code::invalid_argument, "the arena range at " + std::to_string(offset) + " of " +
                                              std::to_string(bytes) +
                                              " bytes is not granules within the " +
                                              std::to_string(bytes_) + " bytes reserved");
  }
  return {};
}

void CudaArena::count(std::int64_t bytes) {
  const std::uint64_t now =
      committed_.fetch_add(static_cast<std::uint64_t>(bytes)) + static_cast<std::uint64_t>(bytes);
  if (now > peak_.load()) peak_.store(now);
}

Status CudaArena::map_piece(std::uint64_t offset, std::uint64_t bytes) {
  Piece piece{bytes, 0};
  if (owned_) {
    const DriverCalls& driver = state_->driver;
    const CUdeviceptr address = reinterpret_cast<CUdeviceptr>(base_) + offset;
    const CUmemAllocationProp prop = properties(state_->ordinal);
    FB_TRY(state_->errors.check(driver.create(&piece.handle, bytes, &prop, 0),
                                "committing " + std::to_string(bytes) + " bytes of the arena"));
    Status mapped = state_->errors.check(driver.map(address, bytes, 0, piece.handle, 0),
                                         "mapping device memory");
    if (!mapped.ok()) {
      driver.release(piece.handle);
      return mapped;
    }
    CUmemAccessDesc access{};
    access.location = prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    Status opened = state_->errors.check(driver.set_access(address, bytes, &access, 1),
                                         "opening device memory");
    if (!opened.ok()) {
      driver.unmap(address, bytes);
      driver.release(piece.handle);
      return opened;
    }
  }
  pieces_[offset] = piece;
  count(static_cast<std::int64_t>(bytes));
  return {};
}

Status CudaArena::unmap_piece(std::uint64_t offset) {
  const Piece piece = pieces_.at(offset);
  if (owned_) {
    FB_TRY(state_->errors.check(
        state_->driver.unmap(reinterpret_cast<CUdeviceptr>(base_) + offset, piece.bytes),
        "unmapping device memory"));
    FB_TRY(state_->errors.check(state_->driver.release(piece.handle), "giving back device memory"));
  }
  pieces_.erase(offset);
  count(-static_cast<std::int64_t>(piece.bytes));
  return {};
}

Status CudaArena::fill(std::uint64_t offset, std::uint64_t bytes) {
  const std::uint64_t end = offset + bytes;
  std::vector<std::uint64_t> fresh;
  std::uint64_t at = offset;
  while (at < end) {
    auto next = pieces_.upper_bound(at);
    if (next != pieces_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second.bytes > at) {
        at = before->first + before->second.bytes;
        continue;
      }
    }
    const std::uint64_t gap = std::min(end, next == pieces_.end() ? end : next->first);
    const std::uint64_t size = std::min(gap - at, kPiece - at % kPiece);
    Status mapped = map_piece(at, size);
    if (!mapped.ok()) {
      for (const std::uint64_t one : fresh) FB_TRY(unmap_piece(one));
      return mapped;
    }
    fresh.push_back(at);
    at += size;
  }
  return {};
}

Status CudaArena::commit(std::uint64_t offset, std::uint64_t bytes) {
  FB_TRY(check_range(offset, bytes));
  return fill(offset, bytes);
}

// What of a piece lies in [from, to) gets memory of its own, at the same addresses, and the rest of the piece is gone. For a moment both are there:
// pieces given back before make up for it.
Status CudaArena::shorten_piece(std::uint64_t offset, std::uint64_t from, std::uint64_t to) {
  const DriverCalls& driver = state_->driver;
  const CUmemAllocationProp prop = properties(state_->ordinal);
  const std::uint64_t bytes = to - from;
  CUmemAccessDesc access{};
  access.location = prop.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr aside = 0;
  FB_TRY(state_->errors.check(driver.create(&handle, bytes, &prop, 0), "keeping a part of the arena"));
  Status status = state_->errors.check(driver.reserve(&aside, bytes, kGranule, 0, 0), "reserving device addresses");
  if (status.ok()) {
    status = state_->errors.check(driver.map(aside, bytes, 0, handle, 0), "mapping device memory");
    if (status.ok()) {
      status = state_->errors.check(driver.set_access(aside, bytes, &access, 1), "opening device memory");
      if (status.ok()) status = copy_and_wait(reinterpret_cast<std::byte*>(aside), base_ + from, bytes);
      driver.unmap(aside, bytes);
    }
    driver.free_addresses(aside, bytes);
  }
  const CUdeviceptr place = reinterpret_cast<CUdeviceptr>(base_) + from;
  if (status.ok()) status = unmap_piece(offset);
  if (status.ok()) status = state_->errors.check(driver.map(place, bytes, 0, handle, 0), "mapping device memory");
  if (!status.ok()) {
    driver.release(handle);
    return status;
  }
  pieces_[from] = {bytes, handle};
  count(static_cast<std::int64_t>(bytes));
  return state_->errors.check(driver.set_access(place, bytes, &access, 1), "opening device memory");
}

Status CudaArena::copy_and_wait(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  if (stream_ == nullptr) FB_TRY(state_->errors.check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"));
  FB_TRY(state_->errors.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "moving a part of the arena"));
  return state_->errors.check(cudaStreamSynchronize(stream_), "moving a part of the arena");
}

// With nothing else given back that would make up for a copy on the device.
Status CudaArena::shorten_through_host(std::uint64_t offset, std::uint64_t from, std::uint64_t to) {
  std::vector<std::byte> held(to - from);
  FB_TRY(copy_and_wait(held.data(), base_ + from, held.size()));
  FB_TRY(unmap_piece(offset));
  FB_TRY(fill(from, held.size()));
  return copy_and_wait(base_ + from, held.data(), held.size());
}

// A piece goes as a whole: of one that is cut what stays is moved, after all others are gone, so that the device never holds more than before.
Status CudaArena::uncommit(std::uint64_t offset, std::uint64_t bytes) {
  FB_TRY(check_range(offset, bytes));
  const std::uint64_t end = offset + bytes;
  struct Cut {
    std::uint64_t piece, from, to;
  };
  std::vector<Cut> cuts;
  std::vector<std::uint64_t> gone;
  std::uint64_t freed = 0;
  for (const auto& [at, piece] : pieces_) {
    const std::uint64_t stop = at + piece.bytes;
    if (stop <= offset || at >= end) continue;
    if (at >= offset && stop <= end) {
      gone.push_back(at);
      freed += piece.bytes;
    } else if (at < offset && stop > end) {
      return split_piece(at, offset, end);
    } else {
      cuts.push_back(at < offset ? Cut{at, at, offset} : Cut{at, end, stop});
    }
  }
  for (const std::uint64_t at : gone) FB_TRY(unmap_piece(at));
  for (const Cut& cut : cuts) {
    const bool room = owned_ && freed >= cut.to - cut.from;
    FB_TRY(room ? shorten_piece(cut.piece, cut.from, cut.to) : shorten_through_host(cut.piece, cut.from, cut.to));
  }
  return {};
}

// A hole within one piece: both of its ends stay, held in host memory meanwhile.
Status CudaArena::split_piece(std::uint64_t piece, std::uint64_t offset, std::uint64_t end) {
  const std::uint64_t stop = piece + pieces_.at(piece).bytes;
  std::vector<std::byte> before(offset - piece), after(stop - end);
  FB_TRY(copy_and_wait(before.data(), base_ + piece, before.size()));
  FB_TRY(copy_and_wait(after.data(), base_ + end, after.size()));
  FB_TRY(unmap_piece(piece));
  FB_TRY(fill(piece, before.size()));
  FB_TRY(fill(end, after.size()));
  FB_TRY(copy_and_wait(base_ + piece, before.data(), before.size()));
  return copy_and_wait(base_ + end, after.data(), after.size());
}

}  // namespace forebay::cuda
