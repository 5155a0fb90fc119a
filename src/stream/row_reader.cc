#include "stream/row_reader.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"

namespace forebay::stream {
namespace {
constexpr std::uint64_t kGroup = plan::RowBinding::kGroupBytes;
constexpr std::uint64_t kSharedBytes = 256 << 10;  // worth waking others for
constexpr unsigned kMostCopiers = 8;
}

Status RowReader::gather(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to) {
  const plan::Plan& plan = bound_->plan();
  if (weight >= plan.weights.size()) return Status(Code::invalid_argument, "there is no weight " + std::to_string(weight));
  const plan::Weight& w = plan.weights[weight];
  const std::int64_t count = w.shape.rank() == 0 ? 1 : w.shape[0];
  const std::uint64_t row_bytes = count == 0 ? 0 : w.bytes / static_cast<std::uint64_t>(count);
  std::lock_guard lock(mutex_);
  found_.clear();
  found_bytes_ = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0 || rows[i] >= count) {
      return Status(Code::invalid_argument, "row " + std::to_string(rows[i]) + " is outside of the " + std::to_string(count) + " rows")
          .with_tensor(w.name);
    }
    FB_TRY(copy_range(weight, static_cast<std::uint64_t>(rows[i]) * row_bytes, {to + i * row_bytes, static_cast<std::size_t>(row_bytes)}));
  }
  copy_found();
  gathered_.fetch_add(rows.size() * row_bytes, std::memory_order_relaxed);
  return {};
}

// Bytes [offset, offset + out.size()) of the weight in plan form.
Status RowReader::copy_range(plan::WeightId weight, std::uint64_t offset, std::span<std::byte> out) {
  const plan::Plan& plan = bound_->plan();
  const plan::Binding& binding = bound_->generation()->binding;
  const plan::Weight& w = plan.weights[weight];
  const bool grouped = weight < binding.rows.size() && binding.rows[weight].available;
  while (!out.empty()) {
    std::span<const std::byte> from;
    if (grouped) {
      const std::uint64_t group = offset / kGroup;
      FB_ASSIGN(from, load_group(weight, group));
      from = from.subspan(offset - group * kGroup);
    } else {
      const auto first = plan.parts.begin() + w.first_part;
      const auto it = std::upper_bound(first, first + w.part_count, offset,
                                       [](std::uint64_t at, const plan::Part& part) { return at < part.offset_in_weight; });
      if (it == first) return Status(Code::internal, "a weight without a part at its start").with_tensor(w.name);
      const plan::Part& part = *(it - 1);
      const std::uint64_t within = offset - part.offset_in_weight;
      if (within >= part.bytes) return Status(Code::internal, "the parts of a weight leave a gap").with_tensor(w.name);
      const plan::ChunkBinding& chunk = bound_->binding(part.chunk);
      if (chunk.where == plan::ChunkBinding::Where::host) {
        from = std::span<const std::byte>(*chunk.host).subspan(part.offset_in_chunk + within, part.bytes - within);
      } else {
        FB_TRY(load_chunk(part.chunk));
        from = std::span<const std::byte>(chunk_bytes_).subspan(part.offset_in_chunk + within, part.bytes - within);
      }
    }
    const std::size_t bytes = std::min(out.size(), from.size());
    found_.push_back({from.data(), out.data(), bytes});
    found_bytes_ += bytes;
    out = out.subspan(bytes);
    offset += bytes;
  }
  return {};
}

void RowReader::copy_found() {
  const auto copy = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Piece& piece = found_[static_cast<std::size_t>(i)];
      std::memcpy(piece.to, piece.from, piece.bytes);
    }
  };
  const auto count = static_cast<std::int64_t>(found_.size());
  const bool shared = found_bytes_ >= kSharedBytes;
  if (shared && copiers_ == nullptr)
    copiers_ = std::make_unique<ThreadPool>(static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, kMostCopiers)));
  shared ? copiers_->parallel_for(count, 16, copy) : copy(0, count);
  found_.clear();
  found_bytes_ = 0;
}

Result<std::span<const std::byte>> RowReader::load_group(plan::WeightId weight, std::uint64_t group) {
  if (groups_.empty()) groups_.resize(kKeptGroups);
  Group& kept = groups_[(group + weight * 769ull) % kKeptGroups];
  if (kept.weight == weight && kept.number == group) return std::span<const std::byte>(kept.bytes);
  const plan::Weight& w = bound_->plan().weights[weight];
  const plan::RowBinding& rows = bound_->generation()->binding.rows[weight];
  const plan::BoundFile& file = bound_->generation()->binding.files[rows.file];
  copy_found();
  kept.weight = plan::kNone;
  const std::uint64_t begin = group * kGroup;
  kept.bytes.reserve(kGroup);
  kept.bytes.resize(std::min(kGroup, w.bytes - begin));
  Status read = file.buffered->read_exactly(rows.offset + begin, kept.bytes);
  if (read.ok()) read = check_group(weight, group, kept.bytes);
  if (!read.ok()) return std::move(read).with_file(file.name).with_tensor(w.name).with_offset(rows.offset + begin);
  kept.weight = weight;
  kept.number = group;
  return std::span<const std::byte>(kept.bytes);
}

Status RowReader::check_group(plan::WeightId weight, std::uint64_t group, std::span<const std::byte> bytes) {
  const plan::RowBinding& rows = bound_->generation()->binding.rows[weight];
  const Xxh128 found = xxh128(bytes);
  if (!rows.group_digests.empty()) {
    if (group < rows.group_digests.size() && found == rows.group_digests[group]) return {};
    return Status(Code::corruption, "the rows read are not those of the index (digest " + to_hex(found) + ")");
  }
  FB_TRY(bound_->check_identity(rows.file));
  auto& records = recorded_[weight];
  if (records.size() <= group) records.resize((bound_->plan().weights[weight].bytes + kGroup - 1) / kGroup);
  auto& [known, digest] = records[group];
  if (known && !(digest == found)) return Status(Code::corruption, "the rows read differ from those read before: the file was changed");
  known = true;
  digest = found;
  return {};
}

Status RowReader::load_chunk(plan::ChunkId chunk) {
  if (chunk_ == chunk) return {};
  copy_found();
  chunk_ = plan::kNone;
  const plan::ChunkBinding& b = bound_->binding(chunk);
  const bool coded = b.codec != plan::Codec::raw;
  std::vector<std::byte>& stored = coded ? stored_bytes_ : chunk_bytes_;
  stored.resize(b.stored_bytes);
  Status read = bound_->generation()->binding.files[b.file].buffered->read_exactly(b.offset, stored);
  if (!read.ok()) return bound_->name_failure(chunk, std::move(read));
  FB_TRY(bound_->check_arrival(chunk, stored, xxh128(stored)));
  if (coded) {
    chunk_bytes_.resize(bound_->raw_bytes(chunk));
    Status decoded = codec_.decode(static_cast<std::uint8_t>(b.codec), b.codec_version, stored, chunk_bytes_);
    if (!decoded.ok()) return bound_->name_failure(chunk, std::move(decoded));
  }
  chunk_ = chunk;
  return {};
}

}  // namespace forebay::stream
