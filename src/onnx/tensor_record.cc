#include "onnx/tensor_record.h"

#include <charconv>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"
#include "onnx_wire.pb.h"

namespace forebay::onnx {
namespace {

using onnx_wire::TensorProto;

constexpr std::uint32_t kFloatData = 4, kInt32Data = 5, kStringData = 6, kInt64Data = 7, kRawData = 9, kDoubleData = 10, kUint64Data = 11;

// By the public numbers of TensorProto.DataType.
constexpr DType kTypes[] = {
    DType::none,       DType::f32,    DType::u8,         DType::i8,  DType::u16, DType::i16,    DType::i32,    DType::i64,  DType::none,
    DType::boolean,    DType::f16,    DType::f64,        DType::u32, DType::u64, DType::none,   DType::none,   DType::bf16, DType::f8e4m3fn,
    DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz, DType::u4,  DType::i4,  DType::f4e2m1, DType::f8e8m0, DType::u2,   DType::i2,
};

// The field that ONNX keeps elements of a type in, when they are not raw.
std::uint32_t typed_field(DType dtype) {
  switch (dtype) {
    case DType::f32: return kFloatData;
    case DType::f64: return kDoubleData;
    case DType::i64: return kInt64Data;
    case DType::u32:
    case DType::u64: return kUint64Data;
    default: return kInt32Data;
  }
}

Encoding typed_encoding(std::uint32_t field) {
  if (field == kFloatData) return Encoding::fixed32;
  if (field == kDoubleData) return Encoding::fixed64;
  return Encoding::varint;
}

Status bad(const TensorProto& proto, std::string why, Code code = Code::invalid_model) {
  Status status(code, "tensor \"" + printable(proto.name()) + "\": " + std::move(why));
  std::move(status).with_tensor(printable(proto.name()));
  return status;
}

Result<std::uint64_t> number(const TensorProto& proto, const std::string& key, const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return bad(proto, "external data with the " + key + " \"" + printable(text) + "\", which is no number of bytes");
  }
  return value;
}

struct ExternalKeys {
  std::string location;
  std::optional<std::uint64_t> offset, length;
  bool checksum = false;
};

Result<ExternalKeys> external_keys(const TensorProto& proto) {
  ExternalKeys keys;
  bool has_location = false;
  for (const auto& entry : proto.external_data()) {
    const std::string& key = entry.key();
    bool again = false;
    if (key == "location") {
      again = std::exchange(has_location, true);
      keys.location = entry.value();
    } else if (key == "offset" || key == "length") {
      auto& place = key == "offset" ? keys.offset : keys.length;
      again = place.has_value();
      FB_ASSIGN(place, number(proto, key, entry.value()));
    } else if (key == "checksum") {
      again = std::exchange(keys.checksum, true);
    } else {
      return bad(proto, "external data with the unknown key \"" + printable(key) + "\"", Code::unsupported);
    }
    if (again) return bad(proto, "external data states its " + key + " twice");
  }
  if (!has_location) return bad(proto, "external data without a location");
  return keys;
}

}  // namespace

std::optional<DType> dtype_from_onnx(std::int32_t data_type) {
  if (data_type <= 0 || data_type >= static_cast<std::int32_t>(std::size(kTypes))) return std::nullopt;
  const DType dtype = kTypes[data_type];
  if (dtype == DType::none) return std::nullopt;
  return dtype;
}

std::string_view unsupported_onnx_type(std::int32_t data_type) {
  switch (data_type) {
    case 8: return "string";
    case 14: return "complex64";
    case 15: return "complex128";
    default: return "";
  }
}

TensorFiles::TensorFiles(FileSystem& fs, std::string path, std::shared_ptr<File> file)
    : fs_(fs), path_(std::move(path)), folder_(folder_of(path_)), model_(std::move(file)) {}

