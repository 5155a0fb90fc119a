// Decoding: at most 16 rows to a unit, the keys of a tile shared among the warps.
#include "runtime/cuda/attention_flash.cuh"

namespace forebay::cuda {
namespace {

template <typename T>
cudaError_t start_by_head(const AttentionTask& t, cudaStream_t stream) {
  const std::int64_t head = std::max(t.head, t.value_head);
  if (head <= 64) return start_tiles<FlashForm<T, 64, 1, 1, 4, 64>, 3>(t, stream);
  if (head <= 128) return start_tiles<FlashForm<T, 128, 1, 1, 4, 64>, 3>(t, stream);
  return start_tiles<FlashForm<T, 256, 1, 1, 2, 32>, 3>(t, stream);
}

}  // namespace

cudaError_t launch_attention_few(const AttentionTask& task, cudaStream_t stream) {
  return task.type == DType::f16 ? start_by_head<__half>(task, stream) : start_by_head<__nv_bfloat16>(task, stream);
}

}  // namespace forebay::cuda
