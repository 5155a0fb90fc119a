// Repairs the digests of an edited shard index, so that tests and fuzzers get past them.
#pragma once

#include <cstring>
#include <vector>

#include "base/digest.h"
#include "codec/shard_format.h"
#include "refit/shard_reader.h"

namespace forebay::test {

// The weight-set id is left alone: it needs a valid index.
inline void repair_index(std::vector<std::byte>& bytes) {
  codec::IndexHeader header;
  if (bytes.size() < sizeof(header) + sizeof(Sha256)) return;
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.index_bytes = bytes.size();
  std::memcpy(bytes.data(), &header, sizeof(header));
  const std::uint64_t body = bytes.size() - sizeof(Sha256);
  const std::uint64_t chunks = sizeof(header) + std::uint64_t{header.file_count} * sizeof(codec::FileRecord);
  for (std::uint64_t i = 0; i < header.file_count; ++i) {
    const std::uint64_t at = sizeof(header) + i * sizeof(codec::FileRecord);
    if (at + sizeof(codec::FileRecord) > body) break;
    codec::FileRecord file;
    std::memcpy(&file, bytes.data() + at, sizeof(file));
    const std::uint64_t first = chunks + std::uint64_t{file.first_chunk} * sizeof(codec::ChunkRecord);
    const std::uint64_t size = std::uint64_t{file.chunk_count} * sizeof(codec::ChunkRecord);
    if (first > body || size > body - first) continue;
    file.records_sha256 = sha256(std::span(bytes).subspan(first, size));
    std::memcpy(bytes.data() + at, &file, sizeof(file));
  }
  const Sha256 digest = sha256(std::span(bytes).first(body));
  std::memcpy(bytes.data() + body, digest.data(), digest.size());
}

}  // namespace forebay::test
