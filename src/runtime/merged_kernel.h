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

// Kernels that may do the work of launches behind theirs in the same launch. Whoever asks has made sure that none touches what another
// writes.
class GroupedKernel {
 public:
  struct Member {
    Kernel* kernel = nullptr;
    std::span<const KernelCall> calls;
  };
  static constexpr std::size_t kMost = 4;
  virtual ~GroupedKernel() = default;
  // Whether a call touches the workspace it is given: then nothing shares its launch.
  virtual bool uses_workspace(std::span<const KernelCall> calls) const { return calls[0].workspace != nullptr; }
  // The first member is this kernel itself. How many of them, from the first on, were launched as one; 0: nothing was done.
  virtual Result<std::size_t> run_group(std::span<const Member> members) = 0;
  // As run_group, of one member too, and with it the launch just before them, which they read: null where there is none; where there is, it
  // is done too, or nothing is. The one just behind, which reads them, may be: null where there is none. Nothing is done without either.
  struct Done {
    std::size_t members = 0;
    bool behind = false;
  };
  virtual Result<Done> run_between(const Member* before, std::span<const Member> members, const Member* behind) {
    static_cast<void>(before), static_cast<void>(members), static_cast<void>(behind);
    return Done{};
  }
};

// Kernels that may do the work of launches ahead of theirs, whose results they read, in their own. Whoever asks has made sure that none of
// these writes what an earlier one reads or writes.
class GatheringKernel {
 public:
  static constexpr std::size_t kMost = 4;  // launches ahead
  virtual ~GatheringKernel() = default;
  // False: nothing was done.
  virtual Result<bool> run_with(std::span<const GroupedKernel::Member> ahead, const KernelCall& own) = 0;
};

// Kernels that may read a weight ahead of what they wait for, because no kernel writes it.
class WeightReader {
 public:
  virtual ~WeightReader() = default;
  virtual void reads_weight(std::size_t input) = 0;  // after prepare
};

}  // namespace forebay
