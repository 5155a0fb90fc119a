// zstd frames come from files that anybody may have written, so the frame header is read here, strictly, before the library sees it:
// RFC 8878 frames only (no skippable, no legacy), content size stated, checksum on, no dictionary, a bounded window, nothing after the
// frame.
#include "codec/chunk_codec.h"

#include <zstd.h>

#include <cstring>
#include <new>
#include <optional>
#include <string>

#include "base/check.h"

namespace forebay::codec {
namespace {

inline constexpr std::uint8_t kRawVersion = 1, kZstdVersion = 1;
inline constexpr std::uint32_t kZstdMagic = 0xFD2FB528u;
// Single-pass decoding needs no window of its own, so this bounds nothing of ours: it refuses what none of our writers makes (level 22 is
// 2^27).
inline constexpr unsigned kMaxWindowLog = 27;

struct FrameHeader {
  std::optional<std::uint64_t> content_size;
  std::uint64_t window_size = 0;
  bool checksum = false;
  bool dictionary = false;
};

std::uint64_t little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = (value << 8) | static_cast<std::uint64_t>(bytes[i]);
  return value;
}

Status corrupt(std::string message) { return Status(Code::corruption, "zstd chunk: " + std::move(message)); }

Result<FrameHeader> parse_frame_header(std::span<const std::byte> stored) {
  if (stored.size() < 6) return corrupt("cut: " + std::to_string(stored.size()) + " bytes are no frame");
  const auto magic = static_cast<std::uint32_t>(little_endian(stored.first(4)));
  if (magic != kZstdMagic) {
    return corrupt((magic & 0xFFFFFFF0u) == 0x184D2A50u ? "skippable frames are not accepted" : "the frame's magic number is wrong");
  }
  const auto descriptor = static_cast<std::uint8_t>(stored[4]);
  if ((descriptor & 0x08u) != 0) return corrupt("a reserved bit of the frame header is set");
  const bool single_segment = (descriptor & 0x20u) != 0;
  static constexpr std::size_t kIdBytes[4] = {0, 1, 2, 4}, kSizeBytes[4] = {0, 2, 4, 8};
  const std::size_t id_bytes = kIdBytes[descriptor & 3u];
  std::size_t size_bytes = kSizeBytes[descriptor >> 6];
  if (size_bytes == 0 && single_segment) size_bytes = 1;
  const std::size_t window_bytes = single_segment ? 0 : 1;
  if (stored.size() < 5 + window_bytes + id_bytes + size_bytes) return corrupt("cut inside the frame header");
  FrameHeader header;
  header.checksum = (descriptor & 0x04u) != 0;
  header.dictionary = id_bytes != 0 && little_endian(stored.subspan(5 + window_bytes, id_bytes)) != 0;
  if (size_bytes != 0) {
    header.content_size = little_endian(stored.subspan(5 + window_bytes + id_bytes, size_bytes)) + (size_bytes == 2 ? 256u : 0u);
  }
  if (single_segment) {
    header.window_size = *header.content_size;
  } else {
    const auto window = static_cast<std::uint8_t>(stored[5]);
    const std::uint64_t base = std::uint64_t{1} << (10 + (window >> 3));
    header.window_size = base + (base / 8) * (window & 7u);
    if (header.window_size > (std::uint64_t{1} << kMaxWindowLog)) {
      return corrupt("window of " + std::to_string(header.window_size) + " bytes, at most 2^" + std::to_string(kMaxWindowLog) +
                     " are accepted");
    }
  }
  return header;
}

Status zstd_status(std::size_t result, const char* doing) {
  const std::string text = std::string("zstd chunk: ") + doing + ": " + ZSTD_getErrorName(result);
  // Out of memory is ours, not the file's.
  return Status(
      std::strcmp(ZSTD_getErrorName(result), "Allocation error : not enough memory") == 0 ? Code::out_of_memory : Code::corruption, text);
}

}  // namespace

struct ChunkCodec::State {
  ZSTD_CCtx* encoder = nullptr;
  ZSTD_DCtx* decoder = nullptr;
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    ZSTD_freeCCtx(encoder);
    ZSTD_freeDCtx(decoder);
  }
  Status encode_zstd(std::span<const std::byte> raw, int level, std::vector<std::byte>& stored);
  Status decode_zstd(std::span<const std::byte> stored, std::span<std::byte> out);
};

