#include "base/npy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <new>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"

namespace forebay {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::uint32_t kHeaderBytesMax = 64 * 1024;

struct Letter {
  std::string_view descr;
  DType dtype;
};
constexpr Letter kLetters[] = {
    {"<f4", DType::f32}, {"<f2", DType::f16}, {"<f8", DType::f64}, {"|i1", DType::i8},  {"<i2", DType::i16},    {"<i4", DType::i32},
    {"<i8", DType::i64}, {"|u1", DType::u8},  {"<u2", DType::u16}, {"<u4", DType::u32}, {"<u8", DType::u64},    {"|b1", DType::boolean},
    {"<V2", DType::bf16}, {"|V2", DType::bf16},
};

std::string_view descr_of(DType dtype) {
  for (const Letter& letter : kLetters) {
    if (letter.dtype == dtype) return letter.descr;
  }
  return dtype_bits(dtype) == 8 ? "|V1" : "|u1";
}

Status malformed(std::string why, std::uint64_t offset) {
  return Status(Code::invalid_argument, "not a .npy file that can be read: " + std::move(why)).with_offset(offset);
}

struct Header {
  std::string descr;
  bool column_major = false;
  std::vector<std::int64_t> shape;
};

// Reads the one Python dictionary literal that the format allows, and nothing else.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::uint64_t offset) : text_(text), offset_(offset) {}

  Result<Header> run() {
    Header header;
    bool descr = false, order = false, shape = false;
    FB_TRY(expect('{'));
    while (!peek('}')) {
      FB_ASSIGN(const std::string key, quoted());
      FB_TRY(expect(':'));
      bool* seen = key == "descr" ? &descr : key == "fortran_order" ? &order : key == "shape" ? &shape : nullptr;
      if (seen == nullptr) return wrong("unknown key \"" + printable(key) + "\"");
      if (*seen) return wrong("key \"" + key + "\" twice");
      *seen = true;
      if (seen == &descr) {
        FB_ASSIGN(header.descr, quoted());
      } else if (seen == &order) {
        FB_ASSIGN(header.column_major, boolean());
      } else {
        FB_ASSIGN(header.shape, tuple());
      }
      if (!take(',')) break;
    }
    FB_TRY(expect('}'));
    skip_space();
    if (at_ != text_.size()) return wrong("bytes after the header's dictionary");
    if (!descr || !order || !shape) return wrong("descr, fortran_order and shape are wanted");
    return header;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool peek(char c) {
    skip_space();
    return at_ < text_.size() && text_[at_] == c;
  }
  bool take(char c) {
    if (!peek(c)) return false;
    ++at_;
    return true;
  }
  Status expect(char c) { return take(c) ? Status() : wrong(std::string("'") + c + "' is wanted"); }
  Status wrong(std::string why) const { return malformed(std::move(why), offset_ + at_); }
  Result<std::string> quoted() {
    skip_space();
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"'))
      return wrong("a quoted word is wanted (structured types are not read)");
    const char quote = text_[at_++];
    const std::size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos || end - at_ > 32) return wrong("a quoted word does not end");
    std::string word(text_.substr(at_, end - at_));
    at_ = end + 1;
    return word;
  }
  Result<bool> boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    return wrong("True or False is wanted");
  }
  Result<std::vector<std::int64_t>> tuple() {
    std::vector<std::int64_t> dims;
    FB_TRY(expect('('));
    while (!peek(')')) {
      skip_space();
      std::int64_t dim = -1;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), dim);
      if (error != std::errc() || dim < 0) return wrong("a dimension is wanted");
      at_ = static_cast<std::size_t>(end - text_.data());
      take('L');  // files of Python 2
      dims.push_back(dim);
      if (dims.size() > static_cast<std::size_t>(kMaxRank)) return wrong("more than " + std::to_string(kMaxRank) + " dimensions");
      if (!take(',')) break;
    }
    FB_TRY(expect(')'));
    return dims;
  }

  std::string_view text_;
  std::uint64_t offset_;
  std::size_t at_ = 0;
};

// The element type of the file for a caller who wants `wanted`.
Result<DType> type_of(const std::string& descr, DType wanted) {
  std::optional<DType> found;
  for (const Letter& letter : kLetters) {
    if (letter.descr == descr) found = letter.dtype;
  }
  const bool nameless = descr == "<V2" || descr == "|V2" || descr == "|V1" || descr == "|u1";
  if (wanted == DType::none) {
    if (found) return *found;
    return Status(Code::unsupported, "element type \"" + printable(descr) + "\" is not read here");
  }
  if (found == wanted) return wanted;
  const int bits = descr == "<V2" || descr == "|V2" ? 16 : 8;
  if (nameless && (dtype_bits(wanted) == bits || (bits == 8 && dtype_bits(wanted) < 8)) && wanted != DType::boolean && wanted != DType::i8)
    return wanted;
  return Status(Code::invalid_argument, "the file holds " + (found ? std::string(dtype_name(*found)) : "\"" + printable(descr) + "\"") +
                                            ", wanted is " + std::string(dtype_name(wanted)));
}

// Column-major to row-major.
HostTensor transposed(const HostTensor& from) {
  HostTensor to(from.dtype(), from.shape());
  const auto width = static_cast<std::size_t>(dtype_bits(from.dtype()) / 8);
  const Shape& shape = from.shape();
  const std::int64_t count = shape.elements();
  std::array<std::int64_t, kMaxRank> index{};
  for (std::int64_t at = 0; at < count; ++at) {
    std::int64_t source = 0, stride = 1;
    for (int axis = 0; axis < shape.rank(); ++axis) {
      source += index[static_cast<std::size_t>(axis)] * stride;
      stride *= shape[axis];
    }
    std::memcpy(to.data() + static_cast<std::size_t>(at) * width, from.data() + static_cast<std::size_t>(source) * width, width);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      auto& place = index[static_cast<std::size_t>(axis)];
      if (++place < shape[axis]) break;
      place = 0;
    }
  }
  return to;
}

