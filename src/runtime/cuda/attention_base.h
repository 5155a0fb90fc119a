// What the attention kernels of every form share: the device's task, its workspace, present keys and values.
#pragma once

#include "runtime/cuda/attention_task.h"
#include "runtime/cuda/kernel_base.h"

namespace forebay::cuda {

class AttentionBase : public CudaKernel {
 public:
  using CudaKernel::CudaKernel;
  std::uint64_t workspace_bytes() const override { return own_bytes_ + kinds_at() + static_cast<std::uint64_t>(space_.kinds); }

 protected:
  struct Past {
    const std::byte *key = nullptr, *value = nullptr;
  };
  // After task_ is set but for addresses and strides of what is dense; `own_bytes` of workspace come first, for the caller.
  Status plan(const NodeView& node, std::uint64_t own_bytes = 0);
  // Rows of `heads` heads of `width`: heads one after another, or inside of the rows.
  static void set_strides(std::int64_t (&strides)[3], bool packed, std::int64_t heads, std::int64_t rows, std::int64_t width);
  Status attend(AttentionTask task, const KernelCall& call) const;
  // An output that has the new keys or values behind the past ones. A null output is not wanted.
  Status append(std::byte* to, const std::byte* now, const std::byte* past, const std::int64_t (&strides)[3], std::int64_t width) const;
  // Rows of heads to where `to_strides` say.
  Status copy_heads(std::byte* to, const std::int64_t (&to_strides)[3], const std::byte* from, const std::int64_t (&strides)[3],
                    std::int64_t heads, std::int64_t rows, std::int64_t width) const;
  std::int64_t element_bytes() const { return dtype_bits(task_.type) / 8; }

  AttentionTask task_;

 private:
  std::uint64_t kinds_at() const { return (static_cast<std::uint64_t>(space_.parts) * sizeof(float) + 63) / 64 * 64; }
  AttentionSpace space_;
  std::uint64_t own_bytes_ = 0;
};

// Input or output i of a call; null where it is absent.
inline const std::byte* input_of(const KernelCall& call, std::size_t i) {
  return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr;
}
inline std::byte* output_of(const KernelCall& call, std::size_t i) {
  return i < call.outputs.size() && call.outputs[i].present() ? call.outputs[i].data : nullptr;
}

}  // namespace forebay::cuda
