// The linker leads what nvcc's code calls for each kernel when the library is opened (__cudaRegisterFunction) past here (--wrap): the
// runtime has no list of kernels to ask for.
#include "runtime/cuda/kernel_loading.h"

#include <vector>

namespace forebay::cuda {
namespace {

std::vector<const void*>& own_kernels() {
  static std::vector<const void*> all;
  return all;
}

}  // namespace

cudaError_t load_all_kernels() {
  bool any = false;
  for (const void* kernel : own_kernels()) {
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    any = any || error == cudaSuccess;
    if (error == cudaSuccess) continue;
    static_cast<void>(cudaGetLastError());
    // Kernels for other devices alone.
    if (error != cudaErrorInvalidDeviceFunction && error != cudaErrorNoKernelImageForDevice) return error;
  }
  return any ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

bool load_by_recording(const std::function<bool(cudaStream_t)>& give, bool (*accepts)(cudaGraph_t)) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  bool ok = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
            cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess;
  if (ok) {
    const bool given = give(stream);
    ok = cudaStreamEndCapture(stream, &graph) == cudaSuccess && given && (accepts == nullptr || accepts(graph)) &&
         cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess;
  }
  if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  if (stream != nullptr) static_cast<void>(cudaStreamDestroy(stream));
  static_cast<void>(cudaGetLastError());
  return ok;
}

}  // namespace forebay::cuda

extern "C" {
void __real___cudaRegisterFunction(void** binary, const char* kernel, char* device_kernel, const char* name, int threads, uint3* thread,
                                   uint3* block, dim3* block_dim, dim3* grid_dim, int* warp);

void __wrap___cudaRegisterFunction(void** binary, const char* kernel, char* device_kernel, const char* name, int threads, uint3* thread,
                                   uint3* block, dim3* block_dim, dim3* grid_dim, int* warp) {
  forebay::cuda::own_kernels().push_back(kernel);
  __real___cudaRegisterFunction(binary, kernel, device_kernel, name, threads, thread, block, block_dim, grid_dim, warp);
}
}
