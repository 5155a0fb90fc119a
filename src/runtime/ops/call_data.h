// What a call gives as data: null where an optional input or output is not there.
#pragma once

#include "runtime/op.h"

namespace forebay::ops {

template <typename T = float>
const T* in(const KernelCall& call, std::size_t i) {
  return i < call.inputs.size() && call.inputs[i].present() ? reinterpret_cast<const T*>(call.inputs[i].data) : nullptr;
}
template <typename T = float>
T* out(const KernelCall& call, std::size_t i) {
  return i < call.outputs.size() && call.outputs[i].present() ? reinterpret_cast<T*>(call.outputs[i].data) : nullptr;
}

}  // namespace forebay::ops
