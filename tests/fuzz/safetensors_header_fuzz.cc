// The safetensors header, whole and in pieces, and the index of shards. Beyond not crashing:
//   1. names are unique and the entries are contiguous, cover the body exactly, and are as long as shape and dtype say
//   2. the header read in pieces is the header read at once
//   3. a second, tiny parser that knows only the strict form agrees on every file that it understands
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "refit/safetensors_reader.h"

namespace {

using forebay::refit::SafetensorsEntry;
using forebay::refit::SafetensorsHeader;

void demand(bool condition) {
  if (!condition) std::abort();
}

// Understands headers without blanks, escapes, metadata and bytes above 0x7e. `understood` false: no opinion.
class TinyParser {
 public:
  explicit TinyParser(std::string_view text) : rest_(text) {}
  struct Entry {
    std::string dtype;
    std::vector<std::uint64_t> shape, offsets;
  };
  bool understood = true;
  std::map<std::string, Entry> entries;

  bool parse() {
    if (!take('{')) return false;
    if (take('}')) return rest_.empty();
    do {
      std::string name;
      if (!text(name) || !take(':') || name == "__metadata__" || entries.contains(name) || !entry(entries[name])) return false;
    } while (take(','));
    return take('}') && rest_.empty();
  }

 private:
  bool take(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool text(std::string& out) {
    if (!take('"')) return false;
    for (; !rest_.empty() && rest_.front() != '"'; rest_.remove_prefix(1)) {
      if (rest_.front() == '\\' || rest_.front() < 0x20 || rest_.front() > 0x7e) return understood = false;
      out += rest_.front();
    }
    return take('"');
  }
  bool numbers(std::vector<std::uint64_t>& out) {
    if (!take('[')) return false;
    if (take(']')) return true;
    do {
      std::string digits;
      for (; !rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9'; rest_.remove_prefix(1)) digits += rest_.front();
      if (digits.empty() || digits.size() > 18 || (digits.size() > 1 && digits[0] == '0')) return understood = false;
      out.push_back(std::strtoull(digits.c_str(), nullptr, 10));
    } while (take(','));
    return take(']');
  }
  bool entry(Entry& out) {
    std::set<std::string> seen;
    if (!take('{')) return false;
    do {
      std::string key;
      if (!text(key) || !take(':') || !seen.insert(key).second) return false;
      if (key == "dtype"          ? !text(out.dtype)
          : key == "shape"        ? !numbers(out.shape)
          : key == "data_offsets" ? !numbers(out.offsets)
                                  : true)
        return false;
    } while (take(','));
    return take('}') && seen.size() == 3 && out.offsets.size() == 2;
  }
  std::string_view rest_;
};

int bits_of(std::string_view dtype) {
  if (dtype == "F4") return 4;
  if (dtype.starts_with("F6_")) return 6;
  if (dtype == "BOOL" || dtype == "U8" || dtype == "I8" || dtype.starts_with("F8_")) return 8;
  if (dtype == "I16" || dtype == "U16" || dtype == "F16" || dtype == "BF16") return 16;
  if (dtype == "I32" || dtype == "U32" || dtype == "F32") return 32;
  return 64;
}

void check_header(const SafetensorsHeader& header, std::uint64_t file_bytes) {
  std::set<std::string> names;
  std::uint64_t at = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    demand(names.insert(entry.name).second);
    demand(entry.begin == at && entry.end >= entry.begin);
    unsigned __int128 elements = 1;
    for (const std::int64_t dim : entry.shape.dims()) elements *= static_cast<std::uint64_t>(dim);
    demand(elements * static_cast<unsigned>(bits_of(entry.dtype_word)) == static_cast<unsigned __int128>(entry.end - entry.begin) * 8);
    at = entry.end;
  }
  demand(header.data_start + at == file_bytes);
}

void check_second_parser(const SafetensorsHeader& header, std::string_view text) {
  TinyParser tiny(text);
  const bool valid = tiny.parse();
  if (!valid) {
    // Blanks, metadata, padding and escapes are beyond it; but what it calls wrong without those must be wrong.
    demand(!tiny.understood || text.find_first_of(" \n\r\t\\") != std::string_view::npos ||
           text.find("__metadata__") != std::string_view::npos);
    return;
  }
  demand(tiny.entries.size() == header.entries.size());
  for (const SafetensorsEntry& entry : header.entries) {
    const auto found = tiny.entries.find(entry.name);
    demand(found != tiny.entries.end());
    demand(found->second.dtype == entry.dtype_word && found->second.offsets[0] == entry.begin && found->second.offsets[1] == entry.end);
    demand(found->second.shape.size() == static_cast<std::size_t>(entry.shape.rank()));
    for (int axis = 0; axis < entry.shape.rank(); ++axis)
      demand(found->second.shape[static_cast<std::size_t>(axis)] == static_cast<std::uint64_t>(entry.shape[axis]));
  }
}

void check_pieces(const SafetensorsHeader* whole, std::string_view text, std::uint64_t file_bytes, std::size_t piece) {
  forebay::refit::SafetensorsHeaderParser parser("f", text.size(), {});
  for (std::size_t at = 0; at < text.size(); at += piece) {
    if (!parser.feed({text.data() + at, std::min(piece, text.size() - at)}).ok()) return demand(whole == nullptr);
  }
  const auto header = parser.finish(file_bytes);
  demand(header.ok() == (whole != nullptr));
  if (whole == nullptr) return;
  demand(header->entries.size() == whole->entries.size());
  for (std::size_t i = 0; i < header->entries.size(); ++i) demand(header->entries[i].name == whole->entries[i].name);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto header = forebay::refit::parse_safetensors(file, "f", {});
  if (header.ok()) check_header(*header, size);
  if (!header.ok()) demand(!header.status().problems().empty());
  std::uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data, 8);
  if (size >= 10 && length >= 2 && length <= size - 8) {
    const std::string_view text(reinterpret_cast<const char*>(data) + 8, static_cast<std::size_t>(length));
    if (header.ok()) check_second_parser(*header, text);
    check_pieces(header.ok() ? &*header : nullptr, text, size, 1 + size % 7);
  }
  const auto index = forebay::refit::parse_safetensors_index({reinterpret_cast<const char*>(data), size}, "i", {});
  if (index.ok())
    for (const auto& [tensor, name] : index->weight_map) demand(!name.empty() && name != ".." && name.find('/') == std::string::npos);
  return 0;
}
