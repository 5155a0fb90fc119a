// model.safetensors.index.json: {"metadata": {"total_size": N, ...}, "weight_map": {tensor: file}}.
#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <utility>

#include "base/check.h"
#include "refit/safetensors_reader.h"

namespace forebay::refit {
namespace {

namespace json = boost::json;

// A file name of an index is one component of its folder: it is opened beneath it, and this check gives the better message.
bool single_component(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 && name.find('/') == std::string::npos &&
         name.find('\\') == std::string::npos &&
         std::all_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
}

struct IndexHandler {
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);
  using error = json::error_code;

  SafetensorsLimits limits;
  int depth = 0;             // of objects and arrays
  bool in_map = false, in_metadata = false;
  bool map_seen = false, metadata_seen = false;
  std::string text, key1, key2;  // keys of the first and second level
  std::vector<std::pair<std::string, std::string>> map;
  bool has_total_size = false;
  std::uint64_t total_size = 0;
  std::string problem;

  bool refuse(error& ec, std::string why) {
    problem = std::move(why);
    ec = boost::system::errc::make_error_code(boost::system::errc::bad_message);
    return false;
  }
  bool append(json::string_view s, error& ec) {
    if (text.size() + s.size() > limits.max_name_bytes)
      return refuse(ec, "a text is longer than " + std::to_string(limits.max_name_bytes) + " bytes");
    text.append(s.data(), s.size());
    return true;
  }
  // A value that is no string where the weight map wants a file name, or that stands in place of the map itself.
  bool other_value(error& ec) {
    if (in_map) return refuse(ec, "weight_map does not name a file for '" + key2.substr(0, 200) + "'");
    if (depth == 0) return refuse(ec, "the file is not a JSON object");
    if (depth == 1 && key1 == "weight_map") return refuse(ec, "weight_map is not an object");
    return true;
  }
  bool on_document_begin(error&) { return true; }
  bool on_document_end(error&) { return true; }
  bool on_object_begin(error& ec) {
    if (in_map) return other_value(ec);
    if (depth == 1) {
      in_map = key1 == "weight_map";
      in_metadata = key1 == "metadata";
    }
    ++depth;
    return true;
  }
  bool on_object_end(std::size_t, error&) {
    if (--depth == 1) in_map = in_metadata = false;
    return true;
  }
  bool on_array_begin(error& ec) {
    if (!other_value(ec)) return false;
    ++depth;
    return true;
  }
  bool on_array_end(std::size_t, error&) {
    --depth;
    return true;
  }
  bool on_key_part(json::string_view s, std::size_t, error& ec) { return append(s, ec); }
  bool on_key(json::string_view s, std::size_t, error& ec) {
    if (!append(s, ec)) return false;
    std::string name = std::exchange(text, {});
    if (depth == 1) {
      bool* seen = name == "weight_map" ? &map_seen : name == "metadata" ? &metadata_seen : nullptr;
      if (seen != nullptr && std::exchange(*seen, true)) return refuse(ec, "'" + name + "' occurs twice");
      key1 = std::move(name);
    } else if (depth == 2) {
      key2 = std::move(name);
      if (in_map && map.size() >= 8 * limits.max_entries) return refuse(ec, "weight_map has too many entries");
    }
    return true;
  }
  bool on_string_part(json::string_view s, std::size_t, error& ec) { return append(s, ec); }
  bool on_string(json::string_view s, std::size_t, error& ec) {
    if (!append(s, ec)) return false;
    std::string value = std::exchange(text, {});
    if (!in_map) return other_value(ec);
    if (!single_component(value))
      return refuse(ec, "weight_map names the file '" + value.substr(0, 200) + "' for '" + key2.substr(0, 200) +
                            "'; only a plain file name is taken");
    map.emplace_back(std::move(key2), std::move(value));
    return true;
  }
  bool number(std::uint64_t value, bool valid, error& ec) {
    if (!other_value(ec)) return false;
    if (in_metadata && depth == 2 && key2 == "total_size" && valid) {
      has_total_size = true;
      total_size = value;
    }
    return true;
  }
  bool on_number_part(json::string_view, error&) { return true; }
  bool on_int64(std::int64_t v, json::string_view, error& ec) { return number(static_cast<std::uint64_t>(v), v >= 0, ec); }
  bool on_uint64(std::uint64_t v, json::string_view, error& ec) { return number(v, true, ec); }
  bool on_double(double v, json::string_view, error& ec) {  // some writers put 1.5e10
    return number(v >= 0 && v < 1.8e19 ? static_cast<std::uint64_t>(v) : 0, v >= 0 && v < 1.8e19, ec);
  }
  bool on_bool(bool, error& ec) { return other_value(ec); }
  bool on_null(error& ec) { return other_value(ec); }
  bool on_comment_part(json::string_view, error& ec) { return refuse(ec, "a comment"); }
  bool on_comment(json::string_view, error& ec) { return refuse(ec, "a comment"); }
};

Status invalid(const std::string& file, const std::string& tensor, std::string message) {
  Problem problem;
  problem.code = "safetensors_index_invalid";
  problem.message = std::move(message);
  problem.file = file;
  problem.tensor = tensor.substr(0, 200);
  problem.hint = "give the *.safetensors files themselves";
  return Status(Code::invalid_model, std::move(problem));
}

}  // namespace

Result<SafetensorsIndex> parse_safetensors_index(std::span<const char> text, const std::string& file, const SafetensorsLimits& limits) {
  json::parse_options options;
  options.max_depth = 16;
  json::basic_parser<IndexHandler> parser(options);
  IndexHandler& handler = parser.handler();
  handler.limits = limits;
  json::error_code ec;
  const std::size_t used = parser.write_some(false, text.data(), text.size(), ec);
  if (ec) return invalid(file, handler.key2, handler.problem.empty() ? "not valid JSON in UTF-8: " + ec.message() : handler.problem);
  for (const char c : text.subspan(used))
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return invalid(file, "", "text after the end of the JSON object");
  if (!handler.map_seen) return invalid(file, "", "there is no weight_map");
  SafetensorsIndex index;
  index.has_total_size = handler.has_total_size;
  index.total_size = handler.total_size;
  std::sort(handler.map.begin(), handler.map.end());
  for (auto& [tensor, name] : handler.map) {
    if (!index.weight_map.empty() && index.weight_map.rbegin()->first == tensor)
      return invalid(file, tensor, "weight_map lists the tensor twice, in '" + index.weight_map.rbegin()->second + "' and '" + name + "'");
    index.weight_map.emplace_hint(index.weight_map.end(), std::move(tensor), std::move(name));
  }
  return index;
}

Result<SafetensorsIndex> read_safetensors_index(FileSystem& fs, const std::string& path, const SafetensorsLimits& limits) {
  FB_ASSIGN(const std::unique_ptr<File> file, fs.open_read(path, DirectIo::off));
  FB_ASSIGN(const FileIdentity identity, file->identity());
  if (identity.bytes > limits.max_header_bytes)
    return invalid(file->name(), "",
                   "the index has " + std::to_string(identity.bytes) + " bytes, above the limit of " +
                       std::to_string(limits.max_header_bytes));
  std::vector<char> text(static_cast<std::size_t>(identity.bytes));
  FB_TRY(file->read_exactly(0, std::as_writable_bytes(std::span(text))));
  return parse_safetensors_index(text, file->name(), limits);
}

}  // namespace forebay::refit
