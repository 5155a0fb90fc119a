// Chunk codecs: raw chunk to stored bytes and back. Thread-safe functions over caller's buffers; a codec state per thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "forebay/status.h"

namespace forebay::codec {

inline constexpr std::uint8_t kRaw = 0, kZstd = 1, kHuffman = 2;  // stable ids; huffman is reserved
inline constexpr std::uint64_t kMaxChunkBytes = 4ull << 30;       // cap on raw and stored size of one chunk

// Reusable per thread: holds the zstd contexts, so that steady decoding allocates nothing.
class ChunkCodec {
 public:
  ChunkCodec();
  ~ChunkCodec();
  // Replaces `stored`. zstd: one frame, content size and checksum on, no dictionary.
  Status encode(std::uint8_t codec, std::span<const std::byte> raw, int level, std::vector<std::byte>& stored);
  // Exactly out.size() bytes or an error: unknown codec or version (unsupported), anything else (corruption). Single pass, bounded memory;
  // trailing bytes, skippable frames, dictionaries and frames that state another size are refused.
  Status decode(std::uint8_t codec, std::uint8_t version, std::span<const std::byte> stored, std::span<std::byte> out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::uint8_t codec_version(std::uint8_t codec);  // what this build writes
bool codec_known(std::uint8_t codec, std::uint8_t version);
const char* codec_name(std::uint8_t codec);

}  // namespace forebay::codec
