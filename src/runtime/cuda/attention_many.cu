// Prompts: 128 rows to a block (64 of heads above 128), 32 (16) to a warp.
#include "runtime/cuda/attention_flash.cuh"

namespace forebay::cuda {
namespace {

template <typename T>
cudaError_t start_by_head(const AttentionTask& t, cudaStream_t stream) {
  const std::int64_t head = std::max(t.head, t.value_head);
  if (head <= 64) return start_tiles<FlashForm<T, 64, 4, 2, 1, 64>, 2>(t, stream);
  if (head <= 128) return start_tiles<FlashForm<T, 128, 4, 2, 1, 64>, 2>(t, stream);
  return start_tiles<FlashForm<T, 256, 4, 1, 1, 32>, 1>(t, stream);
}

}  // namespace

cudaError_t find_warpgroups(bool* has) {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *has = major == 9 && minor == 0;
  return error;
}

cudaError_t launch_attention_many(const AttentionTask& task, cudaStream_t stream) {
#ifdef FOREBAY_CUDA_HOPPER
  bool warpgroups = false;
  const cudaError_t error = find_warpgroups(&warpgroups);
  if (error != cudaSuccess) return error;
  if (warpgroups && std::max(task.head, task.value_head) <= 128) return launch_attention_hopper(task, stream);
#endif
  return task.type == DType::f16 ? start_by_head<__half>(task, stream) : start_by_head<__nv_bfloat16>(task, stream);
}

}  // namespace forebay::cuda
