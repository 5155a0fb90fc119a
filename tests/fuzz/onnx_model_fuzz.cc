// Any bytes as an ONNX file. Invariants (those of wire_scan.h): no crash, memory bounded by the limits, every extent of a model that is
// taken lies inside the file, and the gate answers for each tensor.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/checked.h"
#include "onnx/onnx_model.h"
#include "onnx/tensor_walk.h"
#include "support/memory_fs.h"

namespace {

using namespace forebay;

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  test::MemoryFs fs;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  fs.put("/models/m.onnx", bytes);
  onnx::Limits limits;
  limits.max_nodes = limits.max_tensors = 20'000;
  limits.max_model_bytes = 8 << 20;
  auto model = onnx::read_model(fs, "/models/m.onnx", limits);
  if (!model.ok()) {
    require(!model.status().problems().empty() && !model.status().problems().front().file.empty());
  } else {
    static_cast<void>(onnx::inline_functions(*model, limits).ok());
    onnx::for_each_tensor(model->graph, [&](const std::string&, const SourceTensor& tensor) {
      if (tensor.file) require(range_within(tensor.offset, tensor.stored_bytes, size));
      auto loaded = load_source_tensor(tensor, 1 << 20);
      if (loaded.ok()) require(loaded->bytes() == tensor.bytes());
    });
  }
  // The same bytes as a tensor of backend test data.
  static_cast<void>(onnx::read_tensor_file(fs, "/models/m.onnx", 1 << 20, nullptr).ok());
  return 0;
}
