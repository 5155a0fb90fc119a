// The index of a shard set, read from untrusted bytes. Invariants: SHA-256 before use; caps before allocation; every range checked with
// checked arithmetic; chunks lie one after the other in their files, without overlap, gap or repeat; the parts of each weight cover it in
// order; every reserved byte is zero. So each table has one spelling for one content.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <unordered_set>

#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"
#include "codec/chunk_codec.h"
#include "codec/shard_format.h"
#include "refit/shard_reader.h"

namespace forebay::refit {
namespace {

using codec::IndexHeader;

Status bad(std::string message, std::uint64_t offset) {
  return Status(Code::corruption, "shard index: " + std::move(message)).with_offset(offset).with_hint("pack the weights again");
}

template <typename T>
bool all_zero(const T& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == decltype(b){}; });
}

// Where each table starts; the digest is the end.
struct Layout {
  std::uint64_t files = 0, chunks = 0, parts = 0, weights = 0, groups = 0, strings = 0, digest = 0;
};

class IndexParser {
 public:
  explicit IndexParser(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<ShardIndex> parse();

 private:
  Status header();
  Status files();
  Status chunks();
  Status chunk(std::uint32_t id, std::uint32_t file, std::uint64_t& end);
  Status weights();
  Status weight(std::uint32_t id, std::uint64_t& part_cursor, std::uint64_t& group_cursor, std::uint64_t& string_cursor);
  Status parts_of(std::uint32_t id);
  Status groups_of(std::uint32_t id, const codec::WeightRecord& record, std::uint64_t& cursor);
  Status overlaps() const;

  template <typename T>
  T record(std::uint64_t table, std::uint64_t i) const {
    T out;
    std::memcpy(&out, bytes_.data() + table + i * sizeof(T), sizeof(T));
    return out;
  }
  std::string chunk_label(std::uint32_t id) const;
  std::string weight_label(std::uint32_t id) const { return "weight '" + printable(out_.weights[id].name) + "'"; }

  std::span<const std::byte> bytes_;
  IndexHeader header_{};
  Layout at_;
  ShardIndex out_;
};

Status IndexParser::header() {
  if (bytes_.size() > codec::kMaxIndexBytes) return bad(std::to_string(bytes_.size()) + " bytes are above the limit", 0);
  if (bytes_.size() >= 8 && std::memcmp(bytes_.data(), codec::kIndexMagic.data(), 8) != 0)
    return bad("this is none (the first bytes differ)", 0);
  if (bytes_.size() < sizeof(IndexHeader) + sizeof(Sha256)) {
    return bad("cut: it wants at least " + std::to_string(sizeof(IndexHeader) + sizeof(Sha256)) + " bytes, the file has " +
                   std::to_string(bytes_.size()),
               bytes_.size());
  }
  header_ = record<IndexHeader>(0, 0);
  if (header_.endian == codec::kSwappedEndianMark) return bad("it was written big-endian", offsetof(IndexHeader, endian));
  if (header_.endian != codec::kEndianMark) return bad("its endianness mark is damaged", offsetof(IndexHeader, endian));
  const auto newer = [&](const std::string& what) {
    return Status(Code::unsupported, "shard index: " + what).with_hint("use a newer forebay, or pack the weights again");
  };
  if (header_.min_reader_major > codec::kShardMajor ||
      (header_.min_reader_major == codec::kShardMajor && header_.min_reader_minor > codec::kShardMinor)) {
    return newer("format " + std::to_string(header_.major) + "." + std::to_string(header_.minor) + " needs a reader of format " +
                 std::to_string(header_.min_reader_major) + "." + std::to_string(header_.min_reader_minor) + "; this one reads " +
                 std::to_string(codec::kShardMajor) + "." + std::to_string(codec::kShardMinor));
  }
  if (header_.required_features != 0) return newer("it needs features that this build does not know");
  if (header_.index_bytes != bytes_.size()) {
    return bad("it states " + std::to_string(header_.index_bytes) + " bytes, the file has " + std::to_string(bytes_.size()), bytes_.size());
  }
  if (sha256(bytes_.first(bytes_.size() - sizeof(Sha256))) != record<Sha256>(bytes_.size() - sizeof(Sha256), 0)) {
    return bad("its digest does not match", bytes_.size() - sizeof(Sha256));
  }
  if (header_.reserved0 != 0 || !all_zero(header_.reserved1) || header_.signature_algorithm != 0 || header_.signature_bytes != 0 ||
      header_.signature_offset != 0 || header_.group_bytes != plan::RowBinding::kGroupBytes) {
    return bad("a reserved field of the header is set", offsetof(IndexHeader, group_bytes));
  }
  if (header_.file_count > codec::kMaxShardFiles || header_.chunk_count > codec::kMaxShardChunks ||
      header_.part_count > codec::kMaxShardParts || header_.weight_count > codec::kMaxShardWeights || header_.group_count > bytes_.size() ||
      header_.string_bytes > bytes_.size()) {
    return bad("a count is above its limit", offsetof(IndexHeader, file_count));
  }
  // Below the caps nothing here can wrap.
  at_.files = sizeof(IndexHeader);
  at_.chunks = at_.files + std::uint64_t{header_.file_count} * sizeof(codec::FileRecord);
  at_.parts = at_.chunks + std::uint64_t{header_.chunk_count} * sizeof(codec::ChunkRecord);
  at_.weights = at_.parts + std::uint64_t{header_.part_count} * sizeof(codec::PartRecord);
  at_.groups = at_.weights + std::uint64_t{header_.weight_count} * sizeof(codec::WeightRecord);
  at_.strings = at_.groups + header_.group_count * sizeof(codec::GroupRecord);
  at_.digest = at_.strings + header_.string_bytes;
  if (at_.digest + sizeof(Sha256) != bytes_.size()) {
    return bad("its tables take " + std::to_string(at_.digest + sizeof(Sha256)) + " bytes of " + std::to_string(bytes_.size()),
               offsetof(IndexHeader, file_count));
  }
  return {};
}

bool plain_file_name(std::string_view name) {
  const std::string_view suffix = codec::kShardSuffix;
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.'; };
  return name.starts_with(codec::kShardPrefix) && name.ends_with(suffix) && std::all_of(name.begin(), name.end(), plain);
}

Status IndexParser::files() {
  std::unordered_set<std::string> names;
  std::uint64_t chunk_cursor = 0;
  out_.files.reserve(header_.file_count);
  for (std::uint32_t i = 0; i < header_.file_count; ++i) {
    const std::uint64_t offset = at_.files + i * sizeof(codec::FileRecord);
    const auto from = record<codec::FileRecord>(at_.files, i);
    ShardIndex::File file;
    file.name.assign(from.name.data(), strnlen(from.name.data(), from.name.size()));
    if (!plain_file_name(file.name) || !all_zero(std::span(from.name).subspan(file.name.size())) || !all_zero(from.reserved)) {
      return bad("the name of shard " + std::to_string(i) + " is not one that is written", offset);
    }
    if (!names.insert(file.name).second) return bad("shard " + file.name + " is there twice", offset);
    if (from.first_chunk != chunk_cursor || from.chunk_count == 0 || from.chunk_count > header_.chunk_count - chunk_cursor) {
      return bad(
          "shard " + file.name + " names chunks " + std::to_string(from.first_chunk) + " and on, expected " + std::to_string(chunk_cursor),
          offset);
    }
    const std::uint64_t records = at_.chunks + chunk_cursor * sizeof(codec::ChunkRecord);
    if (sha256(bytes_.subspan(records, std::uint64_t{from.chunk_count} * sizeof(codec::ChunkRecord))) != from.records_sha256) {
      return bad("the digest of the chunk records of shard " + file.name + " does not match", offset);
    }
    file.bytes = from.file_bytes;
    file.first_chunk = from.first_chunk;
    file.chunk_count = from.chunk_count;
    file.records_sha256 = from.records_sha256;
    chunk_cursor += from.chunk_count;
    out_.files.push_back(std::move(file));
  }
  return chunk_cursor == header_.chunk_count ? Status() : bad("some chunks lie in no shard", at_.files);
}

// Names a chunk by the first weight in it. Weights are parsed before chunks, so that messages can name tensors.
std::string IndexParser::chunk_label(std::uint32_t id) const {
  for (const ShardPart& part : out_.parts) {
    if (part.chunk == id) return "chunk " + std::to_string(id) + " (" + weight_label(part.weight) + ")";
  }
  return "chunk " + std::to_string(id);
}

Status IndexParser::chunk(std::uint32_t id, std::uint32_t file, std::uint64_t& end) {
  const std::uint64_t offset = at_.chunks + id * sizeof(codec::ChunkRecord);
  const auto from = record<codec::ChunkRecord>(at_.chunks, id);
  if (from.flags != 0 || from.table_offset != 0 || !all_zero(from.reserved))
    return bad(chunk_label(id) + ": a reserved field is set", offset);
  if (from.file != file) {
    return bad(chunk_label(id) + " names shard " + std::to_string(from.file) + ", expected " + std::to_string(file), offset);
  }
  const std::uint64_t expected = align_up(end, kBlockBytes);
  if (from.offset != expected) {
    std::string what = chunk_label(id) + " lies at " + std::to_string(from.offset) + ", expected " + std::to_string(expected);
    if (id > out_.files[file].first_chunk) {
      what += from.offset == out_.chunks[id - 1].offset ? ": it repeats " : from.offset < expected ? ": it overlaps " : ": a gap after ";
      what += chunk_label(id - 1);
    }
    return bad(std::move(what), offset);
  }
  if (from.stored_bytes > codec::kMaxChunkBytes || from.raw_bytes > codec::kMaxChunkBytes)
    return bad(chunk_label(id) + ": a size is above the limit", offset);
  const auto next = checked_add(from.offset, from.stored_bytes);
  if (!next || *next > (std::uint64_t{1} << 62)) return bad(chunk_label(id) + " ends beyond any file", offset);
  if (!codec::codec_known(from.codec, from.codec_version)) {
    return Status(Code::unsupported, "shard index: " + chunk_label(id) + " has codec " + std::to_string(from.codec) + " (" +
                                         codec::codec_name(from.codec) + ") version " + std::to_string(from.codec_version) +
                                         ", which this build does not know")
        .with_offset(offset);
  }
  if (from.codec == codec::kRaw && from.stored_bytes != from.raw_bytes)
    return bad(chunk_label(id) + " is raw and its two sizes differ", offset);
  end = *next;
  out_.chunks[id] = {from.file,
                     from.offset,
                     from.stored_bytes,
                     from.raw_bytes,
                     from.codec,
                     from.codec_version,
                     {from.stored_low, from.stored_high},
                     {from.raw_low, from.raw_high}};
  return {};
}

Status IndexParser::chunks() {
  out_.chunks.resize(header_.chunk_count);
  for (std::uint32_t f = 0; f < out_.files.size(); ++f) {
    const ShardIndex::File& file = out_.files[f];
    std::uint64_t end = kBlockBytes;
    for (std::uint32_t id = file.first_chunk; id < file.first_chunk + file.chunk_count; ++id) FB_TRY(chunk(id, f, end));
    const std::uint64_t wanted = align_up(end, kBlockBytes) + sizeof(codec::ShardFooter);
    if (file.bytes != wanted) {
      return bad(
          "shard " + file.name + " is said to have " + std::to_string(file.bytes) + " bytes, its chunks want " + std::to_string(wanted),
          at_.files + f * sizeof(codec::FileRecord));
    }
  }
  return {};
}

Status IndexParser::parts_of(std::uint32_t id) {
  const ShardWeight& weight = out_.weights[id];
  const std::uint64_t rows = weight.shape.rank() == 0 ? 1 : static_cast<std::uint64_t>(weight.shape[0]);
  std::uint64_t row = 0, covered = 0;
  for (std::uint32_t p = weight.first_part; p < weight.first_part + weight.part_count; ++p) {
    const std::uint64_t offset = at_.parts + std::uint64_t{p} * sizeof(codec::PartRecord);
    const auto from = record<codec::PartRecord>(at_.parts, p);
    const std::string what = weight_label(id) + ", slab " + std::to_string(p - weight.first_part);
    if (from.weight != id) return bad(what + " belongs to weight " + std::to_string(from.weight), offset);
    if (from.chunk >= header_.chunk_count) return bad(what + " names chunk " + std::to_string(from.chunk), offset);
    if (from.row_begin != row || from.row_count > rows - row || from.offset_in_weight != covered || from.bytes > weight.bytes - covered) {
      return bad(what + " does not follow the one before (rows " + std::to_string(from.row_begin) + " and on, expected " +
                     std::to_string(row) + ")",
                 offset);
    }
    const std::uint64_t raw = record<codec::ChunkRecord>(at_.chunks, from.chunk).raw_bytes;
    if (from.offset_in_chunk % 64 != 0 || !range_within(from.offset_in_chunk, from.bytes, raw)) {
      return bad(what + " lies at " + std::to_string(from.offset_in_chunk) + " of a chunk of " + std::to_string(raw) + " bytes", offset);
    }
    row += from.row_count;
    covered += from.bytes;
    out_.parts[p] = {from.weight, from.chunk, from.row_begin, from.row_count, from.offset_in_weight, from.offset_in_chunk, from.bytes};
  }
  if (covered != weight.bytes || (row != rows && weight.bytes != 0)) {
    return bad(weight_label(id) + ": its slabs hold " + std::to_string(covered) + " of " + std::to_string(weight.bytes) + " bytes",
               at_.weights + id * sizeof(codec::WeightRecord));
  }
  return {};
}

Status IndexParser::groups_of(std::uint32_t id, const codec::WeightRecord& from, std::uint64_t& cursor) {
  ShardWeight& weight = out_.weights[id];
  const std::uint64_t offset = at_.weights + id * sizeof(codec::WeightRecord);
  constexpr std::uint64_t size = plan::RowBinding::kGroupBytes;
  const std::uint64_t whole = weight.bytes / size + (weight.bytes % size != 0 ? 1 : 0);
  const bool counted = from.group_count == 0 || (from.group_count == whole && from.group_count <= header_.group_count - cursor);
  if (!counted || from.first_group != cursor) return bad(weight_label(id) + ": its row groups do not fit", offset);
  weight.group_digests.reserve(from.group_count);
  for (std::uint64_t g = cursor; g < cursor + from.group_count; ++g) {
    const auto digest = record<codec::GroupRecord>(at_.groups, g);
    weight.group_digests.push_back({digest.low, digest.high});
  }
  cursor += from.group_count;
  return {};
}

Status IndexParser::weight(std::uint32_t id, std::uint64_t& part_cursor, std::uint64_t& group_cursor, std::uint64_t& string_cursor) {
  const std::uint64_t offset = at_.weights + id * sizeof(codec::WeightRecord);
  const auto from = record<codec::WeightRecord>(at_.weights, id);
  ShardWeight& weight = out_.weights[id];
  if (from.name_offset != string_cursor || from.name_bytes == 0 || from.name_bytes > header_.string_bytes - string_cursor) {
    return bad("the name of weight " + std::to_string(id) + " lies outside of the names", offset);
  }
  weight.name.assign(reinterpret_cast<const char*>(bytes_.data()) + at_.strings + string_cursor, from.name_bytes);
  string_cursor += from.name_bytes;
  if (from.flags != 0 || from.reserved != 0 || from.rank > kMaxRank || from.dtype == 0 || from.dtype >= kDTypeCount) {
    return bad(weight_label(id) + ": element type, rank or a reserved field is damaged", offset);
  }
  weight.dtype = static_cast<DType>(from.dtype);
  for (std::size_t axis = 0; axis < from.dims.size(); ++axis) {
    if (axis < from.rank) {
      weight.shape.push_back(from.dims[axis]);
    } else if (from.dims[axis] != 0) {
      return bad(weight_label(id) + ": a dimension beyond its rank is set", offset);
    }
  }
  const auto bytes = checked_bytes(weight.dtype, weight.shape.dims());
  if (!bytes || *bytes != from.bytes) {
    return bad(weight_label(id) + " states " + std::to_string(from.bytes) + " bytes, which is not the size of " +
                   std::string(dtype_name(weight.dtype)) + weight.shape.to_string(),
               offset);
  }
  weight.bytes = *bytes;
  if (from.first_part != part_cursor || from.part_count > header_.part_count - part_cursor) {
    return bad(weight_label(id) + " names slabs that are not its own", offset);
  }
  weight.first_part = from.first_part;
  weight.part_count = from.part_count;
  part_cursor += from.part_count;
  FB_TRY(parts_of(id));
  return groups_of(id, from, group_cursor);
}

Status IndexParser::weights() {
  out_.weights.resize(header_.weight_count);
  out_.parts.resize(header_.part_count);
  std::uint64_t part_cursor = 0, group_cursor = 0, string_cursor = 0;
  for (std::uint32_t id = 0; id < header_.weight_count; ++id) FB_TRY(weight(id, part_cursor, group_cursor, string_cursor));
  if (part_cursor != header_.part_count || group_cursor != header_.group_count || string_cursor != header_.string_bytes) {
    return bad("some slabs, row groups or name bytes belong to no weight", at_.weights);
  }
  std::unordered_set<std::string_view> names;
  for (std::uint32_t id = 0; id < header_.weight_count; ++id) {
    if (!names.insert(out_.weights[id].name).second) {
      return bad(weight_label(id) + " is there twice", at_.weights + id * sizeof(codec::WeightRecord));
    }
  }
  return {};
}

// Within a chunk; and that weights with row groups lie in one piece, uncoded, in one file.
Status IndexParser::overlaps() const {
  std::vector<std::uint32_t> order(out_.parts.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const ShardPart &x = out_.parts[a], &y = out_.parts[b];
    return std::tie(x.chunk, x.offset_in_chunk, x.bytes, a) < std::tie(y.chunk, y.offset_in_chunk, y.bytes, b);
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const ShardPart &before = out_.parts[order[i - 1]], &part = out_.parts[order[i]];
    if (before.chunk == part.chunk && before.offset_in_chunk + before.bytes > part.offset_in_chunk) {
      return bad(weight_label(before.weight) + " and " + weight_label(part.weight) + " overlap in chunk " + std::to_string(part.chunk),
                 at_.parts + std::uint64_t{order[i]} * sizeof(codec::PartRecord));
    }
  }
  for (std::uint32_t id = 0; id < out_.weights.size(); ++id) {
    const ShardWeight& weight = out_.weights[id];
    if (weight.group_digests.empty()) continue;
    const ShardPart* before = nullptr;
    for (std::uint32_t p = weight.first_part; p < weight.first_part + weight.part_count; ++p) {
      const ShardPart& part = out_.parts[p];
      const ShardChunk& chunk = out_.chunks[part.chunk];
      bool fits = chunk.codec == codec::kRaw;
      if (before != nullptr) {
        const ShardChunk& last = out_.chunks[before->chunk];
        fits =
            fits && last.file == chunk.file && last.offset + before->offset_in_chunk + before->bytes == chunk.offset + part.offset_in_chunk;
      }
      if (!fits)
        return bad(weight_label(id) + " has row groups and does not lie in one piece", at_.weights + id * sizeof(codec::WeightRecord));
      before = &part;
    }
  }
  return {};
}

Result<ShardIndex> IndexParser::parse() {
  FB_TRY(header());
  out_.plan_id = header_.plan_id;
  out_.weight_set_id = header_.weight_set_id;
  FB_TRY(weights());
  FB_TRY(files());
  FB_TRY(chunks());
  FB_TRY(overlaps());
  if (const Sha256 found = shard_weight_set_id(out_); found != out_.weight_set_id) {
    return bad("it states the weight-set id " + to_hex(out_.weight_set_id) + ", its tables give " + to_hex(found),
               offsetof(IndexHeader, weight_set_id));
  }
  return std::move(out_);
}

}  // namespace

