// The header of a safetensors file: 8 bytes of length, then JSON that says where each tensor lies. Nothing in it is trusted.
//
// Invariants of an accepted header (the fuzzer checks them against a second parser):
//   1. names are unique; no entry key is missing, repeated or unknown; nothing is nested deeper than the format has it
//   2. sorted by offset the entries are contiguous from 0 and end exactly at the end of the file
//   3. every byte range is as long as shape and dtype say, in checked arithmetic
//   4. time and memory are linear in the header's length, and the length is capped before anything is read
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay::refit {

struct SafetensorsLimits {
  std::uint64_t max_header_bytes = 100'000'000;  // the format's own limit
  std::uint64_t max_entries = 500'000;
  std::uint64_t max_name_bytes = 64 * 1024;
  std::uint64_t max_metadata_entries = 100'000;
};

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::none;       // none: well formed, but of a type that forebay has no tensors of (C64, F6_...)
  const char* dtype_word = "";     // as the file spells it; static
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // from the start of the data
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by offset
  std::map<std::string, std::string> metadata;
  std::uint64_t data_start = 0;  // in the file
};

// Takes the JSON piece by piece, so that the text of a large header is never held.
class SafetensorsHeaderParser {
 public:
  // `file` is for messages; `header_bytes` is the length that the first 8 bytes state.
  SafetensorsHeaderParser(std::string file, std::uint64_t header_bytes, const SafetensorsLimits& limits);
  ~SafetensorsHeaderParser();
  // The pieces must add up to header_bytes. invalid_model or unsupported, naming file and tensor.
  Status feed(std::span<const char> piece);
  // All checks that need the whole. `file_bytes` is the real size; corruption when the file is shorter than the entries state.
  Result<SafetensorsHeader> finish(std::uint64_t file_bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The length field: present, capped, within the file.
Result<std::uint64_t> check_safetensors_length(std::span<const std::byte> first_bytes, std::uint64_t file_bytes, const std::string& file,
                                               const SafetensorsLimits& limits);
// Everything at once, for a file that lies in memory (the fuzzer, tests).
Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> file_content, const std::string& file,
                                            const SafetensorsLimits& limits);

}  // namespace forebay::refit
