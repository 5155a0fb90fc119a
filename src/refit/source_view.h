// Plain bytes of a source tensor in the orientation that the plan wants, in bounded memory.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/digest.h"
#include "base/source_tensor.h"

namespace forebay::refit {

// Borrows the tensor. One thread.
class SourceView {
 public:
  // `transpose`: the last two axes are swapped on the way (the tensor must have rank 2 or more and whole-byte elements; see can_transpose).
  SourceView(const SourceTensor& tensor, bool transpose) : tensor_(&tensor), transpose_(transpose) {}
  static bool can_transpose(const SourceTensor& tensor);
  DType dtype() const { return tensor_->dtype; }
  Shape shape() const;  // with the axes swapped
  std::uint64_t bytes() const { return tensor_->bytes(); }
  const SourceTensor& tensor() const { return *tensor_; }
  bool transposed() const { return transpose_; }
  // Any range can be read without loading the whole: the encoding is raw.
  bool sliceable() const { return tensor_->encoding == Encoding::raw; }

  Status read(std::uint64_t offset, std::span<std::byte> out) const;  // not sliceable: the whole tensor only
  Result<HostTensor> load() const;
  // SHA-256 over all bytes. `step` hears of bytes done and may stop it (false): cancelled.
  Result<Sha256> digest(const std::function<bool(std::uint64_t)>& step) const;

 private:
  Status read_transposed(std::uint64_t offset, std::span<std::byte> out) const;
  Status read_rows(std::int64_t batch, std::int64_t row, std::int64_t rows, std::byte* out) const;

  const SourceTensor* tensor_;
  bool transpose_;
};

// Swaps the axes of a dense [rows, columns] block: dst[c * dst_stride + r] = src[r * src_stride + c], strides in elements.
void transpose_block(const std::byte* src, std::int64_t src_stride, std::byte* dst, std::int64_t dst_stride, std::int64_t rows,
                     std::int64_t columns, int element_bytes);

}  // namespace forebay::refit
