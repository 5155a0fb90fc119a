// In place of cudnn_conv.cc where cuDNN's header was not there to build with.
#include "runtime/cuda/cudnn_conv.h"

namespace forebay::cuda {

std::string cudnn_version() {
  return {};
}

std::vector<std::string> cudnn_configs(const CudnnShape&, CudaState&) {
  return {};
}

std::unique_ptr<CudnnConv> make_cudnn_conv(const CudnnShape&, const std::shared_ptr<CudaState>&, std::string_view) {
  return nullptr;
}

}  // namespace forebay::cuda
