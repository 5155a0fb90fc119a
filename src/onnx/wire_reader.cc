#include "onnx/wire_reader.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace forebay::onnx {

Status WireReader::past_end(std::uint64_t end) const {
  if (end >= file_bytes_) {
    return Status(Code::corruption, "the file ends too early: it has " + std::to_string(file_bytes_) + " bytes and is cut inside a field")
        .with_file(file_.name())
        .with_offset(position_)
        .with_hint("the file is cut or still being written: copy or export it again");
  }
  return Status(Code::invalid_model, "a field passes the end of the message around it")
      .with_file(file_.name())
      .with_offset(position_)
      .with_hint("the file is damaged or not an ONNX model");
}

// After a jump little is read, since the next payload may follow at once; while reading goes on the pieces grow.
Status WireReader::fill() {
  const bool follows = buffer_bytes_ != 0 && position_ == buffer_offset_ + buffer_bytes_;
  next_read_ = follows ? std::min(next_read_ * 4, kLargeRead) : kSmallRead;
  const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(next_read_, file_bytes_ - position_));
  if (buffer_.size() < wanted) buffer_.resize(wanted);
  buffer_bytes_ = 0;
  FB_TRY(file_.read_exactly(position_, std::as_writable_bytes(std::span(buffer_).first(wanted))));
  buffer_offset_ = position_;
  buffer_bytes_ = wanted;
  return {};
}

Result<std::uint64_t> WireReader::varint(std::uint64_t end) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    if (position_ >= end) return past_end(end);
    if (position_ < buffer_offset_ || position_ >= buffer_offset_ + buffer_bytes_) FB_TRY(fill());
    const auto byte = static_cast<std::uint8_t>(buffer_[static_cast<std::size_t>(position_ - buffer_offset_)]);
    ++position_;
    if (shift < 64) value |= static_cast<std::uint64_t>(byte & 0x7fu) << shift;
    if ((byte & 0x80u) == 0) return value;
  }
  return Status(Code::invalid_model, "a number has more than ten bytes").with_file(file_.name()).with_offset(position_);
}

Status WireReader::bytes(std::span<char> out, std::uint64_t end) {
  if (position_ > end || out.size() > end - position_) return past_end(end);
  while (!out.empty()) {
    if (position_ < buffer_offset_ || position_ >= buffer_offset_ + buffer_bytes_) FB_TRY(fill());
    const auto at = static_cast<std::size_t>(position_ - buffer_offset_);
    const std::size_t piece = std::min(out.size(), buffer_bytes_ - at);
    std::memcpy(out.data(), buffer_.data() + at, piece);
    position_ += piece;
    out = out.subspan(piece);
  }
  return {};
}

}  // namespace forebay::onnx
