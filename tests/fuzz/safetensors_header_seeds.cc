// Valid files, and one of each way to be wrong.
#include "fuzz_seeds.h"
#include "refit/safetensors_text.h"

std::vector<std::string> forebay_fuzz_seeds() {
  using forebay::test::safetensors_entry;
  using forebay::test::safetensors_file;
  const auto one = [](const std::string& entry, std::size_t body) { return safetensors_file("{" + entry + "}", std::string(body, '\1')); };
  return {
      safetensors_file("{}", ""),
      safetensors_file("{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\\u00e4\"}}   ", ""),
      one(safetensors_entry("a", "F32", "[2,3]", 0, 24), 24),
      one(safetensors_entry("b", "BF16", "[4]", 4, 12) + "," + safetensors_entry("a", "U8", "[4]", 0, 4), 12),
      one(safetensors_entry("empty", "I64", "[0,9]", 0, 0) + "," + safetensors_entry("scalar", "F64", "[]", 0, 8), 8),
      one(safetensors_entry("f4", "F4", "[2,4]", 0, 4) + "," + safetensors_entry("c", "C64", "[1]", 4, 12), 12),
      one(safetensors_entry("gap", "U8", "[1]", 1, 2), 2),
      one(safetensors_entry("a", "U8", "[2]", 0, 2) + "," + safetensors_entry("a", "U8", "[2]", 0, 2), 2),
      one(safetensors_entry("wrap", "F64", "[4611686018427387904,8]", 0, 0), 0),
      std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10),
      R"({"metadata":{"total_size":12},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})",
  };
}
