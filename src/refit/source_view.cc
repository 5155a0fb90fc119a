#include "refit/source_view.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"

namespace forebay::refit {
namespace {

constexpr std::uint64_t kPieceBytes = 1ull << 20;    // of one read when a whole tensor is passed over
constexpr std::uint64_t kBlockLimit = 16ull << 20;   // of one transposed block
constexpr std::int64_t kTile = 32;

template <typename T>
void transpose_typed(const std::byte* src_bytes, std::int64_t src_stride, std::byte* dst_bytes, std::int64_t dst_stride, std::int64_t rows,
                     std::int64_t columns) {
  const T* src = reinterpret_cast<const T*>(src_bytes);
  T* dst = reinterpret_cast<T*>(dst_bytes);
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (std::int64_t c0 = 0; c0 < columns; c0 += kTile)
      for (std::int64_t c = c0; c < std::min(c0 + kTile, columns); ++c)
        for (std::int64_t r = r0; r < std::min(r0 + kTile, rows); ++r) dst[c * dst_stride + r] = src[r * src_stride + c];
}

}  // namespace

void transpose_block(const std::byte* src, std::int64_t src_stride, std::byte* dst, std::int64_t dst_stride, std::int64_t rows,
                     std::int64_t columns, int element_bytes) {
  switch (element_bytes) {
    case 1: return transpose_typed<std::uint8_t>(src, src_stride, dst, dst_stride, rows, columns);
    case 2: return transpose_typed<std::uint16_t>(src, src_stride, dst, dst_stride, rows, columns);
    case 4: return transpose_typed<std::uint32_t>(src, src_stride, dst, dst_stride, rows, columns);
    case 8: return transpose_typed<std::uint64_t>(src, src_stride, dst, dst_stride, rows, columns);
    default: FB_CHECK(false && "element size");
  }
}

bool SourceView::can_transpose(const SourceTensor& tensor) { return tensor.shape.rank() >= 2 && dtype_bits(tensor.dtype) >= 8; }

Shape SourceView::shape() const {
  Shape shape = tensor_->shape;
  if (transpose_) std::swap(shape[shape.rank() - 2], shape[shape.rank() - 1]);
  return shape;
}

Status SourceView::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (out.empty()) return {};
  if (!transpose_) return read_source_tensor(*tensor_, offset, out);
  if (!sliceable()) {
    FB_CHECK(offset == 0 && out.size() == bytes());
    FB_ASSIGN(const HostTensor whole, load());
    std::memcpy(out.data(), whole.data(), out.size());
    return {};
  }
  return read_transposed(offset, out);
}

Result<HostTensor> SourceView::load() const {
  if (!transpose_) return load_source_tensor(*tensor_, tensor_->bytes());
  HostTensor result(dtype(), shape());
  if (sliceable()) {
    FB_TRY(read_transposed(0, {result.data(), static_cast<std::size_t>(result.bytes())}));
    return result;
  }
  FB_ASSIGN(const HostTensor stored, load_source_tensor(*tensor_, tensor_->bytes()));
  const Shape& s = stored.shape();
  const std::int64_t rows = s[s.rank() - 2], columns = s[s.rank() - 1], batches = s.elements(0, s.rank() - 2);
  const int element = dtype_bits(dtype()) / 8;
  for (std::int64_t b = 0; b < batches; ++b)
    transpose_block(stored.data() + b * rows * columns * element, columns, result.data() + b * rows * columns * element, rows, rows,
                    columns, element);
  return result;
}

// Rows [row, row + rows) of the transposed matrix are columns of the stored one: a short read per stored row, tile by tile.
Status SourceView::read_rows(std::int64_t batch, std::int64_t row, std::int64_t rows, std::byte* out) const {
  const Shape& stored = tensor_->shape;
  const std::int64_t stored_rows = stored[stored.rank() - 2], stored_columns = stored[stored.rank() - 1];
  const std::int64_t element = dtype_bits(dtype()) / 8;
  const std::uint64_t base = static_cast<std::uint64_t>(batch * stored_rows * stored_columns * element);
  std::vector<std::byte> tile(static_cast<std::size_t>(kTile * rows * element));
  for (std::int64_t k = 0; k < stored_rows; k += kTile) {
    const std::int64_t count = std::min(kTile, stored_rows - k);
    if (rows == stored_columns) {  // whole stored rows lie together
      FB_TRY(read_source_tensor(*tensor_, base + static_cast<std::uint64_t>(k * stored_columns * element),
                                std::span(tile).first(static_cast<std::size_t>(count * rows * element))));
    } else {
      for (std::int64_t i = 0; i < count; ++i)
        FB_TRY(read_source_tensor(
            *tensor_, base + static_cast<std::uint64_t>(((k + i) * stored_columns + row) * element),
            std::span(tile).subspan(static_cast<std::size_t>(i * rows * element), static_cast<std::size_t>(rows * element))));
    }
    transpose_block(tile.data(), rows, out + k * element, stored_rows, count, rows, static_cast<int>(element));
  }
  return {};
}

Status SourceView::read_transposed(std::uint64_t offset, std::span<std::byte> out) const {
  const Shape plan_form = shape();
  const std::uint64_t rows = static_cast<std::uint64_t>(plan_form[plan_form.rank() - 2]);
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(plan_form[plan_form.rank() - 1] * dtype_bits(dtype()) / 8);
  FB_CHECK(row_bytes != 0 && rows != 0);
  const std::uint64_t block_rows = std::max<std::uint64_t>(1, kBlockLimit / row_bytes);
  std::vector<std::byte> block;
  while (!out.empty()) {
    const std::uint64_t first = offset / row_bytes;  // over all batches
    const std::uint64_t batch = first / rows, row = first % rows;
    const std::uint64_t wanted = (offset % row_bytes + out.size() + row_bytes - 1) / row_bytes;
    const std::uint64_t count = std::min({block_rows, wanted, rows - row});
    const std::uint64_t skip = offset % row_bytes;
    const std::size_t bytes = static_cast<std::size_t>(std::min<std::uint64_t>(count * row_bytes - skip, out.size()));
    if (skip == 0 && bytes == count * row_bytes) {
      FB_TRY(read_rows(static_cast<std::int64_t>(batch), static_cast<std::int64_t>(row), static_cast<std::int64_t>(count), out.data()));
    } else {
      block.resize(static_cast<std::size_t>(count * row_bytes));
      FB_TRY(read_rows(static_cast<std::int64_t>(batch), static_cast<std::int64_t>(row), static_cast<std::int64_t>(count), block.data()));
      std::memcpy(out.data(), block.data() + skip, bytes);
    }
    out = out.subspan(bytes);
    offset += bytes;
  }
  return {};
}

Result<Sha256> SourceView::digest(const std::function<bool(std::uint64_t)>& step) const {
  Sha256Stream stream;
  const auto stopped = [] { return Status(Code::cancelled, "stopped while reading weights"); };
  if (!sliceable()) {
    FB_ASSIGN(const HostTensor whole, load());
    stream.update({whole.data(), static_cast<std::size_t>(whole.bytes())});
    if (step && !step(whole.bytes())) return stopped();
    return stream.finish();
  }
  const std::uint64_t piece_bytes = transpose_ ? kBlockLimit : kPieceBytes;
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(piece_bytes, bytes())));
  for (std::uint64_t done = 0; done < bytes();) {
    const auto part = std::span(piece).first(static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), bytes() - done)));
    FB_TRY(read(done, part));
    stream.update(part);
    done += part.size();
    if (step && !step(part.size())) return stopped();
  }
  return stream.finish();
}

}  // namespace forebay::refit
