#include "refit/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json/basic_parser_impl.hpp>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/checked.h"

namespace forebay::refit {
namespace {

namespace json = boost::json;

struct TypeWord {
  const char* word;
  DType dtype;
  int bits;
};
constexpr std::array<TypeWord, 22> kTypes = {{
    {"BOOL", DType::boolean, 8},
    {"U8", DType::u8, 8},
    {"I8", DType::i8, 8},
    {"F8_E5M2", DType::f8e5m2, 8},
    {"F8_E4M3", DType::f8e4m3fn, 8},
    {"F8_E5M2FNUZ", DType::f8e5m2fnuz, 8},
    {"F8_E4M3FNUZ", DType::f8e4m3fnuz, 8},
    {"F8_E8M0", DType::f8e8m0, 8},
    {"I16", DType::i16, 16},
    {"U16", DType::u16, 16},
    {"F16", DType::f16, 16},
    {"BF16", DType::bf16, 16},
    {"I32", DType::i32, 32},
    {"U32", DType::u32, 32},
    {"F32", DType::f32, 32},
    {"F64", DType::f64, 64},
    {"I64", DType::i64, 64},
    {"U64", DType::u64, 64},
    {"F4", DType::f4e2m1, 4},
    {"C64", DType::none, 64},
    {"F6_E2M3", DType::none, 6},
    {"F6_E3M2", DType::none, 6},
}};

struct Entry {
  SafetensorsEntry entry;
  int bits = 0;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Names may hold anything; messages show them short and printable (the command line escapes once more).
std::string shown(const std::string& name) { return name.size() <= 200 ? name : name.substr(0, 200) + "..."; }

enum class At : std::uint8_t {
  document,
  top,
  entry_value,
  entry,
  dtype,
  shape_value,
  shape,
  offsets_value,
  offsets,
  metadata_value,
  metadata,
  text,
  end
};

// Events of the JSON parser. Anything that the format does not have at this place ends the parse at once.
struct Handler {
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);
  using error = json::error_code;

  SafetensorsLimits limits;
  At at = At::document;
  std::string text;        // the key or string under way
  std::string key;         // of the metadata entry under way
  Entry current;
  int offsets_seen = 0;
  bool metadata_seen = false;
  std::vector<SafetensorsEntry> entries;
  std::vector<std::uint8_t> bits;  // per entry
  std::vector<std::pair<std::string, std::string>> metadata;
  std::string problem;     // why the parse was ended
  Code code = Code::invalid_model;

  bool refuse(error& ec, std::string why, Code c = Code::invalid_model) {
    problem = std::move(why);
    code = c;
    ec = boost::system::errc::make_error_code(boost::system::errc::bad_message);
    return false;
  }
  bool append(json::string_view s, error& ec) {
    if (text.size() + s.size() > limits.max_name_bytes && at != At::text)
      return refuse(ec, "a name is longer than " + std::to_string(limits.max_name_bytes) + " bytes");
    text.append(s.data(), s.size());
    return true;
  }