Status ChunkCodec::State::encode_zstd(std::span<const std::byte> raw, int level, std::vector<std::byte>& stored) {
  if (level < 1 || level > ZSTD_maxCLevel()) {
    return Status(Code::invalid_argument,
                  "zstd level " + std::to_string(level) + ": 1 to " + std::to_string(ZSTD_maxCLevel()) + " are possible");
  }
  if (encoder == nullptr) encoder = ZSTD_createCCtx();
  if (encoder == nullptr) return Status(Code::out_of_memory, "no memory for a zstd encoder");
  const std::pair<ZSTD_cParameter, int> parameters[] = {
      {ZSTD_c_compressionLevel, level}, {ZSTD_c_contentSizeFlag, 1}, {ZSTD_c_checksumFlag, 1}, {ZSTD_c_dictIDFlag, 0}};
  for (const auto& [parameter, value] : parameters) {
    if (const std::size_t r = ZSTD_CCtx_setParameter(encoder, parameter, value); ZSTD_isError(r) != 0) {
      return Status(Code::internal, std::string("zstd parameter: ") + ZSTD_getErrorName(r));
    }
  }
  try {
    stored.resize(ZSTD_compressBound(raw.size()));
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "no memory for a compressed chunk of " + std::to_string(raw.size()) + " raw bytes");
  }
  const std::size_t size = ZSTD_compress2(encoder, stored.data(), stored.size(), raw.data(), raw.size());
  if (ZSTD_isError(size) != 0) return Status(Code::out_of_memory, std::string("zstd encode: ") + ZSTD_getErrorName(size));
  stored.resize(size);
  return {};
}

Status ChunkCodec::State::decode_zstd(std::span<const std::byte> stored, std::span<std::byte> out) {
  FB_ASSIGN(const FrameHeader header, parse_frame_header(stored));
  if (header.dictionary) return corrupt("it wants a dictionary; none is ever used");
  if (!header.checksum) return corrupt("it has no checksum; one is required");
  if (!header.content_size) return corrupt("it states no content size; one is required");
  if (*header.content_size != out.size()) {
    return corrupt("it states " + std::to_string(*header.content_size) + " bytes, " + std::to_string(out.size()) + " are wanted");
  }
  const std::size_t frame = ZSTD_findFrameCompressedSize(stored.data(), stored.size());
  if (ZSTD_isError(frame) != 0) return zstd_status(frame, "reading the frame");
  if (frame != stored.size()) return corrupt(std::to_string(stored.size() - frame) + " bytes follow the frame; nothing may");
  if (decoder == nullptr) decoder = ZSTD_createDCtx();
  if (decoder == nullptr) return Status(Code::out_of_memory, "no memory for a zstd decoder");
  // zstd refuses a null destination even for empty frames.
  std::byte nothing{};
  const std::size_t size = ZSTD_decompressDCtx(decoder, out.empty() ? &nothing : out.data(), out.size(), stored.data(), stored.size());
  if (ZSTD_isError(size) != 0) return zstd_status(size, "decoding");
  if (size != out.size()) return corrupt("it gave " + std::to_string(size) + " bytes, " + std::to_string(out.size()) + " are wanted");
  return {};
}

ChunkCodec::ChunkCodec() : state_(std::make_unique<State>()) {}
ChunkCodec::~ChunkCodec() = default;

Status ChunkCodec::encode(std::uint8_t codec, std::span<const std::byte> raw, int level, std::vector<std::byte>& stored) {
  if (raw.size() > kMaxChunkBytes) {
    return Status(Code::resource_exhausted,
                  "a chunk of " + std::to_string(raw.size()) + " bytes; at most " + std::to_string(kMaxChunkBytes) + " are possible");
  }
  switch (codec) {
    case kRaw: try { stored.assign(raw.begin(), raw.end());
      } catch (const std::bad_alloc&) {
        return Status(Code::out_of_memory, "no memory for a chunk of " + std::to_string(raw.size()) + " bytes");
      }
      return {};
    case kZstd: return state_->encode_zstd(raw, level, stored);
    default: return Status(Code::unsupported, std::string("this build cannot write chunks with codec ") + codec_name(codec));
  }
}

Status ChunkCodec::decode(std::uint8_t codec, std::uint8_t version, std::span<const std::byte> stored, std::span<std::byte> out) {
  if (!codec_known(codec, version)) {
    return Status(Code::unsupported, std::string("chunk codec ") + codec_name(codec) + " (id " + std::to_string(codec) + ") version " +
                                         std::to_string(version) + " is not known to this build");
  }
  if (stored.size() > kMaxChunkBytes || out.size() > kMaxChunkBytes) {
    return Status(Code::corruption, "a chunk of " + std::to_string(stored.size()) + " stored and " + std::to_string(out.size()) +
                                        " raw bytes; at most " + std::to_string(kMaxChunkBytes) + " are possible");
  }
  if (codec == kZstd) return state_->decode_zstd(stored, out);
  if (stored.size() != out.size()) {
    return Status(Code::corruption,
                  "raw chunk: " + std::to_string(stored.size()) + " bytes stored, " + std::to_string(out.size()) + " are wanted");
  }
  if (!out.empty()) std::memmove(out.data(), stored.data(), out.size());
  return {};
}

std::uint8_t codec_version(std::uint8_t codec) { return codec == kRaw ? kRawVersion : codec == kZstd ? kZstdVersion : 0; }

bool codec_known(std::uint8_t codec, std::uint8_t version) { return version != 0 && version == codec_version(codec); }

const char* codec_name(std::uint8_t codec) {
  switch (codec) {
    case kRaw: return "raw";
    case kZstd: return "zstd";
    case kHuffman: return "huffman";
    default: return "unknown";
  }
}

}  // namespace forebay::codec
