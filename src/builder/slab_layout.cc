#include "builder/slab_layout.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <string>

#include "base/checked.h"
#include "plan/plan_format.h"

namespace forebay::builder {
namespace {

// Kernels take rows in blocks of this many; large products take steps of so many rows, or tiles.
constexpr std::uint64_t kRowBlock = 16, kRowStep = 64, kRowTile = 256;

std::uint64_t rows_of(const Shape& shape) { return shape.rank() == 0 ? 1 : static_cast<std::uint64_t>(shape[0]); }

std::uint64_t row_bits(const SlabWeight& weight) {
  const auto elements = static_cast<std::uint64_t>(weight.shape.elements()) / rows_of(weight.shape);
  return elements * static_cast<std::uint64_t>(dtype_bits(weight.dtype));
}

class Layout {
 public:
  Layout(std::span<const SlabWeight> weights, std::uint64_t slab_bytes)
      : weights_(weights), slab_bytes_(slab_bytes) {}

  Status add(std::uint32_t index) {
    const SlabWeight& weight = weights_[index];
    const std::uint64_t rows = rows_of(weight.shape), bits = row_bits(weight);
    const std::uint64_t bytes = dtype_bytes(weight.dtype, weight.shape.elements()).value_or(0);
    out_.first_part.push_back(static_cast<std::uint32_t>(out_.parts.size()));
    if (bytes <= kSmallWeightBytes && bytes < slab_bytes_ / 2) {
      pack(index, weight.graph, rows, bytes);
      return {};
    }
    std::uint64_t step = slab_rows(weight, slab_bytes_);
    const bool follows = weight.follows != plan::kNone;
    if (follows)
      step = std::max<std::uint64_t>(1, slab_rows(weights_[weight.follows], slab_bytes_) * rows /
                                            rows_of(weights_[weight.follows].shape));
    for (std::uint64_t row = 0; row < rows; row += step) {
      plan::Part part;
      part.weight = index;
      part.row_begin = row;
      part.row_count = std::min(step, rows - row);
      part.offset_in_weight = row * bits / 8;
      const std::uint64_t end = row + part.row_count == rows ? bytes : (row + part.row_count) * bits / 8;
      part.bytes = end - part.offset_in_weight;
      if (part.bytes > plan::kMaxPlanChunkBytes)
        return Status(Code::unsupported, "it cannot be cut below " + std::to_string(part.bytes) +
                                             " bytes, and a plan holds chunks of at most " + std::to_string(plan::kMaxPlanChunkBytes));
      part.chunk = new_chunk(follows ? weight.follows : index, row / step);
      put(part);
    }
    return {};
  }

  SlabLayout finish() {
    order_chunks();
    out_.first_part.push_back(static_cast<std::uint32_t>(out_.parts.size()));
    for (std::size_t c = 0; c < members_.size(); ++c) {
      out_.chunks[c].first_part = static_cast<std::uint32_t>(out_.chunk_parts.size());
      out_.chunks[c].part_count = static_cast<std::uint32_t>(members_[c].size());
      out_.chunk_parts.insert(out_.chunk_parts.end(), members_[c].begin(), members_[c].end());
    }
    return std::move(out_);
  }

 private:
  std::uint32_t new_chunk(std::uint32_t weight, std::uint64_t slab) {
    out_.chunks.emplace_back();
    members_.emplace_back();
    places_.emplace_back(weight, slab);
    return static_cast<std::uint32_t>(out_.chunks.size() - 1);
  }

  void put(const plan::Part& part) {
    members_[part.chunk].push_back(static_cast<std::uint32_t>(out_.parts.size()));
    out_.chunks[part.chunk].raw_bytes = part.offset_in_chunk + part.bytes;
    out_.parts.push_back(part);
  }

