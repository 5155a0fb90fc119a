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

// Kernels that may do the work of the launch behind theirs in the same launch. Whoever asks has made sure that neither touches what the other writes.
class PairedKernel {
 public:
  virtual ~PairedKernel() = default;
  // False: they do not fit together, and nothing was done.
  virtual Result<bool> run_pair(std::span<const KernelCall> calls, Kernel& other, std::span<const KernelCall> others) = 0;
};

}  // namespace forebay
