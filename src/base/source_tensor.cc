#include "base/source_tensor.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"

namespace forebay {
namespace {

constexpr std::size_t kBufferBytes = 256 * 1024;

// Reads a byte range of a file from front to back in bounded memory.
class RangeReader {
 public:
  RangeReader(File& file, std::uint64_t offset, std::uint64_t bytes) : file_(file), next_(offset), end_(offset + bytes) {
    buffer_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(bytes, kBufferBytes)));
  }
  bool at_end() const { return at_ == have_ && next_ == end_; }
  std::uint64_t position() const { return next_ - (have_ - at_); }
  std::uint64_t left() const { return end_ - position(); }

  Result<std::uint8_t> byte() {
    if (at_ == have_) FB_TRY(fill());
    return static_cast<std::uint8_t>(buffer_[at_++]);
  }
  Status copy(std::span<std::byte> out) {
    while (!out.empty()) {
      if (at_ == have_) FB_TRY(fill());
      const std::size_t piece = std::min(out.size(), have_ - at_);
      std::memcpy(out.data(), buffer_.data() + at_, piece);
      at_ += piece;
      out = out.subspan(piece);
    }
    return {};
  }
  Status skip(std::uint64_t bytes) {
    if (bytes > left()) return cut();
    const std::uint64_t buffered = std::min<std::uint64_t>(bytes, have_ - at_);
    at_ += static_cast<std::size_t>(buffered);
    next_ += bytes - buffered;
    return {};
  }
  Result<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      FB_ASSIGN(const std::uint8_t next, byte());
      if (shift < 64) value |= static_cast<std::uint64_t>(next & 0x7fu) << shift;
      if ((next & 0x80u) == 0) return value;
    }
    return Status(Code::corruption, "a number in the payload has more than ten bytes").with_offset(position());
  }

 private:
  Status cut() const { return Status(Code::corruption, "the payload ends inside an element").with_offset(position()); }
  Status fill() {
    if (next_ == end_) return cut();
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(end_ - next_, buffer_.size()));
    FB_TRY(file_.read_exactly(next_, std::span(buffer_).first(piece)));
    next_ += piece;
    at_ = 0;
    have_ = piece;
    return {};
  }
  File& file_;
  std::vector<std::byte> buffer_;
  std::size_t at_ = 0, have_ = 0;
  std::uint64_t next_, end_;
};

// Width of one stored element in memory: sub-byte types come a byte (several elements) at a time.
std::size_t unit_bytes(DType dtype) { return static_cast<std::size_t>(std::max(dtype_bits(dtype), 8)) / 8; }

// Takes elements one after the other and puts them into `out`.
class Decoder {
 public:
  Decoder(const SourceTensor& tensor, std::span<std::byte> out)
      : tensor_(tensor), out_(out), unit_(unit_bytes(tensor.dtype)), reader_(*tensor.file, tensor.offset, tensor.stored_bytes) {}

  Status run() {
    if (tensor_.field_tag == 0) {
      FB_TRY(packed(reader_.left()));
    } else {
      FB_TRY(fields());
    }
    if (at_ != out_.size()) {
      return Status(Code::invalid_model, "the payload holds " + std::to_string(at_ / unit_) + " elements, the shape " +
                                             tensor_.shape.to_string() + " wants " + std::to_string(out_.size() / unit_));
    }
    return {};
  }