  bool on_document_begin(error&) { return true; }
  bool on_document_end(error&) { return true; }
  bool on_object_begin(error& ec) {
    if (at == At::document) at = At::top;
    else if (at == At::entry_value) at = At::entry;
    else if (at == At::metadata_value) at = At::metadata;
    else return refuse(ec, "an object stands where the format has none");
    return true;
  }
  bool on_object_end(std::size_t, error& ec) {
    if (at == At::top) {
      at = At::end;
    } else if (at == At::metadata) {
      at = At::top;
    } else {
      if (!current.has_dtype || !current.has_shape || !current.has_offsets)
        return refuse(ec, std::string("the entry has no ") + (!current.has_dtype   ? "dtype"
                                                              : !current.has_shape ? "shape"
                                                                                   : "data_offsets"));
      entries.push_back(std::move(current.entry));
      bits.push_back(static_cast<std::uint8_t>(current.bits));
      current = Entry{};
      at = At::top;
    }
    return true;
  }
  bool on_array_begin(error& ec) {
    if (at == At::shape_value) at = At::shape;
    else if (at == At::offsets_value) at = At::offsets;
    else return refuse(ec, "an array stands where the format has none");
    return true;
  }
  bool on_array_end(std::size_t, error& ec) {
    if (at == At::offsets && offsets_seen != 2)
      return refuse(ec, "data_offsets has " + std::to_string(offsets_seen) + " numbers in place of 2");
    at = At::entry;
    return true;
  }
  bool on_key_part(json::string_view s, std::size_t, error& ec) { return append(s, ec); }
  bool on_key(json::string_view s, std::size_t, error& ec) {
    if (!append(s, ec)) return false;
    std::string name = std::exchange(text, {});
    if (at == At::top) return begin_top(std::move(name), ec);
    if (at == At::metadata) {
      if (metadata.size() >= limits.max_metadata_entries) return refuse(ec, "__metadata__ has too many entries", Code::unsupported);
      key = std::move(name);
      at = At::text;
      return true;
    }
    return begin_member(name, ec);
  }
  bool begin_top(std::string name, error& ec) {
    if (name == "__metadata__") {
      if (std::exchange(metadata_seen, true)) return refuse(ec, "__metadata__ occurs twice");
      at = At::metadata_value;
      return true;
    }
    if (entries.size() >= limits.max_entries)
      return refuse(ec, "more than " + std::to_string(limits.max_entries) + " tensors in one file", Code::unsupported);
    if (name.find('\0') != std::string::npos) return refuse(ec, "a tensor name holds a NUL");
    current.entry.name = std::move(name);
    at = At::entry_value;
    return true;
  }
  bool begin_member(const std::string& name, error& ec) {
    bool* seen = name == "dtype"          ? &current.has_dtype
                 : name == "shape"        ? &current.has_shape
                 : name == "data_offsets" ? &current.has_offsets
                                          : nullptr;
    if (seen == nullptr) return refuse(ec, "the entry has an unknown key '" + shown(name) + "'");
    if (std::exchange(*seen, true)) return refuse(ec, "the entry has the key '" + name + "' twice");
    at = name == "dtype" ? At::dtype : name == "shape" ? At::shape_value : At::offsets_value;
    offsets_seen = 0;
    return true;
  }
  bool on_string_part(json::string_view s, std::size_t, error& ec) { return append(s, ec); }
  bool on_string(json::string_view s, std::size_t, error& ec) {
    if (!append(s, ec)) return false;
    std::string value = std::exchange(text, {});
    if (at == At::text) {
      metadata.emplace_back(std::move(key), std::move(value));
      at = At::metadata;
      return true;
    }
    if (at != At::dtype) return refuse(ec, "a string stands where the format has none");
    for (const TypeWord& type : kTypes) {
      if (value != type.word) continue;
      current.entry.dtype = type.dtype;
      current.entry.dtype_word = type.word;
      current.bits = type.bits;
      at = At::entry;
      return true;
    }
    return refuse(ec, "unknown dtype '" + shown(value) + "'", Code::unsupported);
  }
  bool on_number(std::uint64_t value, error& ec) {
    if (at == At::shape) {
      if (current.entry.shape.rank() == kMaxRank) return refuse(ec, "the rank is above " + std::to_string(kMaxRank), Code::unsupported);
      if (value > static_cast<std::uint64_t>(INT64_MAX)) return refuse(ec, "a dimension is above 2^63 - 1");
      current.entry.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (at != At::offsets) return refuse(ec, "a number stands where the format has none");
    if (offsets_seen == 2) return refuse(ec, "data_offsets has more than 2 numbers");
    (offsets_seen++ == 0 ? current.entry.begin : current.entry.end) = value;
    return true;
  }
  bool on_number_part(json::string_view, error&) { return true; }
  bool on_int64(std::int64_t value, json::string_view, error& ec) {
    if (value < 0) return refuse(ec, "a negative number");
    return on_number(static_cast<std::uint64_t>(value), ec);
  }
  bool on_uint64(std::uint64_t value, json::string_view, error& ec) { return on_number(value, ec); }
  bool on_double(double, json::string_view, error& ec) { return refuse(ec, "a number that is no whole number below 2^64"); }
  bool on_bool(bool, error& ec) { return refuse(ec, "true or false stands where the format has none"); }
  bool on_null(error& ec) { return refuse(ec, "null stands where the format has none"); }
  bool on_comment_part(json::string_view, error& ec) { return refuse(ec, "a comment"); }
  bool on_comment(json::string_view, error& ec) { return refuse(ec, "a comment"); }
};

Status invalid(Code code, const std::string& file, const std::string& tensor, std::optional<std::uint64_t> offset, std::string message) {
  Problem problem;
  problem.code = "safetensors_invalid";
  problem.message = std::move(message);
  problem.file = file;
  problem.tensor = shown(tensor);
  problem.offset = offset;
  problem.hint = code == Code::corruption ? "copy or download the file again" : "write the file again with a safetensors library";
  return Status(code, std::move(problem));
}

// Bytes of a shape with `bits` per element; empty on overflow and where the tensor would end inside a byte.
std::optional<std::uint64_t> bytes_of(const Shape& shape, std::uint64_t bits) {
  std::uint64_t elements = 1;
  for (const std::int64_t dim : shape.dims()) {
    const auto product = checked_mul(elements, static_cast<std::uint64_t>(dim));
    if (!product) return std::nullopt;
    elements = *product;
  }
  if (elements > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
  const auto total = checked_mul(elements, bits);
  if (!total || *total % 8 != 0) return std::nullopt;
  return *total / 8;
}

}  // namespace

struct SafetensorsHeaderParser::State {
  State(std::string name, std::uint64_t bytes, const SafetensorsLimits& limits)
      : file(std::move(name)), header_bytes(bytes), parser(options()) {
    parser.handler().limits = limits;
  }
  static json::parse_options options() {
    json::parse_options o;
    o.max_depth = 4;  // header, entry, array: 3
    return o;
  }
  std::string file;
  std::uint64_t header_bytes = 0, fed = 0;
  json::basic_parser<Handler> parser;
};

SafetensorsHeaderParser::SafetensorsHeaderParser(std::string file, std::uint64_t header_bytes, const SafetensorsLimits& limits)
    : state_(std::make_unique<State>(std::move(file), header_bytes, limits)) {}
SafetensorsHeaderParser::~SafetensorsHeaderParser() = default;

Status SafetensorsHeaderParser::feed(std::span<const char> piece) {
  State& s = *state_;
  FB_CHECK(piece.size() <= s.header_bytes - s.fed);
  if (piece.empty()) return {};
  const std::uint64_t at = 8 + s.fed;
  if (s.fed == 0 && piece[0] != '{') return invalid(Code::invalid_model, s.file, "", 8, "the header does not begin with '{'");
  s.fed += piece.size();
  std::size_t used = 0;
  if (s.parser.handler().at != At::end) {
    json::error_code ec;
    used = s.parser.write_some(s.fed < s.header_bytes, piece.data(), piece.size(), ec);
    const Handler& handler = s.parser.handler();
    if (ec) {
      const bool ours = !handler.problem.empty();
      return invalid(ours ? handler.code : Code::invalid_model, s.file, handler.current.entry.name, at,
                     ours ? "the header is not valid: " + handler.problem : "the header is not valid JSON in UTF-8: " + ec.message());
    }
  }
  // Writers pad the header so that the data starts aligned.
  for (std::size_t i = used; i < piece.size(); ++i)
    if (piece[i] != ' ' && piece[i] != '\n' && piece[i] != '\r' && piece[i] != '\t')
      return invalid(Code::invalid_model, s.file, "", at + i, "the header goes on after its JSON object has ended");
  return {};
}

Result<SafetensorsHeader> SafetensorsHeaderParser::finish(std::uint64_t file_bytes) {
  State& s = *state_;
  Handler& handler = s.parser.handler();
  if (s.fed != s.header_bytes || handler.at != At::end)
    return invalid(Code::invalid_model, s.file, handler.current.entry.name, 8 + s.fed, "the header ends inside its JSON object");
  SafetensorsHeader header;
  header.data_start = 8 + s.header_bytes;
  auto& entries = handler.entries;

  std::vector<std::uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return entries[a].name < entries[b].name; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const SafetensorsEntry &a = entries[order[i - 1]], &b = entries[order[i]];
    if (a.name == b.name)
      return invalid(Code::invalid_model, s.file, a.name, 8,
                     "the tensor is listed twice, at data offsets " + std::to_string(a.begin) + " and " + std::to_string(b.begin));
  }
  std::sort(handler.metadata.begin(), handler.metadata.end());
  for (auto& [key, value] : handler.metadata) {
    if (!header.metadata.empty() && header.metadata.rbegin()->first == key)
      return invalid(Code::invalid_model, s.file, "", 8, "__metadata__ has the key '" + shown(key) + "' twice");
    header.metadata.emplace_hint(header.metadata.end(), std::move(key), std::move(value));
  }

  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return std::pair(entries[a].begin, entries[a].end) < std::pair(entries[b].begin, entries[b].end);
  });
  const std::uint64_t body = file_bytes - std::min(file_bytes, header.data_start);
  std::uint64_t expected = 0;
  const std::string* before = nullptr;
  for (const std::uint32_t i : order) {
    const SafetensorsEntry& e = entries[i];
    if (e.begin != expected)
      return invalid(Code::invalid_model, s.file, e.name, checked_add(header.data_start, e.begin),
                     std::string(e.begin < expected ? "its bytes overlap those of '" : "there is a gap after '") +
                         (before != nullptr ? shown(*before) : "the header") + "': it begins at data offset " + std::to_string(e.begin) +
                         " where " + std::to_string(expected) + " is expected");
    if (e.end < e.begin) return invalid(Code::invalid_model, s.file, e.name, header.data_start + e.begin, "its data ends before it begins");
    const auto bytes = bytes_of(e.shape, handler.bits[i]);
    if (!bytes)
      return invalid(Code::invalid_model, s.file, e.name, std::nullopt,
                     "shape " + e.shape.to_string() + " has no valid size in bytes");
    if (*bytes != e.end - e.begin)
      return invalid(Code::invalid_model, s.file, e.name, checked_add(header.data_start, e.begin),
                     std::string(e.dtype_word) + " " + e.shape.to_string() + " takes " + std::to_string(*bytes) + " bytes, the entry has " +
                         std::to_string(e.end - e.begin));
    expected = e.end;
    before = &e.name;
  }
  if (expected > body)
    return invalid(Code::corruption, s.file, before != nullptr ? *before : "", file_bytes,
                   "the file is cut: it should have " + std::to_string(header.data_start + expected) + " bytes and has " +
                       std::to_string(file_bytes));
  if (expected < body)
    return invalid(Code::invalid_model, s.file, "", header.data_start + expected,
                   std::to_string(body - expected) + " bytes after the last tensor belong to none");
  header.entries.reserve(entries.size());
  for (const std::uint32_t i : order) header.entries.push_back(std::move(entries[i]));
  return header;
}

