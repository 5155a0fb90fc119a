// read_model and read_tensor_file: the pre-pass feeds the converter piece by piece, so that no more than one piece is held twice.
#include <array>
#include <new>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/printable.h"
#include "onnx/model_convert.h"
#include "onnx/onnx_model.h"
#include "onnx/tensor_record.h"
#include "onnx/wire_scan.h"
#include "onnx_wire.pb.h"

namespace forebay::onnx {
namespace {

// Files that people hand in by mistake get a better answer than "these bytes are no field".
Status check_start(File& file) {
  std::array<char, 48> start{};
  FB_ASSIGN(const std::size_t got, file.read_at(0, std::as_writable_bytes(std::span(start))));
  const std::string_view text(start.data(), got);
  if (got == 0) return Status(Code::invalid_model, "the file is empty").with_file(file.name()).with_offset(0);
  if (text.starts_with("version https://git-lfs")) {
    return Status(Code::invalid_model, "this is a Git LFS pointer, not the model itself")
        .with_file(file.name())
        .with_hint("fetch the model with: git lfs pull");
  }
  const bool zip = text.starts_with("PK\x03\x04");
  if (zip)
    return Status(Code::invalid_model, "this is a zip file, not an ONNX model")
        .with_file(file.name())
        .with_hint("unpack it first, or export the model as ONNX");
  return {};
}

Result<Model> read_open_model(FileSystem& fs, const std::string& path, const Limits& limits) {
  FB_ASSIGN(std::unique_ptr<File> opened, fs.open_read(path, DirectIo::off));
  const std::shared_ptr<File> file = std::move(opened);
  FB_TRY(check_start(*file));
  Model model;
  model.file_name = file->name();
  FB_ASSIGN(const FileIdentity identity, file->identity());
  model.file_bytes = identity.bytes;
  TensorFiles files(fs, path, file);
  ModelConverter converter(files, limits, model);
  FB_TRY(scan_model_wire(*file, limits, [&](const std::string& piece) { return converter.add(piece); }));
  FB_TRY(converter.finish());
  model.notes = files.notes();
  return model;
}

Result<HostTensor> read_open_tensor(FileSystem& fs, const std::string& path, std::uint64_t max_bytes, std::string* name) {
  FB_ASSIGN(std::unique_ptr<File> opened, fs.open_read(path, DirectIo::off));
  const std::shared_ptr<File> file = std::move(opened);
  std::string message;
  FB_TRY(scan_tensor_wire(*file, Limits{}, [&](const std::string& piece) {
    message += piece;
    return Status();
  }));
  onnx_wire::TensorProto proto;
  if (!proto.ParseFromString(message)) return Status(Code::invalid_model, "the tensor cannot be parsed");
  TensorFiles files(fs, path, file);
  FB_ASSIGN(const TensorFiles::Made made, files.make(proto));
  if (!made.unsupported.empty()) return Status(Code::unsupported, "a " + made.unsupported + " is not read here");
  if (name != nullptr) *name = made.tensor.name;
  return load_source_tensor(made.tensor, max_bytes);
}

}  // namespace

Result<Model> read_model(FileSystem& fs, const std::string& path, const Limits& limits) {
  try {
    auto model = read_open_model(fs, path, limits);
    if (model.ok()) return model;
    return std::move(model).status().with_context("reading " + printable(file_name_of(path))).with_file(file_name_of(path));
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "the host refused the memory for the graph of " + printable(file_name_of(path)))
        .with_file(file_name_of(path));
  }
}

Result<HostTensor> read_tensor_file(FileSystem& fs, const std::string& path, std::uint64_t max_bytes, std::string* name) {
  try {
    auto tensor = read_open_tensor(fs, path, max_bytes, name);
    if (tensor.ok()) return tensor;
    return std::move(tensor).status().with_context("reading " + printable(file_name_of(path))).with_file(file_name_of(path));
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "the host refused the memory for " + printable(file_name_of(path))).with_file(file_name_of(path));
  }
}

}  // namespace forebay::onnx
