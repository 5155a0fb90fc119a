// What kernels on quantised integers share: the scales and zero points as launches take them.
#pragma once

#include "runtime/cuda/integer_task.h"
#include "runtime/cuda/kernel_base.h"

namespace forebay::cuda {

inline constexpr std::size_t kAbsent = 99;  // the place of an input that an operator does not have

inline Parameter parameter_of(const KernelCall& call, std::size_t i) {
  const bool given = i < call.inputs.size() && call.inputs[i].present();
  return given ? Parameter{call.inputs[i].data, call.inputs[i].dtype, call.inputs[i].shape.elements() > 1} : Parameter();
}

}  // namespace forebay::cuda
