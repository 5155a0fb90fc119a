// TensorProto (without payloads, as the pre-pass hands it on) to the checked record of a source tensor.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/source_tensor.h"

namespace forebay::onnx_wire {
class TensorProto;
}

namespace forebay::onnx {

std::optional<DType> dtype_from_onnx(std::int32_t data_type);
// "string", "complex64", ... for types that exist in ONNX and not here; empty for numbers that ONNX does not know either.
std::string_view unsupported_onnx_type(std::int32_t data_type);

// The files that the tensors of one model lie in: the model itself and its external data, each opened once.
class TensorFiles {
 public:
  // `path` is the user's own word for the model; `file` is it, open and buffered.
  TensorFiles(FileSystem& fs, std::string path, std::shared_ptr<File> file);
  const std::string& model_name() const { return model_->name(); }

  struct Made {
    SourceTensor tensor;
    std::string unsupported;  // not empty: a well-formed tensor that this build cannot take, and why; `tensor` holds its name alone
  };
  // Failures name file, tensor and offset. External files are opened beneath the model's folder.
  Result<Made> make(const onnx_wire::TensorProto& proto);
  std::vector<std::string> notes() const { return {notes_.begin(), notes_.end()}; }

 private:
  Status locate_inline(const onnx_wire::TensorProto& proto, SourceTensor& tensor) const;
  Status locate_external(const onnx_wire::TensorProto& proto, SourceTensor& tensor);
  Result<std::shared_ptr<File>> external(const std::string& location);

  FileSystem& fs_;
  std::string path_, folder_;
  std::shared_ptr<File> model_;
  std::map<std::string, std::shared_ptr<File>> external_;
  std::set<std::string> notes_;
};

}  // namespace forebay::onnx
