#include "refit/shard_reader.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"
#include "codec/chunk_codec.h"

namespace forebay::refit {

codec::ShardHeader shard_header(const ShardIndex& index, std::uint32_t sequence) {
  const ShardIndex::File& entry = index.files[sequence];
  codec::ShardHeader header{};
  header.magic = codec::kShardMagic;
  header.endian = codec::kEndianMark;
  header.major = header.min_reader_major = codec::kShardMajor;
  header.minor = header.min_reader_minor = codec::kShardMinor;
  header.sequence = sequence;
  header.first_chunk = entry.first_chunk;
  header.chunk_count = entry.chunk_count;
  header.file_bytes = entry.bytes;
  header.plan_id = index.plan_id;
  header.weight_set_id = index.weight_set_id;
  header.records_sha256 = entry.records_sha256;
  return header;
}

namespace {

Status damaged(std::string message, const std::string& file, std::uint64_t offset) {
  return Status(Code::corruption, std::move(message))
      .with_file(file)
      .with_offset(offset)
      .with_hint("copy the shards or pack the weights again");
}

template <typename T>
Result<T> read_struct(File& file, std::uint64_t offset) {
  T out;
  FB_TRY(file.read_exactly(offset, std::as_writable_bytes(std::span(&out, 1))));
  return out;
}

std::string short_hex(const std::array<std::uint8_t, 32>& id) {
  return to_hex(Sha256(id)).substr(0, 16);
}

Status check_header(File& file, const ShardIndex& index, std::uint32_t sequence) {
  std::array<std::byte, kBlockBytes> block;
  FB_TRY(file.read_exactly(0, block));
  codec::ShardHeader header;
  std::memcpy(&header, block.data(), sizeof(header));
  if (header.magic != codec::kShardMagic) return damaged("this is no shard (the first bytes differ)", file.name(), 0);
  if (header.plan_id != index.plan_id) {
    return damaged("the shard belongs to plan " + short_hex(header.plan_id) + ", the index to plan " + short_hex(index.plan_id),
                   file.name(), offsetof(codec::ShardHeader, plan_id));
  }
  if (header.weight_set_id != index.weight_set_id) {
    return damaged(
        "the shard holds weights " + short_hex(header.weight_set_id) + ", the index names weights " + short_hex(index.weight_set_id),
        file.name(), offsetof(codec::ShardHeader, weight_set_id));
  }
  if (header.sequence != sequence) {
    return damaged(
        "the shard is number " + std::to_string(header.sequence) + " of its set, the index wants number " + std::to_string(sequence),
        file.name(), offsetof(codec::ShardHeader, sequence));
  }
  // All that is left must be exactly what the writer of this index wrote.
  const codec::ShardHeader wanted = shard_header(index, sequence);
  if (std::memcmp(&wanted, &header, sizeof(header)) != 0) return damaged("the shard's header does not fit the index", file.name(), 0);
  const auto rest = std::span(block).subspan(sizeof(header));
  if (!std::all_of(rest.begin(), rest.end(), [](std::byte b) { return b == std::byte{}; })) {
    return damaged("the shard's header block is damaged", file.name(), sizeof(header));
  }
  return {};
}

Status check_footer(File& file, const ShardIndex& index, std::uint32_t sequence) {
  const ShardIndex::File& entry = index.files[sequence];
  const std::uint64_t offset = entry.bytes - sizeof(codec::ShardFooter);
  FB_ASSIGN(const auto footer, read_struct<codec::ShardFooter>(file, offset));
  codec::ShardFooter wanted{};
  wanted.magic = codec::kShardEndMagic;
  wanted.file_bytes = entry.bytes;
  wanted.sequence = sequence;
  wanted.chunk_count = entry.chunk_count;
  wanted.weight_set_id = index.weight_set_id;
  if (std::memcmp(&wanted, &footer, sizeof(footer)) != 0) return damaged("the shard's footer does not fit the index", file.name(), offset);
  return {};
}

Result<plan::BoundFile> open_shard(FileSystem& fs, const std::string& folder, const ShardIndex& index, std::uint32_t sequence,
                                   DirectIo direct) {
  const ShardIndex::File& entry = index.files[sequence];
  plan::BoundFile bound;
  bound.name = entry.name;
  auto opened = fs.open_beneath(folder, entry.name, DirectIo::off);
  if (!opened.ok()) {
    return std::move(opened).status().with_context("opening shard " + std::to_string(sequence + 1) + " of " +
                                                   std::to_string(index.files.size()));
  }
  bound.buffered = std::move(opened).value();
  FB_ASSIGN(bound.identity, bound.buffered->identity());
  if (bound.identity.bytes != entry.bytes) {
    const char* what = bound.identity.bytes < entry.bytes ? "the shard is cut: " : "the shard is too long: ";
    return damaged(what + std::to_string(entry.bytes) + " bytes are wanted, the file has " + std::to_string(bound.identity.bytes),
                   entry.name, std::min(bound.identity.bytes, entry.bytes));
  }
  FB_TRY(check_header(*bound.buffered, index, sequence));
  FB_TRY(check_footer(*bound.buffered, index, sequence));
  if (direct == DirectIo::off) return bound;
  FB_ASSIGN(std::shared_ptr<File> unbuffered, fs.open_beneath(folder, entry.name, direct));
  if (!unbuffered->direct()) return bound;
  FB_ASSIGN(const FileIdentity again, unbuffered->identity());
  if (again.device != bound.identity.device || again.inode != bound.identity.inode) {
    return damaged("the shard was replaced while it was opened", entry.name, 0);
  }
  bound.direct = std::move(unbuffered);
  return bound;
}

// A weight's rows lie one after the other from here; the parser has checked that weights with group digests lie in one piece.
plan::RowBinding row_binding(const ShardIndex& index, const ShardWeight& weight) {
  plan::RowBinding rows;
  if (weight.group_digests.empty() || weight.shape.rank() == 0 || weight.shape[0] == 0) return rows;
  const auto row_bytes = dtype_bytes(weight.dtype, weight.shape.elements() / weight.shape[0]);
  if (!row_bytes || *row_bytes * static_cast<std::uint64_t>(weight.shape[0]) != weight.bytes) return rows;  // rows that share a byte
  const ShardPart& first = index.parts[weight.first_part];
  rows.available = true;
  rows.file = index.chunks[first.chunk].file;
  rows.offset = index.chunks[first.chunk].offset + first.offset_in_chunk;
  rows.row_bytes = *row_bytes;
  rows.group_digests = weight.group_digests;
  return rows;
}

Status mismatch(std::string message, const std::string& tensor) {
  return Status(Code::weight_mismatch, std::move(message)).with_tensor(tensor).with_hint("pack the weights for this plan");
}

}  // namespace

Result<std::shared_ptr<const ShardSet>> ShardSet::open(FileSystem& fs, const std::string& folder, DirectIo direct) {
  auto set = std::make_shared<ShardSet>();
  set->folder_ = folder;
  FB_ASSIGN(set->index_, read_shard_index(fs, folder));
  for (std::uint32_t i = 0; i < set->index_.files.size(); ++i) {
    FB_ASSIGN(auto bound, open_shard(fs, folder, set->index_, i, direct));
    set->files_.push_back(std::move(bound));
  }
  return std::shared_ptr<const ShardSet>(std::move(set));
}

Status ShardSet::check_plan(const plan::Plan& plan) const {
  if (index_.plan_id != plan.id) {
    return mismatch("the shards belong to plan " + to_hex(index_.plan_id) + ", this plan is " + to_hex(plan.id), "");
  }
  // Equal ids say all of this already; it is checked because what follows relies on it.
  if (index_.chunks.size() != plan.chunks.size() || index_.weights.size() != plan.weights.size()) {
    return mismatch("the shards hold " + std::to_string(index_.chunks.size()) + " chunks of " + std::to_string(index_.weights.size()) +
                        " weights, the plan has " + std::to_string(plan.chunks.size()) + " of " + std::to_string(plan.weights.size()),
                    "");
  }
  for (std::size_t i = 0; i < plan.chunks.size(); ++i) {
    if (index_.chunks[i].raw_bytes != plan.chunks[i].raw_bytes) {
      return mismatch("chunk " + std::to_string(i) + " has " + std::to_string(index_.chunks[i].raw_bytes) + " bytes in the shards and " +
                          std::to_string(plan.chunks[i].raw_bytes) + " in the plan",
                      "");
    }
  }
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const ShardWeight& found = index_.weights[i];
    const plan::Weight& wanted = plan.weights[i];
    if (found.name != wanted.name || found.dtype != wanted.dtype || !(found.shape == wanted.shape)) {
      return mismatch("weight " + std::to_string(i) + " is '" + printable(found.name) + "' " + std::string(dtype_name(found.dtype)) +
                          found.shape.to_string() + " in the shards and '" + printable(wanted.name) + "' " +
                          std::string(dtype_name(wanted.dtype)) + wanted.shape.to_string() + " in the plan",
                      wanted.name);
    }
  }
  return {};
}