Result<ShardIndex> parse_shard_index(std::span<const std::byte> bytes, const std::string& name) {
  auto index = IndexParser(bytes).parse();
  if (!index.ok()) return std::move(index).status().with_file(name);
  return index;
}

Result<ShardIndex> read_shard_index(FileSystem& fs, const std::string& folder) {
  auto opened = fs.open_beneath(folder, codec::kIndexName, DirectIo::off);
  if (!opened.ok()) return std::move(opened).status().with_context("opening the index of shard folder " + printable(folder));
  const auto file = std::move(opened).value();
  FB_ASSIGN(const FileIdentity identity, file->identity());
  if (identity.bytes > codec::kMaxIndexBytes)
    return bad(std::to_string(identity.bytes) + " bytes are above the limit", 0).with_file(file->name());
  std::vector<std::byte> bytes(identity.bytes);
  FB_TRY(file->read_exactly(0, bytes));
  return parse_shard_index(bytes, file->name());
}

Sha256 shard_weight_set_id(const ShardIndex& index) {
  Sha256Stream stream;
  const auto put = [&](const auto& value) { stream.update(std::as_bytes(std::span(&value, 1))); };
  const auto text = [&](std::string_view value) {
    put(static_cast<std::uint64_t>(value.size()));
    stream.update(std::as_bytes(std::span(value.data(), value.size())));
  };
  text("forebay weight set 1");
  put(index.plan_id);
  put(static_cast<std::uint64_t>(index.chunks.size()));
  for (const ShardChunk& chunk : index.chunks) {
    put(chunk.raw_bytes);
    put(chunk.raw_digest.low);
    put(chunk.raw_digest.high);
  }
  put(static_cast<std::uint64_t>(index.weights.size()));
  for (const ShardWeight& weight : index.weights) {
    text(weight.name);
    put(static_cast<std::uint8_t>(weight.dtype));
    put(static_cast<std::uint8_t>(weight.shape.rank()));
    for (const std::int64_t dim : weight.shape.dims()) put(dim);
  }
  return stream.finish();
}

}  // namespace forebay::refit
