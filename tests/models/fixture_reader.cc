#include "models/fixture_reader.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "codec/chunk_codec.h"
#include "support/temp_folder.h"
#include "tools/synth/weight_law.h"

namespace forebay::test {
namespace {

namespace fs = std::filesystem;

std::string folder_of(const std::string& set) { return FOREBAY_SOURCE_DIR "/tests/models/" + set; }

Shape parse_shape(const std::string& text) {
  Shape shape;
  std::istringstream dims(text == "-" ? "" : text);
  for (std::string dim; std::getline(dims, dim, 'x');) shape.push_back(std::stoll(dim));
  return shape;
}

template <typename Store>
void store_value(DType dtype, Store store, float value, std::int64_t whole) {
  switch (dtype) {
    case DType::f32: store(value); break;
    case DType::f16: store(f32_to_f16(value)); break;
    case DType::bf16: store(f32_to_bf16(value)); break;
    case DType::i64: store(whole); break;
    case DType::i32: store(static_cast<std::int32_t>(whole)); break;
    case DType::i8:
    case DType::u8:
    case DType::boolean: store(static_cast<std::uint8_t>(whole)); break;
    default: ADD_FAILURE() << "a fixture holds no " << dtype_name(dtype);
  }
}

// Elements of tensor `name` by the law of fixture_format.py. `a`, `b`: centre and spread, or low and high.
void fill(const std::string& name, DType dtype, std::int64_t count, double a, double b, std::byte* out) {
  const std::uint64_t seed = tools::tensor_seed(0, name);
  const auto low = static_cast<std::int64_t>(a), high = static_cast<std::int64_t>(b);
  const float centre = static_cast<float>(a), spread = static_cast<float>(b);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t hash = tools::mix64(seed + static_cast<std::uint64_t>(i));
    const float value = centre + spread * (static_cast<float>(hash >> 40) * 0x1p-23f - 1.0f);
    const std::int64_t whole = dtype_is_float(dtype) ? 0 : low + static_cast<std::int64_t>(hash % static_cast<std::uint64_t>(high - low));
    store_value(dtype, [&](auto element) { std::memcpy(out + static_cast<std::size_t>(i) * sizeof(element), &element, sizeof(element)); }, value, whole);
  }
}

DType parse_dtype(const std::string& name) { return name == "bool" ? DType::boolean : dtype_from_name(name).value_or(DType::none); }

struct Unpacking {
  Fixture fixture;
  std::string weights, outputs;
  std::size_t graph_bytes = 0, output_at = 0;

  void line(const std::string& text) {
    std::istringstream words(text);
    std::string kind, name, dtype, shape;
    words >> kind;
    if (kind == "graph") {
      words >> graph_bytes;
    } else if (kind == "tolerance") {
      words >> fixture.tolerance;
    } else if (kind == "set") {
      words >> name;
      for (std::int64_t value = 0; words >> value;) fixture.facts[name].push_back(value);
    } else if (kind == "weight") {
      std::int64_t count = 0;
      std::size_t offset = 0;
      double centre = 0, spread = 0;
      words >> name >> dtype >> count >> offset >> centre >> spread;
      const auto bytes = dtype_bytes(parse_dtype(dtype), count);
      ASSERT_TRUE(words && bytes.has_value()) << text;
      weights.resize(std::max(weights.size(), offset + static_cast<std::size_t>(*bytes)));
      fill(name, parse_dtype(dtype), count, centre, spread, reinterpret_cast<std::byte*>(weights.data()) + offset);
    } else {
      ASSERT_TRUE(kind == "input" || kind == "literal" || kind == "output") << text;
      words >> name >> dtype >> shape;
      HostTensor tensor(parse_dtype(dtype), parse_shape(shape));
      if (kind == "output") {
        ASSERT_LE(output_at + tensor.bytes(), outputs.size()) << text;
        if (tensor.bytes() > 0) std::memcpy(tensor.data(), outputs.data() + output_at, tensor.bytes());
        output_at += tensor.bytes();
        fixture.outputs.push_back({name, std::move(tensor)});
      } else {
        if (kind == "literal") fill_literal(words, tensor);
        else fill_by_law(words, name, tensor);
        fixture.inputs.push_back({name, std::move(tensor)});
      }
    }
  }

  static void fill_by_law(std::istringstream& words, const std::string& name, HostTensor& tensor) {
    double a = 0, b = 0;
    words >> a >> b;
    ASSERT_TRUE(static_cast<bool>(words)) << name;
    fill(name, tensor.dtype(), tensor.shape().elements(), a, b, tensor.data());
  }

  static void fill_literal(std::istringstream& words, HostTensor& tensor) {
    std::byte* out = tensor.data();
    std::string word;
    for (std::int64_t i = 0; i < tensor.shape().elements(); ++i) {
      ASSERT_TRUE(static_cast<bool>(words >> word));
      const bool real = dtype_is_float(tensor.dtype());
      const auto store = [&](auto element) {
        std::memcpy(out, &element, sizeof(element));
        out += sizeof(element);
      };
      store_value(tensor.dtype(), store, real ? std::strtof(word.c_str(), nullptr) : 0, real ? 0 : std::stoll(word));
    }
  }
};

}  // namespace

std::vector<std::string> fixture_names(const std::string& set) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_of(set), error)) {
    if (entry.is_directory(error) && fs::exists(entry.path() / "manifest.txt", error)) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Fixture unpack_fixture(const std::string& set, const std::string& name, const std::string& into) {
  const std::string folder = folder_of(set) + "/" + name;
  Unpacking unpacking;
  unpacking.outputs = read_file(folder + "/outputs.bin");
  std::istringstream manifest(read_file(folder + "/manifest.txt"));
  for (std::string text; std::getline(manifest, text);) unpacking.line(text);
  EXPECT_EQ(unpacking.output_at, unpacking.outputs.size()) << folder;
  const std::string stored = read_file(folder + "/model.onnx.zst");
  std::string graph(unpacking.graph_bytes, '\0');
  const Status decoded = codec::ChunkCodec().decode(codec::kZstd, codec::codec_version(codec::kZstd), std::as_bytes(std::span(stored)),
                                                    std::as_writable_bytes(std::span(graph)));
  EXPECT_TRUE(decoded.ok()) << folder << ": " << decoded.to_string();
  write_file(into + "/model.onnx", graph);
  write_file(into + "/weights.bin", unpacking.weights);
  if (decoded.ok() && !testing::Test::HasFatalFailure()) unpacking.fixture.model = into + "/model.onnx";
  return std::move(unpacking.fixture);
}

}  // namespace forebay::test