Result<plan::Binding> ShardSet::bind(const plan::Plan& plan) const {
  FB_TRY(check_plan(plan));
  plan::Binding binding;
  binding.files = files_;
  binding.integrity = "digests";
  binding.chunks.reserve(index_.chunks.size());
  for (const ShardChunk& chunk : index_.chunks) {
    plan::ChunkBinding bound;
    bound.file = chunk.file;
    bound.offset = chunk.offset;
    bound.stored_bytes = chunk.stored_bytes;
    bound.codec = static_cast<plan::Codec>(chunk.codec);
    bound.codec_version = chunk.codec_version;
    bound.has_digest = true;
    bound.stored_digest = chunk.stored_digest;
    binding.chunks.push_back(std::move(bound));
  }
  binding.rows.reserve(index_.weights.size());
  for (std::size_t i = 0; i < index_.weights.size(); ++i) {
    binding.rows.push_back(plan.weights[i].gather_only ? row_binding(index_, index_.weights[i]) : plan::RowBinding());
  }
  return binding;
}

Status ShardSet::read_stored(std::uint32_t chunk, std::vector<std::byte>& stored) const {
  if (chunk >= index_.chunks.size()) return Status(Code::invalid_argument, "chunk " + std::to_string(chunk) + " is not in these shards");
  const ShardChunk& record = index_.chunks[chunk];
  const plan::BoundFile& file = files_[record.file];
  try {
    stored.resize(record.stored_bytes);
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "no memory for a chunk of " + std::to_string(record.stored_bytes) + " bytes").with_file(file.name);
  }
  FB_TRY(file.buffered->read_exactly(record.offset, stored));
  if (xxh128(stored) == record.stored_digest) return {};
  return damaged("the digest of chunk " + std::to_string(chunk) + " (" + std::to_string(record.stored_bytes) + " bytes) does not match",
                 file.name, record.offset);
}

Status ShardSet::check_padding() const {
  for (std::size_t i = 0; i < index_.chunks.size(); ++i) {
    const ShardChunk& chunk = index_.chunks[i];
    const std::uint64_t end = chunk.offset + chunk.stored_bytes;
    std::array<std::byte, kBlockBytes> block;
    const auto padding = std::span(block).first(align_up(end, kBlockBytes) - end);
    FB_TRY(files_[chunk.file].buffered->read_exactly(end, padding));
    const auto set = std::find_if(padding.begin(), padding.end(), [](std::byte b) { return b != std::byte{}; });
    if (set == padding.end()) continue;
    return damaged("the padding after chunk " + std::to_string(i) + " is not zero", files_[chunk.file].name,
                   end + static_cast<std::uint64_t>(set - padding.begin()));
  }
  return {};
}

Result<bool> is_shard_folder(FileSystem& fs, const std::string& folder) {
  FB_ASSIGN(const auto names, fs.list(folder));
  return std::find(names.begin(), names.end(), codec::kIndexName) != names.end();
}

}  // namespace forebay::refit
