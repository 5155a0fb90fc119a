#include "runtime/ops/strided_copy.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/ops/dispatch.h"

namespace forebay::ops {
namespace {

constexpr std::int64_t kTile = 32;
constexpr std::int64_t kGrainBytes = 64 * 1024;

template <typename T>
void copy_run(const T* in, std::int64_t in_stride, T* out, std::int64_t out_stride, std::int64_t n) {
  if (in_stride == 1 && out_stride == 1) {
    std::memcpy(out, in, static_cast<std::size_t>(n) * sizeof(T));
  } else if (in_stride == 0 && out_stride == 1) {
    std::fill_n(out, n, *in);
  } else {
    for (std::int64_t i = 0; i < n; ++i) out[i * out_stride] = in[i * in_stride];
  }
}

}  // namespace

std::array<std::int64_t, kMaxRank> dense_strides(std::span<const std::int64_t> dims) {
  std::array<std::int64_t, kMaxRank> strides{};
  std::int64_t stride = 1;
  for (std::size_t i = dims.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= dims[i];
  }
  return strides;
}

void StridedCopy::plan(int element_bytes, std::span<const std::int64_t> dims, std::span<const std::int64_t> in_strides,
                       std::span<const std::int64_t> out_strides, std::int64_t in_offset, std::int64_t out_offset) {
  FB_CHECK(dims.size() <= static_cast<std::size_t>(kMaxDims) && dims.size() == in_strides.size() && dims.size() == out_strides.size());
  *this = StridedCopy();
  bytes_ = element_bytes;
  in_offset_ = in_offset;
  out_offset_ = out_offset;
  total_ = 1;
  std::size_t made = 0;
  for (std::size_t axis = 0; axis < dims.size(); ++axis) {
    total_ *= dims[axis];
    if (dims[axis] == 1) continue;
    if (made > 0 && in_[made - 1] == in_strides[axis] * dims[axis] && out_[made - 1] == out_strides[axis] * dims[axis]) {
      dims_[made - 1] *= dims[axis];
      in_[made - 1] = in_strides[axis];
      out_[made - 1] = out_strides[axis];
      continue;
    }
    dims_[made] = dims[axis];
    in_[made] = in_strides[axis];
    out_[made++] = out_strides[axis];
  }
  if (made == 0) {
    dims_[0] = in_[0] = out_[0] = 1;
    made = 1;
  }
  rank_ = static_cast<int>(made);
  const std::size_t last = made - 1;
  if (in_[last] == 0 || in_[last] == 1 || out_[last] != 1) return;
  for (std::size_t k = 0; k < last; ++k) {
    if (in_[k] != 1 || dims_[k] < 4 || dims_[last] < 4) continue;
    // Axis k moves next to the last one; the order of the other axes does not matter.
    std::rotate(dims_.begin() + static_cast<std::ptrdiff_t>(k), dims_.begin() + static_cast<std::ptrdiff_t>(k + 1),
                dims_.begin() + static_cast<std::ptrdiff_t>(last));
    std::rotate(in_.begin() + static_cast<std::ptrdiff_t>(k), in_.begin() + static_cast<std::ptrdiff_t>(k + 1),
                in_.begin() + static_cast<std::ptrdiff_t>(last));
    std::rotate(out_.begin() + static_cast<std::ptrdiff_t>(k), out_.begin() + static_cast<std::ptrdiff_t>(k + 1),
                out_.begin() + static_cast<std::ptrdiff_t>(last));
    tiles_ = true;
    return;
  }
}

template <typename T>
void StridedCopy::run_rows(const T* in, T* out, ThreadPool& pool) const {
  const std::size_t last = static_cast<std::size_t>(rank_) - 1;
  pool.parallel_for(total_, kGrainBytes / bytes_, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::int64_t, kMaxDims> index{};
    std::int64_t from = in_offset_, to = out_offset_, rest = begin;
    for (std::size_t d = last + 1; d-- > 0;) {
      index[d] = rest % dims_[d];
      rest /= dims_[d];
      from += index[d] * in_[d];
      to += index[d] * out_[d];
    }
    for (std::int64_t position = begin; position < end;) {
      const std::int64_t n = std::min(dims_[last] - index[last], end - position);
      copy_run(in + from, in_[last], out + to, out_[last], n);
      position += n;
      index[last] += n;
      from += n * in_[last];
      to += n * out_[last];
      for (std::size_t d = last; d > 0 && index[d] == dims_[d]; --d) {
        index[d] = 0;
        ++index[d - 1];
        from += in_[d - 1] - dims_[d] * in_[d];
        to += out_[d - 1] - dims_[d] * out_[d];
      }
    }
  });
}

template <typename T>
void StridedCopy::run_tiles(const T* in, T* out, ThreadPool& pool) const {
  // Axis `row` is contiguous in the input, axis `col` in the output.
  const std::size_t col = static_cast<std::size_t>(rank_) - 1, row = col - 1;
  const std::int64_t strips = (dims_[row] + kTile - 1) / kTile;
  const std::int64_t planes = total_ / (dims_[row] * dims_[col]);
  const std::int64_t strip_bytes = kTile * dims_[col] * bytes_;
  pool.parallel_for(planes * strips, std::max<std::int64_t>(1, kGrainBytes / std::max<std::int64_t>(strip_bytes, 1)),
                    [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      std::int64_t rest = unit / strips, from = in_offset_, to = out_offset_;
      for (std::size_t d = row; d-- > 0;) {
        from += (rest % dims_[d]) * in_[d];
        to += (rest % dims_[d]) * out_[d];
        rest /= dims_[d];
      }
      const std::int64_t r0 = (unit % strips) * kTile, r1 = std::min(r0 + kTile, dims_[row]);
      for (std::int64_t c0 = 0; c0 < dims_[col]; c0 += kTile) {
        const std::int64_t c1 = std::min(c0 + kTile, dims_[col]);
        for (std::int64_t r = r0; r < r1; ++r) {
          const T* x = in + from + r;
          T* y = out + to + r * out_[row];
          for (std::int64_t c = c0; c < c1; ++c) y[c] = x[c * in_[col]];
        }
      }
    }
  });
}

void StridedCopy::run(const std::byte* in, std::byte* out, ThreadPool& pool) const {
  if (total_ == 0) return;
  dispatch_bytes(bytes_, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (tiles_) {
      run_tiles(reinterpret_cast<const T*>(in), reinterpret_cast<T*>(out), pool);
    } else {
      run_rows(reinterpret_cast<const T*>(in), reinterpret_cast<T*>(out), pool);
    }
  });
}

}  // namespace forebay::ops