Result<TensorFiles::Made> TensorFiles::make(const TensorProto& proto) {
  Made made;
  made.tensor.name = proto.name();
  const auto failed = [&](Status status) {
    std::move(status).with_file(model_name());
    if (proto.forebay_offset_size() != 0) std::move(status).with_offset(proto.forebay_offset(0));
    return status;
  };
  // A parser would merge two tensors in one place; no writer does that, and the extents of both would be mixed up.
  if (proto.forebay_offset_size() > 1) return failed(bad(proto, "two tensors stand where one is wanted"));
  for (const std::int64_t dim : proto.dims()) {
    if (dim < 0) return failed(bad(proto, "the dimension " + std::to_string(dim) + " is negative"));
  }
  if (const std::string_view kind = unsupported_onnx_type(proto.data_type()); !kind.empty()) {
    made.unsupported = std::string(kind) + " tensor";
    return made;
  }
  const auto dtype = dtype_from_onnx(proto.data_type());
  if (!dtype) {
    if (proto.data_type() <= 0) return failed(bad(proto, "has no element type"));
    made.unsupported = "tensor of the unknown element type " + std::to_string(proto.data_type());
    return made;
  }
  if (proto.has_segment()) {
    made.unsupported = "tensor in segments";
    return made;
  }
  if (proto.dims_size() > kMaxRank) {
    made.unsupported = "tensor of rank " + std::to_string(proto.dims_size()) + " (at most " + std::to_string(kMaxRank) + ")";
    return made;
  }
  const std::vector<std::int64_t> dims(proto.dims().begin(), proto.dims().end());
  if (!checked_bytes(*dtype, dims)) return failed(bad(proto, "the dimensions multiply to more than 64 bits can count"));
  made.tensor.dtype = *dtype;
  made.tensor.shape = Shape(dims);
  Status located = proto.data_location() == 1 ? locate_external(proto, made.tensor) : locate_inline(proto, made.tensor);
  if (!located.ok()) return failed(std::move(located));
  if (Status status = check_source_tensor(made.tensor); !status.ok()) return status;
  return made;
}

Status TensorFiles::locate_inline(const TensorProto& proto, SourceTensor& tensor) const {
  tensor.file = model_;
  tensor.open_name = path_;
  if (proto.data_location() != 0) return bad(proto, "the data location " + std::to_string(proto.data_location()) + " is unknown");
  const TensorProto::Payload* payload = nullptr;
  for (const auto& candidate : proto.forebay_payload()) {
    if (candidate.bytes() == 0) continue;  // an empty field says nothing
    if (payload != nullptr) return bad(proto, "holds its data twice, in two fields");
    payload = &candidate;
  }
  if (payload == nullptr) {
    if (tensor.bytes() != 0) return bad(proto, "has no data, and " + std::to_string(tensor.bytes()) + " bytes are wanted");
    return {};  // an empty extent at the start of the file
  }
  tensor.offset = payload->offset();
  tensor.stored_bytes = payload->bytes();
  if (payload->field() == kRawData) return {};
  if (payload->field() != typed_field(tensor.dtype)) {
    return bad(proto, "elements of " + std::string(dtype_name(tensor.dtype)) + " in field " + std::to_string(payload->field()) +
                          (payload->field() == kStringData ? " (strings)" : "") + ", which is for another type");
  }
  tensor.encoding = typed_encoding(payload->field());
  if (payload->run()) {
    const std::uint32_t wire = tensor.encoding == Encoding::varint ? 0 : tensor.encoding == Encoding::fixed32 ? 5 : 1;
    tensor.field_tag = payload->field() << 3 | wire;
  } else if (tensor.encoding != Encoding::varint) {
    tensor.encoding = Encoding::raw;  // packed fixed-width elements are the tensor's own bytes
  }
  return {};
}

Status TensorFiles::locate_external(const TensorProto& proto, SourceTensor& tensor) {
  for (const auto& payload : proto.forebay_payload()) {
    if (payload.bytes() != 0) return bad(proto, "holds data and says that its data is in another file");
  }
  FB_ASSIGN(const ExternalKeys keys, external_keys(proto));
  if (keys.checksum) notes_.insert("external data of " + printable(model_name()) + ": checksums of the model are not used");
  auto file = external(keys.location);
  if (!file.ok()) {
    Status status = std::move(file).status();
    std::move(status).with_tensor(printable(proto.name()));
    return std::move(status).with_context("external data of tensor \"" + printable(proto.name()) + "\"");
  }
  tensor.file = std::move(file).value();
  tensor.open_folder = folder_;
  tensor.open_name = keys.location;
  tensor.offset = keys.offset.value_or(0);
  tensor.stored_bytes = keys.length.value_or(tensor.bytes());
  return {};
}

Result<std::shared_ptr<File>> TensorFiles::external(const std::string& location) {
  if (const auto known = external_.find(location); known != external_.end()) return known->second;
  auto opened = fs_.open_beneath(folder_, location, DirectIo::off);
  if (!opened.ok()) {
    Status status = std::move(opened).status();
    if (status.code() == Code::not_found) {
      std::move(status).with_hint("keep the model's data files in the folder of the model");
    }
    return status;
  }
  const std::shared_ptr<File> file = std::move(opened).value();
  external_.emplace(location, file);
  return file;
}

}  // namespace forebay::onnx