struct Located {
  Header header;
  std::uint64_t data_offset = 0;
};

Result<Located> read_header(File& file) {
  std::array<std::byte, 12> start{};
  FB_ASSIGN(const FileIdentity identity, file.identity());
  if (identity.bytes < 10) return malformed("the file has " + std::to_string(identity.bytes) + " bytes", 0);
  const std::size_t start_bytes = std::min<std::uint64_t>(identity.bytes, start.size());
  FB_TRY(file.read_exactly(0, std::span(start).first(start_bytes)));
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(start[i]); };
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0) return malformed("the magic bytes are missing", 0);
  const std::uint32_t major = byte(6);
  if (major < 1 || major > 3 || byte(7) != 0) return malformed("version " + std::to_string(major) + "." + std::to_string(byte(7)), 6);
  if (major > 1 && start_bytes < start.size()) return malformed("the header is cut", start_bytes);
  const std::uint32_t length = major == 1 ? byte(8) | byte(9) << 8 : byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24;
  const std::uint64_t header_offset = major == 1 ? 10 : 12;
  if (length > kHeaderBytesMax || !range_within(header_offset, length, identity.bytes)) {
    return malformed("a header of " + std::to_string(length) + " bytes", 8);
  }
  std::string text(length, '\0');
  FB_TRY(file.read_exactly(header_offset, std::as_writable_bytes(std::span(text))));
  Located located;
  FB_ASSIGN(located.header, HeaderParser(text, header_offset).run());
  located.data_offset = header_offset + length;
  return located;
}

Result<HostTensor> read_tensor(File& file, std::uint64_t max_bytes, DType wanted, const Shape* packed_shape) {
  FB_ASSIGN(const Located located, read_header(file));
  FB_ASSIGN(const DType dtype, type_of(located.header.descr, wanted));
  Shape shape(located.header.shape);
  const bool packed = dtype_bits(dtype) < 8;
  if (packed) {
    if (packed_shape == nullptr) return Status(Code::invalid_argument, "the shape of packed elements is not in the file and must be given");
    const auto stored = checked_bytes(DType::u8, shape.dims());
    shape = *packed_shape;
    if (!stored || stored != checked_bytes(dtype, shape.dims())) {
      return Status(Code::invalid_argument, "the packed bytes do not fit the shape " + shape.to_string());
    }
  }
  const auto bytes = checked_bytes(dtype, shape.dims());
  if (!bytes || *bytes > max_bytes) {
    return Status(Code::resource_exhausted, "a tensor of " + (bytes ? std::to_string(*bytes) : std::string("too many")) +
                                                " bytes, and at most " + std::to_string(max_bytes) + " may be read here");
  }
  FB_ASSIGN(const FileIdentity identity, file.identity());
  if (!range_within(located.data_offset, *bytes, identity.bytes)) {
    return Status(Code::corruption, "the file is shorter than its header states: " + std::to_string(located.data_offset + *bytes) +
                                        " bytes are wanted, it has " + std::to_string(identity.bytes));
  }
  HostTensor tensor(dtype, shape);
  FB_TRY(file.read_exactly(located.data_offset, {tensor.data(), static_cast<std::size_t>(*bytes)}));
  if (dtype == DType::boolean) {
    for (std::uint8_t& value : tensor.as<std::uint8_t>()) value = value != 0 ? 1 : 0;
  }
  if (located.header.column_major && shape.rank() > 1 && !packed) return transposed(tensor);
  return tensor;
}

}  // namespace

Result<HostTensor> read_npy(FileSystem& fs, const std::string& path, std::uint64_t max_bytes, DType wanted, const Shape* packed_shape) {
  FB_ASSIGN(const std::unique_ptr<File> file, fs.open_read(path, DirectIo::off));
  try {
    auto tensor = read_tensor(*file, max_bytes, wanted, packed_shape);
    if (!tensor.ok()) return std::move(tensor).status().with_context("reading " + printable(file->name())).with_file(file->name());
    return tensor;
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "the host refused the memory for " + printable(file->name())).with_file(file->name());
  }
}

Status write_npy(FileSystem& fs, const std::string& path, const ConstTensorView& tensor) {
  const auto bytes = checked_bytes(tensor.dtype, tensor.shape.dims());
  if (!tensor.present() || !bytes) return Status(Code::invalid_argument, "there is no tensor to write").with_file(file_name_of(path));
  std::string shape;
  if (dtype_bits(tensor.dtype) < 8) {
    shape = std::to_string(*bytes) + ",";
  } else {
    for (int axis = 0; axis < tensor.shape.rank(); ++axis)
      shape += std::to_string(tensor.shape[axis]) + (tensor.shape.rank() == 1 ? "," : axis + 1 < tensor.shape.rank() ? ", " : "");
  }
  std::string header = "{'descr': '" + std::string(descr_of(tensor.dtype)) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');  // the data starts at a multiple of 64
  header += '\n';
  std::string start(kMagic);
  start += {'\x01', '\x00', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  start += header;
  FB_ASSIGN(const auto file, DurableFile::create(fs, path, start.size() + *bytes));
  FB_TRY(file->append(std::as_bytes(std::span(start))));
  FB_TRY(file->append({tensor.data, static_cast<std::size_t>(*bytes)}));
  return file->commit();
}

}  // namespace forebay
