// Copies of dense tensors through strides: transposes, slices, tiles, concatenations are all one of these.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "forebay/types.h"
#include "runtime/ops/infer.h"
#include "runtime/thread_pool.h"

namespace forebay::ops {

class StridedCopy {
 public:
  static constexpr int kMaxDims = 2 * kMaxRank;  // Tile has two for each axis
  // Element (i0, i1, ...) goes from in_offset + sum(ik * in_strides[k]) to out_offset + sum(ik * out_strides[k]); all in elements, input
  // strides may be 0 or negative. No two elements may go to one place.
  void plan(int element_bytes, std::span<const std::int64_t> dims, std::span<const std::int64_t> in_strides,
            std::span<const std::int64_t> out_strides, std::int64_t in_offset = 0, std::int64_t out_offset = 0);
  void run(const std::byte* in, std::byte* out, ThreadPool& pool) const;

 private:
  template <typename T>
  void run_rows(const T* in, T* out, ThreadPool& pool) const;
  template <typename T>
  void run_tiles(const T* in, T* out, ThreadPool& pool) const;

  int bytes_ = 0, rank_ = 0;
  bool tiles_ = false;  // the two innermost axes are walked in tiles: reads are contiguous along one, writes along the other
  std::int64_t total_ = 0, in_offset_ = 0, out_offset_ = 0;
  std::array<std::int64_t, kMaxDims> dims_{}, in_{}, out_{};
};

// A kernel that is one copy of input 0, planned by prepare.
class CopyKernel : public NamedKernel {
 public:
  using NamedKernel::NamedKernel;
  Status run(const KernelCall& call) override {
    copy_.run(call.inputs[0].data, call.outputs[0].data, *call.pool);
    return {};
  }

 protected:
  StridedCopy copy_;
};

// Row-major strides of `dims`, in elements.
std::array<std::int64_t, kMaxRank> dense_strides(std::span<const std::int64_t> dims);

}  // namespace forebay::ops
