#include "refit/chunk_read.h"

#include <cstring>
#include <utility>

#include "base/check.h"

namespace forebay::refit {
namespace {

Status differs(const plan::Generation& generation, plan::ChunkId chunk, const std::string& file, std::uint64_t offset, const char* what) {
  Problem problem;
  problem.code = "digest_mismatch";
  problem.message =
      std::string("the ") + what + " of chunk " + std::to_string(chunk) + " differs: these are not the bytes that were written";
  problem.file = file;
  problem.offset = offset;
  const plan::Plan& plan = *generation.plan;
  if (plan.chunks[chunk].part_count != 0)
    problem.tensor = plan.weights[plan.parts[plan.chunk_parts[plan.chunks[chunk].first_part]].weight].name;
  problem.hint = "the file is damaged or was changed: make it again";
  return Status(Code::corruption, std::move(problem));
}

}  // namespace

Status read_bound_chunk(const plan::Generation& generation, plan::ChunkId chunk, codec::ChunkCodec& codec, std::vector<std::byte>& stored,
                        std::span<std::byte> raw) {
  const plan::ChunkBinding& from = generation.binding.chunks[chunk];
  FB_CHECK(raw.size() == generation.plan->chunks[chunk].raw_bytes);
  if (from.where == plan::ChunkBinding::Where::host) {
    FB_CHECK(from.host != nullptr && from.host->size() == raw.size());
    if (!raw.empty()) std::memcpy(raw.data(), from.host->data(), raw.size());
    return {};
  }
  const plan::BoundFile& file = generation.binding.files[from.file];
  const bool plain = from.codec == plan::Codec::raw;
  if (plain && from.stored_bytes != raw.size())
    return Status(Code::corruption, "chunk " + std::to_string(chunk) + " is stored raw with " + std::to_string(from.stored_bytes) +
                                        " bytes in place of " + std::to_string(raw.size()))
        .with_file(file.name)
        .with_offset(from.offset);
  if (from.stored_bytes > codec::kMaxChunkBytes)
    return Status(Code::corruption, "chunk " + std::to_string(chunk) + " is larger than any may be")
        .with_file(file.name)
        .with_offset(from.offset);
  std::span<std::byte> target = raw;
  if (!plain) {
    stored.resize(static_cast<std::size_t>(from.stored_bytes));
    target = stored;
  }
  FB_TRY(file.buffered->read_exactly(from.offset, target));
  if (from.has_digest && xxh128(target) != from.stored_digest) return differs(generation, chunk, file.name, from.offset, "digest");
  if (!plain) {
    Status status = codec.decode(static_cast<std::uint8_t>(from.codec), from.codec_version, target, raw);
    if (!status.ok())
      return std::move(status)
          .with_context("decoding chunk " + std::to_string(chunk))
          .with_file(file.name)
          .with_offset(from.offset);
  }
  if (from.has_sha256 && sha256(raw) != from.slab_sha256) return differs(generation, chunk, file.name, from.offset, "SHA-256");
  return {};
}

}  // namespace forebay::refit
