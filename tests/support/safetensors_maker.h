// Writes a safetensors file from tensors in memory, for tests of refit sources.
#pragma once

#include <string>
#include <vector>

#include "forebay/types.h"

namespace forebay::test {

struct NamedTensor {
  std::string name;
  ConstTensorView tensor;
};
// The header as JSON padded with spaces to a multiple of 8; tensors in the order given.
std::string make_safetensors(const std::vector<NamedTensor>& tensors);

}  // namespace forebay::test
