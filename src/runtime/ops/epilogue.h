// The activation that a product or convolution applies to its finished f32 sums: attributes
// `activation`, `activation_alpha` and `activation_beta` of forebay.Linear and forebay.Conv.
#pragma once

#include <string>

#include "runtime/op.h"
#include "runtime/ops/vector_loops.h"

namespace forebay::ops {

struct Epilogue {
  LoopFn loop = nullptr;  // null: none
  LoopParams params;
  void apply(float* values, std::int64_t count) const {
    if (loop != nullptr) loop(values, nullptr, values, count, params);
  }
};

// Refuses names that are not served.
Result<Epilogue> epilogue_of(const NodeView& node, const std::string& attribute = "activation");

}  // namespace forebay::ops