  void pack(std::uint32_t index, std::uint32_t graph, std::uint64_t rows, std::uint64_t bytes) {
    plan::Part part;
    part.weight = index;
    part.row_count = rows;
    part.bytes = bytes;
    const auto open = open_.find(graph);
    if (open != open_.end()) part.offset_in_chunk = align_up(out_.chunks[open->second].raw_bytes, plan::kPartAlign);
    if (open == open_.end() || part.offset_in_chunk + bytes > slab_bytes_) {
      part.offset_in_chunk = 0;
      open_[graph] = new_chunk(index, 0);
    }
    part.chunk = open_[graph];
    put(part);
  }

  // A slab, then what is cut like it: the order of use.
  void order_chunks() {
    std::vector<std::uint32_t> order(places_.size()), number(places_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return places_[a] < places_[b]; });
    std::vector<plan::Chunk> chunks;
    std::vector<std::vector<std::uint32_t>> members;
    for (const std::uint32_t old : order) {
      number[old] = static_cast<std::uint32_t>(chunks.size());
      chunks.push_back(out_.chunks[old]);
      members.push_back(std::move(members_[old]));
    }
    for (plan::Part& part : out_.parts) part.chunk = number[part.chunk];
    out_.chunks = std::move(chunks);
    members_ = std::move(members);
  }

  std::span<const SlabWeight> weights_;
  std::uint64_t slab_bytes_;
  SlabLayout out_;
  std::vector<std::vector<std::uint32_t>> members_;  // parts of each chunk
  std::vector<std::pair<std::uint32_t, std::uint64_t>>
      places_;  // of each chunk: weight and slab that it is used with
  std::map<std::uint32_t, std::uint32_t> open_;      // graph to its unfilled chunk
};

}  // namespace

std::uint64_t auto_slab_bytes(std::uint64_t weight_bytes) {
  const std::uint64_t wanted = std::max<std::uint64_t>(1, weight_bytes / 256);
  const std::uint64_t low = std::bit_floor(wanted);
  const std::uint64_t nearest = wanted - low > low / 2 ? low * 2 : low;
  return std::clamp(nearest, kMinAutoSlabBytes, kMaxAutoSlabBytes);
}

std::uint64_t slab_rows(const SlabWeight& weight, std::uint64_t slab_bytes) {
  const std::uint64_t rows = rows_of(weight.shape), bits = row_bits(weight);
  if (!weight.cut || rows <= 1 || bits == 0) return std::max<std::uint64_t>(1, rows);
  const std::uint64_t fitting = std::max<std::uint64_t>(1, slab_bytes * 8 / bits);
  if (fitting >= rows) return rows;
  // Sub-byte rows may end within a byte: slabs then hold a multiple of as many rows as make whole bytes.
  std::uint64_t unit = 8 / std::gcd<std::uint64_t>(8, bits % 8 == 0 ? 8 : bits % 8);
  if (fitting >= kRowBlock) unit = kRowBlock;
  unit = std::lcm(unit, weight.unit);
  if (const std::uint64_t steps = std::lcm(unit, kRowStep); fitting >= std::max(2 * kRowStep, steps)) unit = steps;
  const std::uint64_t most = std::max(unit, fitting / unit * unit);
  // As many slabs as needed, of about one size: a short last slab would leave room in the ring unused.
  const std::uint64_t count = (rows + most - 1) / most;
  const std::uint64_t even = std::min(((rows + count - 1) / count + unit - 1) / unit * unit, most);
  // Products of many rows take a tile of a slab at once where none lies across two slabs: worth some slabs more.
  const std::uint64_t tile = std::lcm(unit, kRowTile), tiled = even / tile * tile;
  return tiled > 0 && (rows + tiled - 1) / tiled <= count + count / 8 ? tiled : even;
}

Result<SlabLayout> lay_out_slabs(std::span<const SlabWeight> weights, std::uint64_t slab_bytes) {
  Layout layout(weights, slab_bytes);
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    Status added = layout.add(i);
    if (!added.ok()) return std::move(added).with_context("weight " + std::to_string(i) + " " + weights[i].shape.to_string());
  }
  return layout.finish();
}

}  // namespace forebay::builder
