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
bool settle_form(PackedStream& work) {
  const ProductTask& task = work.members[0].task;
  const PackedWeight& weight = work.members[0].weight;
  const bool sixteen = task.a_type == DType::f16 || task.a_type == DType::bf16, zeros = weight.zero.type != DType::none;
  const bool rounded = sixteen && weight.value == task.a_type && weight.scale.type == task.a_type && (!zeros || weight.zero.type == weight.code);
  const bool floats = weight.code == DType::f8e4m3fn || weight.code == DType::f8e5m2;
  if (!(integers(weight.code) ? rounded || weight.value == DType::f32 : floats && rounded && !zeros && weight.zero_default == 0.0f)) return false;
  const bool is_signed = weight.code == DType::i4 || weight.code == DType::i8;
  work.bits = weight.code == DType::i4 || weight.code == DType::u4 ? 4 : 8;
  work.scale_bits = dtype_bits(weight.scale.type);
  work.zero_bits = zeros ? dtype_bits(weight.zero.type) : 0;
  if (is_signed) {
    work.flip = work.bits == 4 ? 0x88888888u : 0x80808080u;
    work.low ^= 0x8000u;
    work.high ^= 0x80000u;
    work.from = work.bits == 4 ? 8.0f : 128.0f;
  }
  if (!zeros) work.from += weight.zero_default;
  if (weight.scale.col == 0) {
    work.row_scales = true;
    work.shift = 31;
    return !zeros;
  }
  for (int shift = 4; shift <= 11; ++shift) {
    if (weight.col_block == std::int64_t{1} << shift) work.shift = shift;
  }
  static_assert(kLeastPackedBlock == 1 << 4 && kPackedColumns == 1 << 11);
  // Zero points of a stage begin at whole bytes.
  return work.shift > 0 && weight.scale.col == 1 && (!zeros || (weight.zero.col == 1 && (kPackedColumns >> work.shift) * work.zero_bits % 8 == 0));
}

bool same_form(const PackedMember& a, const PackedMember& b) {
  return a.task.a == b.task.a && a.task.a_type == b.task.a_type && a.task.k == b.task.k && a.task.constant_b && b.task.constant_b &&
         a.weight.code == b.weight.code && a.weight.value == b.weight.value && a.weight.col_block == b.weight.col_block &&
         a.weight.zero_default == b.weight.zero_default && a.weight.scale.type == b.weight.scale.type && a.weight.zero.type == b.weight.zero.type &&
         a.weight.scale.col == b.weight.scale.col && a.weight.zero.col == b.weight.zero.col;
}

bool add_member(PackedStream& work, const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, int& used) {
  PackedMember& member = work.members[work.count];
  member.task = task;
  member.weight = weight;
  if (task.m != 1 || task.n < 1 || task.n > (1 << 28) || task.k > (1 << 28) || weight.row_block != 1 || !multiple_of_16(task.a)) return false;
  if (work.count > 0 ? !same_form(work.members[0], member) : !settle_form(work)) return false;
  const int count = static_cast<int>((task.n + slabs.rows - 1) / slabs.rows);
  if (used + count > PackedStream::kMostSlabs) return false;
  // Codes are copied 16 bytes at a time, A is read eight elements at a time.
  if (task.k * work.bits % 128 != 0 || task.k % 8 != 0 || !sixteens(slabs.codes, count, weight.stride * work.bits)) return false;
  if (weight.zero.row * work.zero_bits % 8 != 0) return false;
  const auto whole = [&](const void* const* of, std::int64_t row, std::int64_t bits) {
    const std::int64_t blocks = kPackedColumns >> work.shift, rest = (task.k % kPackedColumns + weight.col_block - 1) >> work.shift;
    return sixteens(of, count, row * bits) && blocks * bits % 128 == 0 && rest * bits % 128 == 0;
  };
  if (!work.row_scales && (!whole(slabs.scales, weight.scale.row, work.scale_bits) ||
                           (work.zero_bits > 0 && !whole(slabs.zeros, weight.zero.row, work.zero_bits)))) {
    work.pieces = true;
  }
  std::copy_n(slabs.codes, count, work.codes + used);
  std::copy_n(slabs.scales, count, work.scales + used);
  std::copy_n(slabs.zeros, count, work.zeros + used);
  member.slab = used;
  member.slab_rows = static_cast<int>(slabs.rows);
  member.end = (work.count > 0 ? work.members[work.count - 1].end : 0) + static_cast<int>((task.n + kPackedRows - 1) / kPackedRows);
  used += count;
  ++work.count;
  return true;
}

}  // namespace

bool launch_packed_stream(const PackedGroup& group, cudaStream_t stream, cudaError_t* error) {
  PackedStream work;
  int used = 0;
  for (int i = 0; i < group.count; ++i) {
    if (!add_member(work, group.tasks[i], group.weights[i], group.slabs[i], used)) return false;
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
