#include "stream/row_reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "stream/io_engine.h"

namespace forebay::stream {
namespace {
constexpr std::uint64_t kGroup = plan::RowBinding::kGroupBytes;
constexpr std::size_t kFew = 4;                    // groups for which an engine of their own costs more than it gains
constexpr std::uint32_t kGroupsAtOnce = 64;        // 4 MiB in flight
constexpr std::uint64_t kSharedBytes = 256 << 10;  // worth waking others for
constexpr unsigned kMostCopiers = 8;
}  // namespace

Status RowReader::gather(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to) {
  const plan::Plan& plan = bound_->plan();
  if (weight >= plan.weights.size()) return Status(Code::invalid_argument, "there is no weight " + std::to_string(weight));
  const plan::Weight& w = plan.weights[weight];
  const std::int64_t count = w.shape.rank() == 0 ? 1 : w.shape[0];
  const std::uint64_t row_bytes = count == 0 ? 0 : w.bytes / static_cast<std::uint64_t>(count);
  for (const std::int64_t row : rows) {
    if (row >= 0 && row < count) continue;
    return Status(Code::invalid_argument, "row " + std::to_string(row) + " is outside of the " + std::to_string(count) + " rows")
        .with_tensor(w.name);
  }
  std::lock_guard lock(mutex_);
  found_.clear();
  found_bytes_ = 0;
  std::size_t there = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i == there) {
      FB_ASSIGN(const std::size_t more, load_together(weight, rows.subspan(i), row_bytes));
      there += more;
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

RowReader::Group& RowReader::place_of(plan::WeightId weight, std::uint64_t group) {
  const Name name{weight, group};
  const auto found = places_.find(name);
  if (found != places_.end()) {
    groups_.splice(groups_.begin(), groups_, found->second);
    return groups_.front();
  }
  if (groups_.size() < kKeptGroups) {
    groups_.emplace_front();
  } else {
    groups_.splice(groups_.begin(), groups_, std::prev(groups_.end()));
    places_.erase(groups_.front().name);
  }
  Group& place = groups_.front();
  place.name = name;
  place.whole = false;
  places_.emplace(name, groups_.begin());
  return place;
}

Status RowReader::name_failure(plan::WeightId weight, std::uint64_t group, Status status) const {
  const plan::RowBinding& rows = bound_->generation()->binding.rows[weight];
  return std::move(status)
      .with_file(bound_->generation()->binding.files[rows.file].name)
      .with_tensor(bound_->plan().weights[weight].name)
      .with_offset(rows.offset + group * kGroup);
}

Result<std::size_t> RowReader::load_together(plan::WeightId weight, std::span<const std::int64_t> rows, std::uint64_t row_bytes) {
  const plan::Binding& binding = bound_->generation()->binding;
  if (weight >= binding.rows.size() || !binding.rows[weight].available || row_bytes == 0) return rows.size();
  copy_found();  // groups may lose their places
  ++call_;
  std::vector<std::uint64_t> wanted;
  std::size_t covered = 0;
  for (bool room = true; room && covered < rows.size(); covered += room ? 1 : 0) {
    const std::uint64_t begin = static_cast<std::uint64_t>(rows[covered]) * row_bytes;
    for (std::uint64_t group = begin / kGroup; room && group <= (begin + row_bytes - 1) / kGroup; ++group) {
      const bool full = groups_.size() == kKeptGroups && groups_.back().call == call_;  // all of them are wanted by this call
      if (full && !places_.contains({weight, group})) {
        room = false;
        continue;
      }
      Group& place = place_of(weight, group);
      if (std::exchange(place.call, call_) == call_ || place.whole) continue;
      wanted.push_back(group);
    }
  }
  if (wanted.size() >= kFew) FB_TRY(read_together(weight, wanted));
  return std::max<std::size_t>(covered, 1);
}

// What cannot be read here is left to load_group, which tries again and says what is wrong.
Status RowReader::read_together(plan::WeightId weight, std::span<const std::uint64_t> groups) {
  const plan::Weight& w = bound_->plan().weights[weight];
  const plan::RowBinding& rows = bound_->generation()->binding.rows[weight];
  const plan::BoundFile& file = bound_->generation()->binding.files[rows.file];
  std::string why;
  auto engine =
      create_io_engine(io_, std::min<std::uint32_t>(kGroupsAtOnce, static_cast<std::uint32_t>(groups.size())), null_logger(), &why);
  if (!engine.ok()) return {};
  Status status;
  std::array<ReadDone, 16> done;
  std::size_t next = 0;
  while (next < groups.size() || (*engine)->in_flight() > 0) {
    for (; next < groups.size() && (*engine)->in_flight() < (*engine)->capacity(); ++next) {
      const std::uint64_t begin = groups[next] * kGroup;
      std::vector<std::byte>& bytes = place_of(weight, groups[next]).bytes;
      bytes.reserve(kGroup);
      bytes.resize(std::min(kGroup, w.bytes - begin));
      ReadRequest request;
      request.file = request.buffered = file.buffered.get();
      request.offset = rows.offset + begin;
      request.to = bytes.data();
      request.bytes = request.needed = static_cast<std::uint32_t>(bytes.size());
      request.tag = groups[next];
      (*engine)->start(request);
    }
    const std::size_t count = (*engine)->collect(done, true);
    for (std::size_t i = 0; i < count; ++i) {
      Group& place = place_of(weight, done[i].tag);
      if (!status.ok() || !done[i].status.ok() || done[i].bytes < place.bytes.size()) continue;
      status = check_group(weight, done[i].tag, place.bytes);
      place.whole = status.ok();
      if (!status.ok()) status = name_failure(weight, done[i].tag, std::move(status));
    }
  }
  return status;
}

Result<std::span<const std::byte>> RowReader::load_group(plan::WeightId weight, std::uint64_t group) {
  Group& kept = place_of(weight, group);
  if (kept.whole) return std::span<const std::byte>(kept.bytes);
  const plan::Weight& w = bound_->plan().weights[weight];
  const plan::RowBinding& rows = bound_->generation()->binding.rows[weight];
  const plan::BoundFile& file = bound_->generation()->binding.files[rows.file];
  copy_found();
  const std::uint64_t begin = group * kGroup;
  kept.bytes.reserve(kGroup);
  kept.bytes.resize(std::min(kGroup, w.bytes - begin));
  Status read = file.buffered->read_exactly(rows.offset + begin, kept.bytes);
  if (read.ok()) read = check_group(weight, group, kept.bytes);
  if (!read.ok()) return name_failure(weight, group, std::move(read));
  kept.whole = true;
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
