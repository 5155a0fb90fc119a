// Runs recipes: any byte range of any weight from the resolved source tensors. Identity recipes read just the range; casts,
// reshapes and one leading transpose are made range by range; everything else is computed whole (the caller keeps it while it is
// wanted). One thread; the pool serves the kernels.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "plan/plan_data.h"
#include "refit/source_check.h"
#include "refit/value_scan.h"
#include "runtime/thread_pool.h"

namespace forebay::refit {

class RecipeRunner {
 public:
  // `sources` are resolved, and those of weights fit. `plan` and `pool` outlive the runner.
  RecipeRunner(const plan::Plan& plan, std::vector<ResolvedSource> sources, ThreadPool& pool);

  enum class Way : std::uint8_t { direct, sliced, whole };
  Way way(plan::WeightId weight) const { return slicers_[weight].way; }
  // The source of a direct weight.
  const ResolvedSource& source(plan::WeightId weight) const { return sources_[plan_->weights[weight].recipe.sources[0]]; }

  // Bytes [offset, offset + out.size()) of a direct or sliced weight.
  Status read(plan::WeightId weight, std::uint64_t offset, std::span<std::byte> out);
  Result<HostTensor> evaluate(plan::WeightId weight);
  std::uint64_t bytes_read() const { return bytes_read_; }
  // Casts that overflowed or flushed, of weights that `allowed` does not name (the weight, or a tensor it is made from).
  std::vector<Problem> losses(const std::vector<std::string>& allowed) const;

 private:
  struct Slicer {
    Way way = Way::whole;
    bool transpose = false;
    std::vector<std::uint32_t> casts;  // indices of the recipe's nodes
  };
  struct Loss {
    CastLoss total;
    std::string target;  // dtype name of the cast that lost first
  };
  Slicer slicer_of(const plan::Weight& weight) const;
  bool sliceable_chain(const plan::Weight& weight, Slicer& slicer) const;
  Status read_cast(plan::WeightId weight, const Slicer& slicer, std::uint64_t offset, std::span<std::byte> out);
  Result<HostTensor> run_cast(plan::WeightId weight, const plan::RecipeNode& node, const HostTensor& input, std::uint64_t first_element);
  Result<std::vector<HostTensor>> run_node(const plan::Weight& weight, const plan::RecipeNode& node,
                                           std::span<const HostTensor* const> inputs);
  void note_loss(plan::WeightId weight, const HostTensor& from, const HostTensor& to, std::uint64_t first_element);

  const plan::Plan* plan_;
  std::vector<ResolvedSource> sources_;
  ThreadPool* pool_;
  std::vector<Slicer> slicers_;
  std::map<plan::WeightId, Loss> losses_;
  std::uint64_t bytes_read_ = 0;
};

}  // namespace forebay::refit
