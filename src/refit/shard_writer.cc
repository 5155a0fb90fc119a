#include "refit/shard_writer.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <new>
#include <optional>

#include "base/check.h"
#include "base/checked.h"
#include "codec/chunk_codec.h"
#include "codec/shard_format.h"
#include "plan/binding.h"
#include "refit/shard_reader.h"

namespace forebay::refit {
namespace {

std::string shard_name(std::uint32_t set, std::uint32_t sequence) {
  std::string number = std::to_string(sequence + 1);
  if (number.size() < 5) number.insert(0, 5 - number.size(), '0');
  return std::string(codec::kShardPrefix) + (set == 1 ? "" : "s" + std::to_string(set) + "-") + number + codec::kShardSuffix;
}

// The set number of a name that shard_name makes; 0 for any other name, so that no foreign file is ever removed.
std::uint32_t set_of(std::string_view name) {
  const std::string_view prefix = codec::kShardPrefix, suffix = codec::kShardSuffix;
  if (name.size() > codec::kMaxShardNameBytes || !name.starts_with(prefix) || !name.ends_with(suffix)) return 0;
  std::string_view rest = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
  std::uint32_t set = 1, sequence = 0;
  if (rest.starts_with('s')) {
    const auto [end, error] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), set);
    if (error != std::errc() || end == rest.data() + rest.size() || *end != '-') return 0;
    rest.remove_prefix(static_cast<std::size_t>(end + 1 - rest.data()));
  }
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), sequence);
  if (error != std::errc() || end != rest.data() + rest.size() || sequence == 0 || set == 0) return 0;
  return shard_name(set, sequence - 1) == name ? set : 0;
}

// Digests of a weight's 64 KiB groups as its bytes go by, as long as they lie in one piece in one file.
struct RowGroups {
  std::uint64_t seen = 0;    // bytes of the weight so far
  std::uint64_t filled = 0;  // bytes in the open group
  std::uint32_t file = 0;
  std::uint64_t file_end = 0;  // where the next part must start
  bool broken = false;
  std::optional<Xxh128Stream> stream;
  std::vector<Xxh128> digests;

  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min<std::uint64_t>(bytes.size(), plan::RowBinding::kGroupBytes - filled));
      if (!stream) stream.emplace();
      stream->update(piece);
      filled += piece.size();
      bytes = bytes.subspan(piece.size());
      if (filled == plan::RowBinding::kGroupBytes) close();
    }
  }
  void close() {
    digests.push_back(stream->finish());
    stream.reset();
    filled = 0;
  }
};

