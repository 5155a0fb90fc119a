#include "runtime/cuda/attention_base.h"

#include <array>
#include <limits>

namespace forebay::cuda {

void AttentionBase::set_strides(std::int64_t (&strides)[3], bool packed, std::int64_t heads, std::int64_t rows, std::int64_t width) {
  strides[0] = heads * rows * width;
  strides[1] = packed ? width : rows * width;
  strides[2] = packed ? heads * width : width;
}

Status AttentionBase::plan(const NodeView& node, std::uint64_t own_bytes) {
  if (task_.head > kMostAttentionHead) return node.unsupported("heads that large");
  if (task_.kv_heads == 0) return node.unsupported("no heads");
  if (task_.batch * task_.q_heads * task_.queries > std::numeric_limits<int>::max()) return node.unsupported("that many rows");
  own_bytes_ = (own_bytes + 63) / 64 * 64;
  space_ = plan_attention(&task_);
  return {};
}

Status AttentionBase::attend(AttentionTask task, const KernelCall& call) const {
  std::byte* const workspace = call.workspace + own_bytes_;
  task.parts = reinterpret_cast<float*>(workspace);
  if (space_.kinds > 0) task.kinds = reinterpret_cast<const std::uint8_t*>(workspace + kinds_at());
  return check(launch_attention(task, queue_stream()));
}

Status AttentionBase::copy_heads(std::byte* to, const std::int64_t (&to_strides)[3], const std::byte* from,
                                 const std::int64_t (&strides)[3], std::int64_t heads, std::int64_t rows, std::int64_t width) const {
  const std::vector<std::int64_t> dims{task_.batch, heads, rows, width};
  const std::array<std::vector<std::int64_t>, 2> both{std::vector<std::int64_t>{to_strides[0], to_strides[1], to_strides[2], 1},
                                                      std::vector<std::int64_t>{strides[0], strides[1], strides[2], 1}};
  const Walk walk = make_walk(dims, both);
  return walk.total == 0 ? Status() : check(launch_copy(static_cast<int>(element_bytes()), walk, to, from, queue_stream()));
}

Status AttentionBase::append(std::byte* to, const std::byte* now, const std::byte* past, const std::int64_t (&strides)[3],
                             std::int64_t width) const {
  if (to == nullptr) return {};
  std::int64_t all[3], old[3];
  set_strides(all, false, task_.kv_heads, task_.past + task_.keys, width);
  set_strides(old, false, task_.kv_heads, task_.past, width);
  if (task_.past > 0) FB_TRY(copy_heads(to, all, past, old, task_.kv_heads, task_.past, width));
  return copy_heads(to + task_.past * width * element_bytes(), all, now, strides, task_.kv_heads, task_.keys, width);
}

}  // namespace forebay::cuda
