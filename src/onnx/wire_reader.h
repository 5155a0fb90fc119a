// Reads the wire format of a file front to back through a small buffer; skipping costs nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/file.h"

namespace forebay::onnx {

class WireReader {
 public:
  WireReader(File& file, std::uint64_t file_bytes) : file_(file), file_bytes_(file_bytes) {}
  std::uint64_t position() const { return position_; }
  // At most to the end of the file: the caller has checked.
  void skip_to(std::uint64_t position) { position_ = position; }
  // `end` is where the enclosing message ends; a value that passes it is invalid_model (corruption at the end of the file).
  Result<std::uint64_t> varint(std::uint64_t end);
  Status bytes(std::span<char> out, std::uint64_t end);
  Status past_end(std::uint64_t end) const;

 private:
  Status fill();
  File& file_;
  std::uint64_t file_bytes_;
  std::uint64_t position_ = 0;
  std::vector<char> buffer_;
  std::uint64_t buffer_offset_ = 0;
  std::size_t buffer_bytes_ = 0;
  std::size_t next_read_ = kSmallRead;
  static constexpr std::size_t kSmallRead = 4096, kLargeRead = 256 * 1024;
};

}  // namespace forebay::onnx