template <typename Record>
void put(std::vector<std::byte>& out, const Record& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

codec::ChunkRecord chunk_record(const ShardChunk& chunk) {
  codec::ChunkRecord record{};
  record.file = chunk.file;
  record.codec = chunk.codec;
  record.codec_version = chunk.codec_version;
  record.offset = chunk.offset;
  record.stored_bytes = chunk.stored_bytes;
  record.raw_bytes = chunk.raw_bytes;
  record.stored_low = chunk.stored_digest.low;
  record.stored_high = chunk.stored_digest.high;
  record.raw_low = chunk.raw_digest.low;
  record.raw_high = chunk.raw_digest.high;
  return record;
}

std::vector<std::byte> index_bytes(const ShardIndex& index) {
  codec::IndexHeader header{};
  header.magic = codec::kIndexMagic;
  header.endian = codec::kEndianMark;
  header.major = header.min_reader_major = codec::kShardMajor;
  header.minor = header.min_reader_minor = codec::kShardMinor;
  header.plan_id = index.plan_id;
  header.weight_set_id = index.weight_set_id;
  header.file_count = static_cast<std::uint32_t>(index.files.size());
  header.chunk_count = static_cast<std::uint32_t>(index.chunks.size());
  header.part_count = static_cast<std::uint32_t>(index.parts.size());
  header.weight_count = static_cast<std::uint32_t>(index.weights.size());
  header.group_bytes = plan::RowBinding::kGroupBytes;
  std::vector<std::byte> out, groups, strings;
  put(out, header);
  for (const ShardIndex::File& file : index.files) {
    codec::FileRecord record{};
    std::memcpy(record.name.data(), file.name.data(), file.name.size());
    record.file_bytes = file.bytes;
    record.first_chunk = file.first_chunk;
    record.chunk_count = file.chunk_count;
    record.records_sha256 = file.records_sha256;
    put(out, record);
  }
  for (const ShardChunk& chunk : index.chunks) put(out, chunk_record(chunk));
  for (const ShardPart& part : index.parts) {
    put(out, codec::PartRecord{part.weight, part.chunk, part.row_begin, part.row_count, part.offset_in_weight, part.offset_in_chunk,
                               part.bytes});
  }
  for (const ShardWeight& weight : index.weights) {
    codec::WeightRecord record{};
    record.name_offset = strings.size();
    record.name_bytes = static_cast<std::uint32_t>(weight.name.size());
    record.dtype = static_cast<std::uint8_t>(weight.dtype);
    record.rank = static_cast<std::uint8_t>(weight.shape.rank());
    std::copy(weight.shape.dims().begin(), weight.shape.dims().end(), record.dims.begin());
    record.bytes = weight.bytes;
    record.first_part = weight.first_part;
    record.part_count = weight.part_count;
    record.first_group = groups.size() / sizeof(codec::GroupRecord);
    record.group_count = static_cast<std::uint32_t>(weight.group_digests.size());
    for (const Xxh128& digest : weight.group_digests) put(groups, codec::GroupRecord{digest.low, digest.high});
    const auto name = std::as_bytes(std::span(weight.name));
    strings.insert(strings.end(), name.begin(), name.end());
    put(out, record);
  }
  header.group_count = groups.size() / sizeof(codec::GroupRecord);
  header.string_bytes = strings.size();
  out.insert(out.end(), groups.begin(), groups.end());
  out.insert(out.end(), strings.begin(), strings.end());
  header.index_bytes = out.size() + sizeof(Sha256);
  std::memcpy(out.data(), &header, sizeof(header));
  put(out, sha256(out));
  return out;
}

class Writer final : public ShardWriter {
 public:
  Writer(FileSystem& fs, std::string folder, const plan::Plan& plan, const ShardWriterOptions& options)
      : fs_(fs), folder_(std::move(folder)), plan_(plan), options_(options) {}
  ~Writer() override {
    open_.clear();  // removes the temporaries
    if (keep_) return;
    try {
      for (const std::string& name : committed_) static_cast<void>(fs_.remove(join_path(folder_, name)));
    } catch (const std::bad_alloc&) {  // what stays belongs to no set: the next pack into the folder removes it
    }
  }

  Status prepare();
  Status append(std::span<const std::byte> stored, std::uint8_t codec, std::uint8_t codec_version, const Xxh128& raw_digest) override;
  Status commit() override;
  const std::vector<std::string>& files() const override { return names_; }
  const Sha256& weight_set_id() const override { return index_.weight_set_id; }
  std::uint64_t bytes() const override { return bytes_; }

 private:
  Status clean_strays();
  Status open_shard();
  void add_row_groups(plan::ChunkId id, std::span<const std::byte> raw, bool is_raw, const ShardChunk& chunk);
  void take_row_groups();
  Status finish_shards();
  Status commit_index(const std::vector<std::byte>& bytes);
  Status remove_older();

  FileSystem& fs_;
  std::string folder_;
  const plan::Plan& plan_;
  ShardWriterOptions options_;
  std::uint32_t set_ = 1;
  std::uint32_t next_ = 0;  // chunk
  ShardIndex index_;
  std::vector<std::unique_ptr<DurableFile>> open_;  // all shards stay open: their headers name the weight set, known at the end
  std::map<plan::WeightId, RowGroups> groups_;
  std::vector<std::string> committed_, names_;
  std::uint64_t bytes_ = 0;
  bool keep_ = false, done_ = false;
};

// Files that only a killed writer can have left. With an index that cannot be read nobody knows what is stray: everything stays.
Status Writer::clean_strays() {
  FB_ASSIGN(const auto names, fs_.list(folder_));
  std::vector<std::string> kept;
  bool sure = std::find(names.begin(), names.end(), codec::kIndexName) == names.end();
  if (!sure) {
    auto old = read_shard_index(fs_, folder_);
    sure = old.ok();
    if (sure) {
      for (const ShardIndex::File& file : old->files) kept.push_back(file.name);
    }
  }
  std::vector<std::uint32_t> sets;
  for (const std::string& name : names) {
    if (set_of(name) != 0) {
      if (sure && std::find(kept.begin(), kept.end(), name) == kept.end()) {
        FB_TRY(fs_.remove(join_path(folder_, name)));
      } else {
        sets.push_back(set_of(name));
      }
      continue;
    }
    // ".forebay-00001.shard.PID-N.tmp": a new DurableFile of that name removes it if its writer is dead.
    const std::size_t end = name.find(codec::kShardSuffix);
    if (!name.starts_with('.') || !name.ends_with(".tmp") || end == std::string::npos) continue;
    const std::string base = name.substr(1, end + std::strlen(codec::kShardSuffix) - 1);
    if (set_of(base) != 0) FB_TRY(DurableFile::create(fs_, join_path(folder_, base), 0).status());
  }
  while (std::find(sets.begin(), sets.end(), set_) != sets.end()) ++set_;
  return {};
}

Status Writer::prepare() {
  if (plan_.chunks.size() > codec::kMaxShardChunks || plan_.parts.size() > codec::kMaxShardParts ||
      plan_.weights.size() > codec::kMaxShardWeights) {
    return Status(Code::resource_exhausted, "the plan has more chunks, slabs or weights than a shard index can hold");
  }
  if (plan_.id == Sha256{}) return Status(Code::failed_precondition, "the plan has no id yet: it was neither written nor read");
  if (options_.max_shard_bytes == 0) return Status(Code::invalid_argument, "the size limit of a shard is 0");
  FB_TRY(fs_.make_folder(folder_));
  FB_TRY(clean_strays());
  index_.plan_id = plan_.id;
  for (const plan::Part& part : plan_.parts) {
    index_.parts.push_back(
        {part.weight, part.chunk, part.row_begin, part.row_count, part.offset_in_weight, part.offset_in_chunk, part.bytes});
  }
  for (const plan::Weight& weight : plan_.weights) {
    index_.weights.push_back({weight.name, weight.dtype, weight.shape, weight.bytes, weight.first_part, weight.part_count, {}});
  }
  index_.chunks.reserve(plan_.chunks.size());
  return {};
}

Status Writer::open_shard() {
  const auto sequence = static_cast<std::uint32_t>(open_.size());
  if (sequence == codec::kMaxShardFiles)
    return Status(Code::resource_exhausted, "more than " + std::to_string(sequence) + " shards; allow larger ones");
  const std::string name = shard_name(set_, sequence);
  const std::uint64_t expected = sequence == 0 ? options_.expected_bytes : 0;
  FB_ASSIGN(auto file, DurableFile::create(fs_, join_path(folder_, name), expected));
  open_.push_back(std::move(file));
  index_.files.push_back({name, 0, next_, 0, {}});
  const std::array<std::byte, kBlockBytes> header{};  // its place; it is written last
  return open_.back()->append(header);
}

void Writer::add_row_groups(plan::ChunkId id, std::span<const std::byte> raw, bool is_raw, const ShardChunk& chunk) {
  const plan::Chunk& layout = plan_.chunks[id];
  for (std::uint32_t i = layout.first_part; i < layout.first_part + layout.part_count; ++i) {
    const plan::Part& part = plan_.parts[plan_.chunk_parts[i]];
    if (!plan_.weights[part.weight].gather_only) continue;
    RowGroups& groups = groups_[part.weight];
    const std::uint64_t begin = chunk.offset + part.offset_in_chunk;
    if (!is_raw || part.offset_in_weight != groups.seen || (groups.seen != 0 && (groups.file != chunk.file || groups.file_end != begin))) {
      groups.broken = true;
    }
    if (groups.broken) continue;
    groups.add(raw.subspan(part.offset_in_chunk, part.bytes));
    groups.seen += part.bytes;
    groups.file = chunk.file;
    groups.file_end = begin + part.bytes;
  }
}

Status Writer::append(std::span<const std::byte> stored, std::uint8_t codec, std::uint8_t codec_version, const Xxh128& raw_digest) {
  if (done_ || next_ == plan_.chunks.size()) {
    return Status(Code::failed_precondition, "all " + std::to_string(next_) + " chunks have been written");
  }
  const std::uint64_t raw_bytes = plan_.chunks[next_].raw_bytes;
  const bool is_raw = codec == codec::kRaw;
  if (!codec::codec_known(codec, codec_version) || stored.size() > codec::kMaxChunkBytes || (is_raw && stored.size() != raw_bytes)) {
    return Status(Code::invalid_argument, "chunk " + std::to_string(next_) + " of " + std::to_string(raw_bytes) +
                                              " bytes cannot be stored as " + codec::codec_name(codec) + " in " +
                                              std::to_string(stored.size()));
  }
  const bool full = !open_.empty() && index_.files.back().chunk_count != 0 &&
                    align_up(open_.back()->size(), kBlockBytes) + align_up(stored.size(), kBlockBytes) + sizeof(codec::ShardFooter) >
                        options_.max_shard_bytes;
  if (open_.empty() || full) {
    if (full) FB_TRY(open_.back()->pad_to(kBlockBytes));
    FB_TRY(open_shard());
  }
  DurableFile& file = *open_.back();
  FB_TRY(file.pad_to(kBlockBytes));
  ShardChunk chunk{static_cast<std::uint32_t>(open_.size() - 1),
                   file.size(),
                   stored.size(),
                   raw_bytes,
                   codec,
                   codec_version,
                   xxh128(stored),
                   raw_digest};
  FB_TRY(file.append(stored));
  add_row_groups(next_, stored, is_raw, chunk);
  index_.chunks.push_back(chunk);
  ++index_.files.back().chunk_count;
  ++next_;
  return {};
}

void Writer::take_row_groups() {
  for (auto& [id, groups] : groups_) {
    if (groups.broken || groups.seen != plan_.weights[id].bytes) continue;
    if (groups.filled != 0) groups.close();
    index_.weights[id].group_digests = std::move(groups.digests);
  }
}

// Footers and headers; then each shard becomes durable under its name.
Status Writer::finish_shards() {
  for (std::uint32_t i = 0; i < open_.size(); ++i) {
    ShardIndex::File& entry = index_.files[i];
    DurableFile& file = *open_[i];
    FB_TRY(file.pad_to(kBlockBytes));
    entry.bytes = file.size() + sizeof(codec::ShardFooter);
    Sha256Stream records;
    for (std::uint32_t c = entry.first_chunk; c < entry.first_chunk + entry.chunk_count; ++c) {
      const codec::ChunkRecord record = chunk_record(index_.chunks[c]);
      records.update(std::as_bytes(std::span(&record, 1)));
    }
    entry.records_sha256 = records.finish();
    codec::ShardFooter footer{};
    footer.magic = codec::kShardEndMagic;
    footer.file_bytes = entry.bytes;
    footer.sequence = i;
    footer.chunk_count = entry.chunk_count;
    footer.weight_set_id = index_.weight_set_id;
    FB_TRY(file.append(std::as_bytes(std::span(&footer, 1))));
    const codec::ShardHeader header = shard_header(index_, i);
    FB_TRY(file.write_at(0, std::as_bytes(std::span(&header, 1))));
  }
  for (std::uint32_t i = 0; i < open_.size(); ++i) {
    committed_.push_back(index_.files[i].name);
    FB_TRY(open_[i]->commit());
    bytes_ += index_.files[i].bytes;
  }
  open_.clear();
  return {};
}

Status Writer::commit_index(const std::vector<std::byte>& bytes) {
  FB_ASSIGN(const auto file, DurableFile::create(fs_, join_path(folder_, codec::kIndexName), bytes.size()));
  FB_TRY(file->append(bytes));
  Status status = file->commit();
  if (status.ok()) {
    keep_ = true;
    return status;
  }
  // The rename may have happened, with only its durability in doubt: then the new shards must stay, whatever is reported.
  const auto now = read_shard_index(fs_, folder_);
  if (!now.ok() && now.status().code() != Code::not_found) keep_ = true;
  if (now.ok() && !now->files.empty() && !index_.files.empty() && now->files[0].name == index_.files[0].name) keep_ = true;
  return status;
}

Status Writer::remove_older() {
  FB_ASSIGN(const auto names, fs_.list(folder_));
  bool removed = false;
  for (const std::string& name : names) {
    if (set_of(name) == 0 || std::find(committed_.begin(), committed_.end(), name) != committed_.end()) continue;
    FB_TRY(fs_.remove(join_path(folder_, name)));
    removed = true;
  }
  return removed ? fs_.sync_folder(folder_) : Status();
}

Status Writer::commit() {
  if (done_ || next_ != plan_.chunks.size()) {
    return Status(Code::failed_precondition,
                  std::to_string(next_) + " of " + std::to_string(plan_.chunks.size()) + " chunks have been written");
  }
  done_ = true;
  take_row_groups();
  index_.weight_set_id = shard_weight_set_id(index_);
  FB_TRY(finish_shards());
  const auto bytes = index_bytes(index_);
  // The reader's own checks: nothing is published that cannot be read back.
  if (auto parsed = parse_shard_index(bytes, codec::kIndexName); !parsed.ok()) {
    return Status(Code::internal, "the index just made is not valid: " + parsed.status().message());
  }
  FB_TRY(commit_index(bytes));
  bytes_ += bytes.size();
  names_ = committed_;
  names_.push_back(codec::kIndexName);
  // The new set is in place; older shards that cannot be removed now are strays for the next writer.
  static_cast<void>(remove_older());
  return {};
}

}  // namespace

Result<std::unique_ptr<ShardWriter>> ShardWriter::create(FileSystem& fs, const std::string& folder, const plan::Plan& plan,
                                                         const ShardWriterOptions& options) {
  auto writer = std::make_unique<Writer>(fs, folder, plan, options);
  FB_TRY(writer->prepare());
  return std::unique_ptr<ShardWriter>(std::move(writer));
}

}  // namespace forebay::refit