 private:
  Status packed(std::uint64_t bytes) {
    const std::uint64_t end = reader_.position() + bytes;
    while (reader_.position() < end) FB_TRY(element());
    if (reader_.position() != end) return Status(Code::corruption, "an element passes the end of its payload").with_offset(end);
    return {};
  }
  Status element() {
    if (at_ + unit_ > out_.size()) {
      return Status(Code::invalid_model, "the payload holds more elements than the shape " + tensor_.shape.to_string())
          .with_offset(reader_.position());
    }
    if (tensor_.encoding == Encoding::varint) {
      FB_ASSIGN(std::uint64_t value, reader_.varint());
      if (tensor_.dtype == DType::boolean) value = value != 0 ? 1 : 0;
      std::memcpy(out_.data() + at_, &value, unit_);  // the low bytes; x86-64 is little-endian
    } else {
      FB_TRY(reader_.copy(out_.subspan(at_, unit_)));
    }
    at_ += unit_;
    return {};
  }
  // The payload is a run of protobuf fields: ours are taken, others skipped.
  Status fields() {
    while (!reader_.at_end()) {
      FB_ASSIGN(const std::uint64_t tag, reader_.varint());
      const bool ours = (tag >> 3) == (tensor_.field_tag >> 3);
      switch (tag & 7u) {
        case 2: {
          FB_ASSIGN(const std::uint64_t bytes, reader_.varint());
          if (bytes > reader_.left())
            return Status(Code::corruption, "a field passes the end of the payload").with_offset(reader_.position());
          FB_TRY(ours ? packed(bytes) : reader_.skip(bytes));
          break;
        }
        case 0: FB_TRY(take_or_skip(ours, Encoding::varint, 0)); break;
        case 1: FB_TRY(take_or_skip(ours, Encoding::fixed64, 8)); break;
        case 5: FB_TRY(take_or_skip(ours, Encoding::fixed32, 4)); break;
        default: return Status(Code::invalid_model, "the payload has a field of an unknown kind").with_offset(reader_.position());
      }
    }
    return {};
  }
  Status take_or_skip(bool ours, Encoding wire, std::uint64_t bytes) {
    if (ours) {
      if (wire != tensor_.encoding)
        return Status(Code::invalid_model, "the payload mixes kinds of elements").with_offset(reader_.position());
      return element();
    }
    if (wire == Encoding::varint) return reader_.varint().status();
    return reader_.skip(bytes);
  }

  const SourceTensor& tensor_;
  std::span<std::byte> out_;
  std::size_t unit_, at_ = 0;
  RangeReader reader_;
};

void normalise_bools(const SourceTensor& tensor, std::span<std::byte> out) {
  if (tensor.dtype != DType::boolean) return;
  for (std::byte& value : out) value = value == std::byte{0} ? std::byte{0} : std::byte{1};
}

Status in_file(Status status, const SourceTensor& tensor) {
  if (tensor.file) std::move(status).with_file(tensor.file->name());
  std::move(status).with_tensor(printable(tensor.name));
  return status;
}

Status wrong(const SourceTensor& tensor, Code code, std::string why) {
  Status status(code, "tensor \"" + printable(tensor.name) + "\": " + std::move(why));
  if (tensor.file) std::move(status).with_offset(tensor.offset);
  return in_file(std::move(status), tensor);
}

// Whether `stored` bytes can hold `units` elements in this encoding at all: the cheap half of the check, before anything is read.
bool plausible(const SourceTensor& tensor, std::uint64_t units) {
  if (tensor.field_tag != 0) return tensor.stored_bytes >= units || units == 0;
  switch (tensor.encoding) {
    case Encoding::raw: return false;
    case Encoding::varint: return tensor.stored_bytes >= units && (units > UINT64_MAX / 10 || tensor.stored_bytes <= units * 10);
    case Encoding::fixed32: return units <= UINT64_MAX / 4 && tensor.stored_bytes == units * 4;
    case Encoding::fixed64: return units <= UINT64_MAX / 8 && tensor.stored_bytes == units * 8;
  }
  return false;
}

bool fits_encoding(DType dtype, Encoding encoding) {
  switch (encoding) {
    case Encoding::raw: return true;
    case Encoding::varint: return dtype != DType::f32 && dtype != DType::f64;
    case Encoding::fixed32: return dtype_bits(dtype) == 32;
    case Encoding::fixed64: return dtype_bits(dtype) == 64;
  }
  return false;
}

}  // namespace

Result<std::unique_ptr<File>> open_source_file(FileSystem& fs, const SourceTensor& tensor, DirectIo direct) {
  if (!tensor.file) return wrong(tensor, Code::invalid_argument, "is in memory, there is no file to open");
  auto again = tensor.open_folder.empty() ? fs.open_read(tensor.open_name, direct)
                                          : fs.open_beneath(tensor.open_folder, tensor.open_name, direct);
  if (!again.ok()) return in_file(std::move(again).status(), tensor);
  FB_ASSIGN(const FileIdentity now, (*again)->identity());
  FB_ASSIGN(const FileIdentity then, tensor.file->identity());
  if (now.device != then.device || now.inode != then.inode) {
    return Status(Code::corruption, printable(tensor.file->name()) + " was replaced by another file while it was in use")
        .with_file(tensor.file->name())
        .with_hint("start again with the files left alone");
  }
  return again;
}

