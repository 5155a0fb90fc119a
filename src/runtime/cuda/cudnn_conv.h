// Convolutions of images with their channels together through cuDNN, looked up at run time: absent, or built without its header, our own
// kernels are the only ones.
//
// An engine is chosen for a whole node: bias, what is added and the activation are in its graph. Only engines that give the same bits each
// time and add in f32 are listed. A config names one: the library's version, the engine, its settings, and the bytes of workspace it wants.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cuda/cuda_status.h"
#include "runtime/cuda/nhwc_task.h"

namespace forebay::cuda {

struct CudnnShape {
  DType type = DType::f16;
  NhwcWindow window;
  int batch = 0, groups = 1, channels = 0, filters = 0;  // channels of a group, filters of all
  bool biased = false, added = false;                    // an image before the activation
  Activation activation = Activation::none;
  float alpha = 0, beta = 0;
};

struct CudnnOperands {
  const void *x = nullptr, *w = nullptr, *bias = nullptr, *sum = nullptr;
  void *y = nullptr, *workspace = nullptr;
};

class CudnnConv {
 public:
  virtual ~CudnnConv() = default;
  virtual Status run(const CudnnOperands& operands, cudaStream_t stream) const = 0;
};

std::string cudnn_version();  // "" without the library
// Whether there is a graph for it; the same with and without the library.
bool cudnn_describes(const CudnnShape& shape);
// Configs of the engines that the library's heuristics list, in their order. Starts the device.
std::vector<std::string> cudnn_configs(const CudnnShape& shape, CudaState& state);
// Null where the heuristics do not list such an engine: a config comes from a file, and the library would run whatever it says.
std::unique_ptr<CudnnConv> make_cudnn_conv(const CudnnShape& shape, const std::shared_ptr<CudaState>& state, std::string_view config);
// What a config says of its workspace; none where it is not of this version of the library, or says nothing sensible.
std::optional<std::uint64_t> cudnn_workspace(std::string_view version, std::string_view config);

inline constexpr std::size_t kMostCudnnEngines = 6;                            // of a shape: each is made ready to be listed
inline constexpr std::uint64_t kMostCudnnWorkspace = std::uint64_t{64} << 20;  // it is part of the smallest budget

}  // namespace forebay::cuda
