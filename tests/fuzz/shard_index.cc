// Shard indexes from anybody: no crash, no overlap, every look-up in range. Each input is tried as it is and with its digests repaired.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "codec/chunk_codec.h"
#include "codec/shard_surgery.h"
#include "refit/shard_reader.h"

namespace {

using namespace forebay;

void check_index(const refit::ShardIndex& index) {
  for (std::size_t i = 0; i < index.chunks.size(); ++i) {
    const refit::ShardChunk& chunk = index.chunks[i];
    FB_CHECK(chunk.file < index.files.size());
    const refit::ShardIndex::File& file = index.files[chunk.file];
    FB_CHECK(chunk.offset % kBlockBytes == 0 && chunk.offset >= kBlockBytes && range_within(chunk.offset, chunk.stored_bytes, file.bytes));
    FB_CHECK(codec::codec_known(chunk.codec, chunk.codec_version) && chunk.raw_bytes <= codec::kMaxChunkBytes);
    if (i != 0 && index.chunks[i - 1].file == chunk.file)
      FB_CHECK(index.chunks[i - 1].offset + index.chunks[i - 1].stored_bytes <= chunk.offset);
  }
  for (const refit::ShardIndex::File& file : index.files) {
    FB_CHECK(file.name.find('/') == std::string::npos && file.name.find('\0') == std::string::npos && !file.name.empty());
  }
  for (std::size_t w = 0; w < index.weights.size(); ++w) {
    const refit::ShardWeight& weight = index.weights[w];
    std::uint64_t bytes = 0;
    FB_CHECK(range_within(weight.first_part, weight.part_count, index.parts.size()));
    for (std::uint32_t p = weight.first_part; p < weight.first_part + weight.part_count; ++p) {
      const refit::ShardPart& part = index.parts[p];
      FB_CHECK(part.weight == w && part.chunk < index.chunks.size() && part.offset_in_weight == bytes);
      FB_CHECK(range_within(part.offset_in_chunk, part.bytes, index.chunks[part.chunk].raw_bytes));
      bytes += part.bytes;
    }
    FB_CHECK(bytes == weight.bytes && bytes == checked_bytes(weight.dtype, weight.shape.dims()).value());
  }
  // Parts of a chunk do not overlap.
  std::vector<refit::ShardPart> parts = index.parts;
  std::erase_if(parts, [](const auto& part) { return part.bytes == 0; });
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return std::tie(a.chunk, a.offset_in_chunk) < std::tie(b.chunk, b.offset_in_chunk); });
  for (std::size_t i = 1; i < parts.size(); ++i) {
    FB_CHECK(parts[i].chunk != parts[i - 1].chunk || parts[i - 1].offset_in_chunk + parts[i - 1].bytes <= parts[i].offset_in_chunk);
  }
}

// The parser says which weight-set id the tables give when that is all that is wrong.
bool take_weight_set(std::vector<std::byte>& bytes, const std::string& message) {
  const std::string marker = "its tables give ";
  const std::size_t at = message.find(marker);
  if (at == std::string::npos) return false;
  codec::IndexHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  for (std::size_t i = 0; i < 32; ++i) {
    header.weight_set_id[i] = static_cast<std::uint8_t>(std::stoul(message.substr(at + marker.size() + 2 * i, 2), nullptr, 16));
  }
  std::memcpy(bytes.data(), &header, sizeof(header));
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  if (const auto index = refit::parse_shard_index(input, "fuzz.index"); index.ok()) check_index(*index);
  std::vector<std::byte> bytes(input.begin(), input.end());
  test::repair_index(bytes);
  auto index = refit::parse_shard_index(bytes, "fuzz.index");
  if (!index.ok() && take_weight_set(bytes, index.status().message())) {
    test::repair_index(bytes);
    index = refit::parse_shard_index(bytes, "fuzz.index");
    FB_CHECK(index.ok());
  }
  if (index.ok()) check_index(*index);
  return 0;
}