Status check_source_tensor(const SourceTensor& tensor) {
  if (tensor.dtype == DType::none) return wrong(tensor, Code::invalid_model, "has no element type");
  const auto bytes = checked_bytes(tensor.dtype, tensor.shape.dims());
  if (!bytes) return wrong(tensor, Code::invalid_model, "the shape " + tensor.shape.to_string() + " has no size that a tensor can have");
  if (!tensor.file) {
    if (!tensor.memory) return wrong(tensor, Code::invalid_model, "has no data");
    if (tensor.encoding != Encoding::raw || tensor.memory->dtype() != tensor.dtype || tensor.memory->bytes() != *bytes) {
      return wrong(tensor, Code::invalid_model,
                   "the data in memory has " + std::to_string(tensor.memory->bytes()) + " bytes of " +
                       std::string(dtype_name(tensor.memory->dtype())) + ", the tensor wants " + std::to_string(*bytes) + " of " +
                       std::string(dtype_name(tensor.dtype)));
    }
    return {};
  }
  auto identity = tensor.file->identity();
  if (!identity.ok()) return in_file(std::move(identity).status(), tensor);
  if (!range_within(tensor.offset, tensor.stored_bytes, identity->bytes)) {
    return wrong(tensor, Code::corruption,
                 std::to_string(tensor.stored_bytes) + " bytes at " + std::to_string(tensor.offset) + " are wanted, the file has " +
                     std::to_string(identity->bytes));
  }
  if (!fits_encoding(tensor.dtype, tensor.encoding)) {
    return wrong(tensor, Code::invalid_model,
                 std::string("elements of ") + std::string(dtype_name(tensor.dtype)) + " are not stored in this kind of field");
  }
  const bool fits = tensor.encoding == Encoding::raw ? tensor.stored_bytes == *bytes : plausible(tensor, *bytes / unit_bytes(tensor.dtype));
  if (!fits) {
    return wrong(tensor, Code::invalid_model,
                 std::to_string(tensor.stored_bytes) + " bytes are stored, which does not fit " + std::string(dtype_name(tensor.dtype)) +
                     tensor.shape.to_string() + " (" + std::to_string(*bytes) + " bytes)");
  }
  return {};
}

Status read_source_tensor(const SourceTensor& tensor, std::uint64_t offset, std::span<std::byte> out) {
  FB_TRY(check_source_tensor(tensor));
  const std::uint64_t bytes = tensor.bytes();
  if (!range_within(offset, out.size(), bytes)) {
    return wrong(tensor, Code::invalid_argument, "bytes [" + std::to_string(offset) + ", +" + std::to_string(out.size()) +
                                                     ") of " + std::to_string(bytes) + " are asked for");
  }
  if (out.empty() && (tensor.encoding == Encoding::raw || bytes != 0)) return {};
  if (!tensor.file) {
    std::memcpy(out.data(), tensor.memory->data() + offset, out.size());
    normalise_bools(tensor, out);
    return {};
  }
  if (tensor.encoding == Encoding::raw) {
    if (Status status = tensor.file->read_exactly(tensor.offset + offset, out); !status.ok()) return in_file(std::move(status), tensor);
    normalise_bools(tensor, out);
    return {};
  }
  if (offset != 0 || out.size() != bytes)
    return wrong(tensor, Code::invalid_argument, "this encoding is decoded whole, not from the middle");
  Decoder decoder(tensor, out);
  if (Status status = decoder.run(); !status.ok()) return in_file(std::move(status), tensor);
  return {};
}

Result<HostTensor> load_source_tensor(const SourceTensor& tensor, std::uint64_t max_bytes) {
  FB_TRY(check_source_tensor(tensor));
  if (tensor.bytes() > max_bytes) {
    return wrong(tensor, Code::resource_exhausted,
                 std::to_string(tensor.bytes()) + " bytes, and at most " + std::to_string(max_bytes) + " may be held here");
  }
  try {
    HostTensor host(tensor.dtype, tensor.shape);
    FB_TRY(read_source_tensor(tensor, 0, {host.data(), static_cast<std::size_t>(host.bytes())}));
    return host;
  } catch (const std::bad_alloc&) {
    return wrong(tensor, Code::out_of_memory, "the host refused " + std::to_string(tensor.bytes()) + " bytes");
  }
}

}  // namespace forebay
