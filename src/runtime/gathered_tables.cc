#include "runtime/gathered_tables.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/checked.h"

namespace forebay {

GatheredTables::GatheredTables(const CompiledPlan& compiled) : plan_(*compiled.plan), tables_(plan_.weights.size()) {
  std::uint64_t used = 0;
  for (std::size_t w = 0; w < tables_.size(); ++w) {
    if (!compiled.gathered[w]) continue;
    tables_[w].offset = used;
    tables_[w].bytes = plan_.weights[w].bytes;
    used += align_up(tables_[w].bytes, std::uint64_t{64});
  }
}

void GatheredTables::place(std::byte* base, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  base_ = base;
  placed_bytes_ = bytes;
  for (Table& table : tables_) table.filled = table.asked = 0;
}

const std::byte* GatheredTables::find(plan::WeightId weight, const plan::Generation& generation) const {
  const std::lock_guard lock(mutex_);
  const Table& table = tables_[weight];
  return table.filled != 0 && table.filled == generation.number ? base_ + table.offset : nullptr;
}

bool GatheredTables::asks(plan::WeightId weight, const plan::Generation& generation, std::uint64_t bytes) {
  constexpr std::uint64_t kWorth = 8;
  const std::lock_guard lock(mutex_);
  Table& table = tables_[weight];
  if (table.counted != generation.number) table.asked = 0;
  table.counted = generation.number;
  table.asked += bytes;
  const bool placed = table.bytes <= placed_bytes_ && table.offset <= placed_bytes_ - table.bytes;
  const bool there = table.filled == generation.number;
  if (!placed || table.filling || there || generation.number == 0 || table.asked < table.bytes / kWorth) return false;
  table.filling = true;
  return true;
}

Status GatheredTables::fill(plan::WeightId weight, PassLease& lease, Device& device) {
  constexpr std::uint64_t kAtOnce = 1 << 20;
  Table& table = tables_[weight];
  const std::int64_t rows = plan_.weights[weight].shape[0];
  const std::uint64_t row_bytes = table.bytes / static_cast<std::uint64_t>(std::max<std::int64_t>(1, rows));
  const auto at_once = static_cast<std::int64_t>(std::max<std::uint64_t>(1, kAtOnce / std::max<std::uint64_t>(1, row_bytes)));
  std::vector<std::byte> staging(static_cast<std::uint64_t>(at_once) * row_bytes);
  std::vector<std::int64_t> wanted(static_cast<std::size_t>(at_once));
  Status status;
  for (std::int64_t first = 0; first < rows && status.ok(); first += at_once) {
    const auto count = static_cast<std::size_t>(std::min(at_once, rows - first));
    std::iota(wanted.begin(), wanted.end(), first);
    status = lease.gather_rows(weight, std::span<const std::int64_t>(wanted).first(count), staging.data());
    if (status.ok()) {
      status = device.copy_now(base_ + table.offset + static_cast<std::uint64_t>(first) * row_bytes, staging.data(), count * row_bytes);
    }
  }
  const std::lock_guard lock(mutex_);
  table.filling = false;
  if (status.ok()) table.filled = lease.generation().number;
  return status;
}

}  // namespace forebay
