// What a device does that says nothing else: no kernels of its own, plain copies.
#include "runtime/device.h"

#include <cstring>

#include "runtime/op.h"

namespace forebay {

Result<std::unique_ptr<Kernel>> Device::create_kernel(const NodeView&, std::span<const TypeShape>,
                                                      std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>();
}

Status Device::copy_now(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
  return {};
}

}  // namespace forebay
