#include "stream/bound_generation.h"

#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "codec/chunk_codec.h"

namespace forebay::stream {
namespace {

constexpr std::uint32_t kKernelAlign = 64;

// A changed ctime counts as a change of content unless the link count explains it: a file deleted or replaced by rename still serves.
bool same_file(const FileIdentity& a, const FileIdentity& b) {
  return a.device == b.device && a.inode == b.inode && a.bytes == b.bytes && a.mtime_ns == b.mtime_ns &&
         (a.ctime_ns == b.ctime_ns || a.links != b.links);
}

}  // namespace

Result<std::shared_ptr<BoundGeneration>> BoundGeneration::bind(std::shared_ptr<const plan::Plan> plan, plan::GenerationPtr generation,
                                                               bool direct, bool staged) {
  if (generation == nullptr) return Status(Code::invalid_argument, "there is no generation");
  const plan::Binding& binding = generation->binding;
  if (binding.chunks.size() != plan->chunks.size()) {
    return Status(Code::invalid_argument, "the binding supplies " + std::to_string(binding.chunks.size()) + " chunks, the plan has " +
                                              std::to_string(plan->chunks.size()));
  }
  std::vector<std::uint64_t> file_bytes;
  for (const plan::BoundFile& file : binding.files) {
    if (file.buffered == nullptr) return Status(Code::invalid_argument, "a file of the binding is not open").with_file(file.name);
    FB_ASSIGN(const FileIdentity identity, file.buffered->identity());
    file_bytes.push_back(identity.bytes);
  }
  std::shared_ptr<BoundGeneration> bound(new BoundGeneration(std::move(plan), std::move(generation)));
  const std::size_t count = bound->plan_->chunks.size();
  bound->sources_.resize(count);
  bound->shapes_.resize(count);
  bound->records_.resize(count);
  for (std::size_t i = 0; i < count; ++i) FB_TRY(bound->bind_chunk(static_cast<plan::ChunkId>(i), file_bytes, direct, staged));
  FB_TRY(bound->check_rows(file_bytes));
  return bound;
}

Status BoundGeneration::check_rows(std::span<const std::uint64_t> file_bytes) const {
  const auto& rows = generation_->binding.rows;
  for (std::size_t i = 0; i < rows.size() && i < plan_->weights.size(); ++i) {
    if (!rows[i].available) continue;
    const plan::Weight& weight = plan_->weights[i];
    if (rows[i].file < file_bytes.size() && range_within(rows[i].offset, weight.bytes, file_bytes[rows[i].file])) continue;
    return Status(Code::corruption, "the rows of a weight lie outside of the file").with_tensor(weight.name).with_offset(rows[i].offset);
  }
  return {};
}

Status BoundGeneration::bind_chunk(plan::ChunkId chunk, std::span<const std::uint64_t> file_bytes, bool direct, bool staged) {
  const plan::ChunkBinding& b = binding(chunk);
  const std::uint64_t raw = raw_bytes(chunk);
  ChunkSource& source = sources_[chunk];
  ChunkShape& shape = shapes_[chunk];
  shape.raw_slot = align_up(raw, kBlockBytes);
  if (b.where == plan::ChunkBinding::Where::host) {
    if (b.host == nullptr || b.host->size() != raw) {
      return name_failure(chunk, Status(Code::invalid_argument, "the host chunk has not the right size, " + std::to_string(raw)));
    }
    return {};
  }
  if (b.file >= file_bytes.size()) {
    return Status(Code::invalid_argument, "chunk " + std::to_string(chunk) + " names no file of the binding");
  }
  const auto codec = static_cast<std::uint8_t>(b.codec);
  source.coded = b.codec != plan::Codec::raw;
  if (source.coded && !codec::codec_known(codec, b.codec_version)) {
    return name_failure(chunk, Status(Code::unsupported, "codec " + std::to_string(codec) + " version " + std::to_string(b.codec_version) +
                                                             " is not known to this build"));
  }
  if ((!source.coded && b.stored_bytes != raw) || b.stored_bytes > codec::kMaxChunkBytes) {
    return name_failure(chunk, Status(Code::corruption, "the chunk is stored in " + std::to_string(b.stored_bytes) + " bytes, it has " +
                                                            std::to_string(raw)));
  }
  if (!range_within(b.offset, b.stored_bytes, file_bytes[b.file])) {
    return name_failure(chunk, Status(Code::corruption, "the file is shorter than its index says: " + std::to_string(b.offset) + " + " +
                                                            std::to_string(b.stored_bytes) + " bytes wanted, " +
                                                            std::to_string(file_bytes[b.file]) + " there"));
  }
  const plan::BoundFile& file = generation_->binding.files[b.file];
  source.buffered = file.buffered.get();
  const bool use_direct = direct && file.direct != nullptr && file.direct->alignment() <= kBlockBytes;
  source.file = use_direct ? file.direct.get() : file.buffered.get();
  source.lead = use_direct ? static_cast<std::uint32_t>(b.offset % kBlockBytes) : 0;
  source.read_offset = b.offset - source.lead;
  source.needed = source.lead + b.stored_bytes;
  source.read_bytes = use_direct ? align_up(source.needed, kBlockBytes) : source.needed;
  any_direct_ = any_direct_ || use_direct;
  if (source.coded) {
    shape.stored_slot = shape.fill_slot = align_up(source.read_bytes, kBlockBytes);
  } else {
    shape.raw_slot = align_up(source.read_bytes, kBlockBytes);
    shape.fill_slot = source.lead != 0 ? shape.raw_slot : 0;
    source.shift = source.lead % kKernelAlign == 0 ? source.lead : 0;
  }
  if (staged) shape.fill_slot = 0;
  return {};
}

Status BoundGeneration::name_failure(plan::ChunkId chunk, Status status) const {
  const plan::ChunkBinding& b = binding(chunk);
  const plan::Chunk& c = plan_->chunks[chunk];
  const plan::Binding& all = generation_->binding;
  if (b.where == plan::ChunkBinding::Where::file) {
    if (b.file < all.files.size()) std::move(status).with_file(all.files[b.file].name);
    std::move(status).with_offset(b.offset);
  }
  if (c.part_count > 0) std::move(status).with_tensor(plan_->weights[plan_->parts[plan_->chunk_parts[c.first_part]].weight].name);
  return std::move(std::move(status).with_context("reading chunk " + std::to_string(chunk)));
}

Status BoundGeneration::check_arrival(plan::ChunkId chunk, std::span<const std::byte> stored, const Xxh128& found) {
  const plan::ChunkBinding& b = binding(chunk);
  if (!b.has_digest) {
    Status unchanged = check_identity(b.file);
    if (!unchanged.ok()) return name_failure(chunk, std::move(unchanged));
  }
  ArrivalRecord record;
  {
    std::lock_guard lock(records_mutex_);
    record = records_[chunk];
  }
  if (b.has_digest || record.recorded) {
    const Xxh128& expected = b.has_digest ? b.stored_digest : record.digest;
    if (!(found == expected)) {
      return name_failure(chunk, Status(Code::corruption, "the bytes read are not those of the index: digest " + to_hex(found) +
                                                              ", expected " + to_hex(expected)));
    }
  }
  if (b.has_sha256 && !record.sha_checked) {
    if (sha256(stored) != b.slab_sha256) {
      return name_failure(chunk, Status(Code::weight_mismatch, "the weight is not the one the plan was built with (SHA-256 differs)"));
    }
    std::lock_guard lock(records_mutex_);
    records_[chunk].sha_checked = true;
  }
  if (b.has_digest || record.recorded) return {};
  std::lock_guard lock(records_mutex_);
  ArrivalRecord& kept = records_[chunk];
  if (kept.recorded && !(kept.digest == found)) {
    return name_failure(chunk, Status(Code::corruption, "two reads of the same bytes differ: the file was changed"));
  }
  kept.digest = found;
  kept.recorded = true;
  return {};
}

Status BoundGeneration::check_identity(std::uint32_t file) const {
  const plan::BoundFile& bound = generation_->binding.files[file];
  FB_ASSIGN(const FileIdentity now, bound.buffered->identity());
  if (same_file(now, bound.identity)) return {};
  return Status(Code::corruption, "the file was changed while it was in use").with_file(bound.name).with_hint("load the weights again");
}

bool BoundGeneration::same_bytes(plan::ChunkId chunk, const BoundGeneration& other) const {
  const plan::ChunkBinding &a = binding(chunk), &b = other.binding(chunk);
  if (a.where != b.where) return false;
  if (a.where == plan::ChunkBinding::Where::host) return a.host == b.host;
  if (a.codec != b.codec || a.codec_version != b.codec_version || a.stored_bytes != b.stored_bytes) return false;
  if (b.has_sha256 && !(a.has_sha256 && a.slab_sha256 == b.slab_sha256)) return false;
  if (a.has_digest && b.has_digest) return a.stored_digest == b.stored_digest;
  if (a.has_digest || b.has_digest || a.offset != b.offset) return false;
  return same_file(generation_->binding.files[a.file].identity, other.generation_->binding.files[b.file].identity);
}

void BoundGeneration::inherit_records(const BoundGeneration& older) {
  std::lock_guard lock(records_mutex_);
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const auto chunk = static_cast<plan::ChunkId>(i);
    if (older.records_[i].recorded && older.same_bytes(chunk, *this)) records_[i] = older.records_[i];
  }
}

std::vector<ChunkShape> widest_shapes(const plan::Plan& plan, const plan::Generation& generation) {
  std::vector<ChunkShape> shapes(plan.chunks.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const plan::ChunkBinding& b = generation.binding.chunks[i];
    const std::uint64_t raw = align_up(plan.chunks[i].raw_bytes, kBlockBytes);
    if (b.where == plan::ChunkBinding::Where::file && b.codec != plan::Codec::raw) {
      shapes[i].raw_slot = raw;
      shapes[i].stored_slot = align_up(b.stored_bytes, kBlockBytes) + kBlockBytes;
    } else {
      shapes[i].raw_slot = raw + kBlockBytes;  // an extent of any alignment lies in so many blocks
    }
  }
  return shapes;
}

}  // namespace forebay::stream
