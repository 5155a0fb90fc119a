// Kernels whose calls for neighbouring slabs may share one launch, because how rows are shared among launches changes no bit of them.
#pragma once

#include <span>

#include "runtime/op.h"

namespace forebay {

inline constexpr std::size_t kMostMerged = 64;

class MergedKernel : public Kernel {
 public:
  // After prepare: whether the calls of this node may be merged at all.
  virtual bool merges() const = 0;
  // As run() of each call in order; at most kMostMerged calls of slabs that follow each other.
  virtual Status run_merged(std::span<const KernelCall> calls) = 0;
};

}  // namespace forebay
