// Which products of packed weights the kernel of packed_stream.cuh serves, and what it is given; the rest is packed_row_dot.cu's.
#include "runtime/cuda/packed_group.h"

#include <algorithm>

#include "runtime/cuda/row_around.h"

namespace forebay::cuda {
namespace {

bool integers(DType code) {
  return code == DType::i4 || code == DType::u4 || code == DType::i8 || code == DType::u8;
}
bool multiple_of_16(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}
// Rows of `row_bits`, in each of the slabs at multiples of 16 bytes.
bool sixteens(const void* const* slabs, int count, std::int64_t row_bits) {
  return row_bits % 128 == 0 && std::all_of(slabs, slabs + count, multiple_of_16);
}

// What is one thing for a launch.
bool settle_form(PackedStream& work, const ProductTask& task, const PackedWeight& weight) {
  const bool sixteen = task.a_type == DType::f16 || task.a_type == DType::bf16, zeros = weight.zero.type != DType::none;
  const bool rounded =
      sixteen && weight.value == task.a_type && weight.scale.type == task.a_type && (!zeros || weight.zero.type == weight.code);
  const bool floats = weight.code == DType::f8e4m3fn || weight.code == DType::f8e5m2;
  if (!integers(weight.code) && !(floats && rounded && !zeros && weight.zero_default == 0.0f)) return false;
  if (!rounded && weight.value != DType::f32) return false;
  work.code = weight.code;
  work.scale_type = weight.scale.type;
  work.zero_type = weight.zero.type;
  work.bits = dtype_bits(weight.code);
  work.scale_bits = dtype_bits(weight.scale.type);
  work.zero_bits = zeros ? dtype_bits(weight.zero.type) : 0;
  if (weight.code == DType::i4 || weight.code == DType::i8) {
    work.flip = work.bits == 4 ? 0x88888888u : 0x80808080u;
    work.low ^= 0x8000u;
    work.high ^= 0x80000u;
    work.from = work.bits == 4 ? 8.0f : 128.0f;
  }
  if (!zeros) work.from += weight.zero_default;
  work.row_scales = weight.scale.col == 0;
  work.shift = work.row_scales ? 31 : 0;
  for (int shift = 4; shift <= 8 && !work.row_scales; ++shift) {
    if (weight.col_block == std::int64_t{1} << shift) work.shift = shift;
  }
  if (work.shift == 0 || (work.row_scales ? zeros : weight.scale.col != 1 || (zeros && weight.zero.col != 1))) return false;
  const auto stage = [&](std::int64_t columns) {
    const std::int64_t blocks = work.row_scales ? 0 : (columns + weight.col_block - 1) / weight.col_block;
    return PackedStage{static_cast<int>(columns * work.bits / 8), static_cast<int>(blocks * work.scale_bits / 8),
                       static_cast<int>((blocks * work.zero_bits + 7) / 8)};
  };
  work.whole = stage(kPackedColumns);
  work.last = stage((task.k - 1) % kPackedColumns + 1);
  return true;
}

bool same_form(const PackedGroup& group, int i) {
  const ProductTask &a = group.tasks[0], &b = group.tasks[i];
  const PackedWeight &v = group.weights[0], &w = group.weights[i];
  return a.a == b.a && a.a_type == b.a_type && a.k == b.k && a.constant_b && b.constant_b && v.code == w.code && v.value == w.value &&
         v.col_block == w.col_block && v.zero_default == w.zero_default && v.scale.type == w.scale.type && v.zero.type == w.zero.type &&
         v.scale.col == w.scale.col && v.zero.col == w.zero.col;
}

bool add_member(PackedStream& work, const PackedGroup& group, int i) {
  const ProductTask& task = group.tasks[i];
  const PackedWeight& weight = group.weights[i];
  const PackedSlabs& slabs = group.slabs[i];
  constexpr std::int64_t kMost = 1 << 28;
  if (task.m != 1 || task.n < 1 || task.n > kMost || task.k < 1 || task.k > kMost || weight.first_row > kMost || weight.row_block != 1)
    return false;
  if (!multiple_of_16(task.a) || !(i > 0 ? same_form(group, i) : settle_form(work, task, weight))) return false;
  PackedMember& member = work.members[i];
  const PackedMember* const before = i > 0 ? &work.members[i - 1] : nullptr;
  const int count = static_cast<int>((task.n + slabs.rows - 1) / slabs.rows);
  member.task = task;
  member.slab = before != nullptr ? before->slab + before->slabs : 0;
  member.slabs = count;
  member.slab_rows = static_cast<int>(std::min(slabs.rows, kMost));
  member.first_row = static_cast<int>(weight.first_row);
  member.end = (before != nullptr ? before->end : 0) + static_cast<int>((task.n + kPackedRows - 1) / kPackedRows);
  // Codes are copied 16 bytes at a time, A is read eight elements at a time; rows of zero points begin at whole bytes.
  const std::int64_t code_row = weight.stride * work.bits, scale_row = weight.scale.row * work.scale_bits,
                     zero_row = weight.zero.row * work.zero_bits;
  if (member.slab + count > PackedStream::kMostSlabs || task.k * work.bits % 128 != 0 || task.k % 8 != 0) return false;
  if (!sixteens(slabs.codes, count, code_row) || zero_row % 8 != 0) return false;
  member.code_row = static_cast<int>(code_row / 8);
  member.scale_row = static_cast<int>(scale_row / 8);
  member.zero_row = static_cast<int>(zero_row / 8);
  member.scale_cut = weight.scale.cut;
  member.zero_cut = weight.zero.cut;
  const auto even = [&](const void* const* of, std::int64_t row_bits, int PackedStage::*bytes) {
    return work.whole.*bytes % 16 == 0 && work.last.*bytes % 16 == 0 && sixteens(of, count, row_bits);
  };
  if (!work.row_scales &&
      (!even(slabs.scales, scale_row, &PackedStage::scales) || (work.zero_bits > 0 && !even(slabs.zeros, zero_row, &PackedStage::zeros)))) {
    work.pieces = true;
  }
  std::copy_n(slabs.codes, count, work.codes + member.slab);
  std::copy_n(slabs.scales, count, work.scales + member.slab);
  std::copy_n(slabs.zeros, count, work.zeros + member.slab);
  work.count = i + 1;
  return true;
}

}  // namespace

bool launch_packed_stream(const PackedGroup& group, cudaStream_t stream, cudaError_t* error) {
  PackedStream work;
  for (int i = 0; i < group.count; ++i) {
    if (!add_member(work, group, i)) return false;
  }
  const ProductTask& task = group.tasks[0];
  if (group.normed && !norm_fits(group.norm, task.a_type, task.a, task.k)) return false;
  work.normed = group.normed;
  work.norm = group.norm;
  const bool rounded = group.weights[0].value != DType::f32;
  bool there = false;
  *error = rounded ? launch_packed_rounded(work, stream, &there) : launch_packed_unrounded(work, stream, &there);
  return there || *error != cudaSuccess;
}

}  // namespace forebay::cuda
