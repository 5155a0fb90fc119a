// Tables of which rows are gathered, on a device that the host does not address: where the budget holds everything they have a place in the
// arena, and are copied there once passes have asked for as much as an eighth of them. Until then, and wherever rows are few, they come
// from host memory. Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "forebay/status.h"
#include "runtime/compiled_plan.h"
#include "runtime/device.h"
#include "runtime/weight_source.h"

namespace forebay {

class GatheredTables {
 public:
  explicit GatheredTables(const CompiledPlan& compiled);
  // Where they lie from now on, as many as `bytes` hold; 0: nowhere. No pass runs.
  void place(std::byte* base, std::uint64_t bytes);
  // The table as this generation has it; null while it is not there.
  const std::byte* find(plan::WeightId weight, const plan::Generation& generation) const;
  // Counts rows that a pass is about to gather; true when the table is worth copying, and nobody does. Passes of two generations never run at
  // once, so nobody reads what is written over.
  bool asks(plan::WeightId weight, const plan::Generation& generation, std::uint64_t bytes);
  // For Queue::launch: copies the table, all of it at once.
  Status fill(plan::WeightId weight, PassLease& lease, Device& device);

 private:
  struct Table {
    std::uint64_t offset = 0, bytes = 0;
    std::uint64_t asked = 0;                // bytes of rows, of `counted`
    std::uint64_t counted = 0, filled = 0;  // generations, by number; 0: none
    bool filling = false;
  };
  const plan::Plan& plan_;
  mutable std::mutex mutex_;  // guards everything below
  std::byte* base_ = nullptr;
  std::uint64_t placed_bytes_ = 0;
  std::vector<Table> tables_;  // by weight; of 0 bytes where rows are not gathered
};

}  // namespace forebay
