// What a config of cuDNN's says, and which convolutions have a graph: needs neither the library nor its header.
#include <charconv>

#include "runtime/cuda/cudnn_conv.h"

namespace forebay::cuda {

bool cudnn_describes(const CudnnShape& shape) {
  switch (shape.activation) {
    case Activation::hard_sigmoid:
    case Activation::hard_swish:
    case Activation::mish:
      return false;
    default:
      return shape.filters % 8 == 0 && (shape.channels % 8 == 0 || (shape.channels == 4 && shape.groups == 1));
  }
}

std::optional<std::uint64_t> cudnn_workspace(std::string_view version, std::string_view config) {
  constexpr std::string_view kKey = " workspace=";
  const std::size_t at = config.rfind(kKey);
  if (version.empty() || !config.starts_with("v" + std::string(version) + " ") || at == config.npos) return std::nullopt;
  std::uint64_t bytes = 0;
  const char* const end = config.data() + config.size();
  const auto read = std::from_chars(config.data() + at + kKey.size(), end, bytes);
  if (read.ec != std::errc() || read.ptr != end || bytes > kMostCudnnWorkspace) return std::nullopt;
  return bytes;
}

}  // namespace forebay::cuda
