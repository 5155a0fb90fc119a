// The arena on a GPU: addresses reserved once, physical memory mapped into them in pieces and
// really given back. Or the user's own device memory, which is only counted.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "runtime/cuda/cuda_status.h"
#include "runtime/device.h"

namespace forebay::cuda {

inline constexpr std::uint64_t kGranule = 2ull << 20;
inline constexpr std::uint64_t kPiece =
    64ull << 20;  // physical memory comes in pieces of at most as much: few of them map fast

class CudaArena final : public Arena {
 public:
  static Result<std::unique_ptr<Arena>> reserve(std::uint64_t bytes,
                                                std::shared_ptr<CudaState> state);
  static Result<std::unique_ptr<Arena>> wrap(std::span<std::byte> memory,
                                             std::shared_ptr<CudaState> state);
  ~CudaArena() override;
  CudaArena(const CudaArena&) = delete;
  CudaArena& operator=(const CudaArena&) = delete;
  std::byte* base() override { return base_; }
  std::uint64_t reserved_bytes() const override { return bytes_; }
  Status commit(std::uint64_t offset, std::uint64_t bytes) override;
  Status uncommit(std::uint64_t offset, std::uint64_t bytes) override;
  std::uint64_t committed_bytes() const override { return committed_.load(); }
  std::uint64_t peak_committed_bytes() const override { return peak_.load(); }

 private:
  struct Piece {
    std::uint64_t bytes = 0;
    CUmemGenericAllocationHandle handle = 0;
  };
  CudaArena(std::byte* base, std::uint64_t bytes, bool owned, std::shared_ptr<CudaState> state)
      : base_(base), bytes_(bytes), owned_(owned), state_(std::move(state)) {}
  Status check_range(std::uint64_t offset, std::uint64_t bytes) const;
  Status map_piece(std::uint64_t offset, std::uint64_t bytes);
  Status unmap_piece(std::uint64_t offset);
  // Fills the gaps of [offset, offset + bytes); on failure what it mapped is given back.
  Status fill(std::uint64_t offset, std::uint64_t bytes);
  void count(std::int64_t bytes);
  Status shorten_piece(std::uint64_t offset, std::uint64_t from, std::uint64_t to);
  Status shorten_through_host(std::uint64_t offset, std::uint64_t from, std::uint64_t to);
  Status split_piece(std::uint64_t piece, std::uint64_t offset, std::uint64_t end);
  Status copy_and_wait(std::byte* to, const std::byte* from, std::uint64_t bytes);

  std::byte* const base_;
  const std::uint64_t bytes_;
  const bool owned_;
  const std::shared_ptr<CudaState> state_;
  cudaStream_t stream_ = nullptr;          // for what is moved; made when first wanted
  std::map<std::uint64_t, Piece> pieces_;  // by offset; disjoint
  std::atomic<std::uint64_t> committed_{0}, peak_{0};
};

}  // namespace forebay::cuda
