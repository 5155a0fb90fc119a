// The pre-pass over an ONNX file. It walks the protobuf wire format through bounded reads and hands on small serialised pieces of the
// same message in which every tensor payload is replaced by its extent in the file. Payloads are passed over by their offset, never read.
//
// Invariants, for whatever bytes the file holds:
//  - memory is bounded by Limits::max_model_bytes, whatever lengths the file states; nothing is allocated by a stated length alone
//  - recursion is bounded by Limits::max_depth
//  - every extent lies inside the message that states it, and so inside the file
//  - only known fields are handed on, so that a file cannot state extents of its own
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/file.h"
#include "onnx/onnx_model.h"

namespace forebay::onnx {

// Takes one piece of the root message; merging all pieces in order gives the message without its payloads.
using PieceSink = std::function<Status(const std::string& piece)>;

Status scan_model_wire(File& file, const Limits& limits, const PieceSink& sink);   // root: ModelProto
Status scan_tensor_wire(File& file, const Limits& limits, const PieceSink& sink);  // root: TensorProto; one piece

}  // namespace forebay::onnx