Result<std::uint64_t> check_safetensors_length(std::span<const std::byte> first_bytes, std::uint64_t file_bytes, const std::string& file,
                                               const SafetensorsLimits& limits) {
  if (first_bytes.size() < 8 || file_bytes < 8)
    return invalid(Code::corruption, file, "", 0, "the file has " + std::to_string(file_bytes) + " bytes, too few for a header length");
  std::uint64_t length = 0;
  std::memcpy(&length, first_bytes.data(), 8);
  if (length > limits.max_header_bytes)
    return invalid(Code::invalid_model, file, "", 0,
                   "the header length " + std::to_string(length) + " is above the limit of " + std::to_string(limits.max_header_bytes));
  const auto end = checked_add(length, 8);
  if (!end || *end > file_bytes)
    return invalid(Code::corruption, file, "", 0,
                   "the file is cut: its header should end at " + std::to_string(length + 8) + ", it has " +
                       std::to_string(file_bytes) + " bytes");
  if (length < 2) return invalid(Code::invalid_model, file, "", 0, "the header is empty");
  return length;
}

Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> content, const std::string& file, const SafetensorsLimits& limits) {
  FB_ASSIGN(const std::uint64_t length,
            check_safetensors_length(content.first(std::min<std::size_t>(content.size(), 8)), content.size(), file, limits));
  SafetensorsHeaderParser parser(file, length, limits);
  FB_TRY(parser.feed({reinterpret_cast<const char*>(content.data()) + 8, static_cast<std::size_t>(length)}));
  return parser.finish(content.size());
}

}  // namespace forebay::refit
