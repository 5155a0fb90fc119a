// Runs one node's kernel the way the executor does, slabs included.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "runtime/op.h"

namespace forebay::testing {

struct NodeRun {
  std::string domain, op;
  std::int32_t version = 13;
  std::vector<plan::Attribute> attributes;
  std::vector<const HostTensor*> inputs;  // null: absent
  std::size_t outputs = 1;
  std::uint32_t sliced = plan::kNone;
  std::vector<std::int64_t> slab_rows = {};
};

inline TypeShape type_of(const HostTensor* t) {
  TypeShape type;
  if (t == nullptr) return type;
  type.dtype = t->dtype();
  type.has_rank = true;
  type.dims.assign(t->shape().dims().begin(), t->shape().dims().end());
  return type;
}

// Outputs start as NaN bytes, the workspace as garbage: what a kernel forgets to write shows. Each slab is a copy of its rows alone.
inline Result<std::vector<HostTensor>> run_node(const NodeRun& run, ThreadPool& pool) {
  const plan::Plan plan;
  const NodeView node("tested", run.domain, run.op, run.version, run.attributes, plan, run.inputs.size(), run.outputs);
  const OpSpec* spec = OpRegistry::builtin().find(run.domain, run.op, run.version);
  if (spec == nullptr) return Status(Code::unsupported, "no such operator: " + run.op);
  std::vector<TypeShape> in, out(run.outputs);
  for (const HostTensor* t : run.inputs) in.push_back(type_of(t));
  InferContext infer(node, in, run.inputs, out);
  if (Status status = spec->infer(infer); !status.ok()) return status;
  auto kernel = spec->create(node, in, out);
  if (!kernel.ok()) return kernel.status();
  PrepareContext prepare{node, in, run.inputs, out, &pool, run.sliced, plan::Consumption::whole, run.slab_rows};
  if (run.sliced != plan::kNone) prepare.consumption = spec->consume(node, run.sliced, in);
  if (Status status = (*kernel)->prepare(prepare); !status.ok()) return status;
  std::vector<HostTensor> made;
  for (const TypeShape& type : out) {
    made.emplace_back(type.dtype, type.shape());
    std::memset(made.back().data(), 0xff, made.back().bytes());
  }
  HostTensor workspace(DType::u8, Shape{static_cast<std::int64_t>((*kernel)->workspace_bytes())});
  std::memset(workspace.data(), 0x7f, workspace.bytes());
  std::vector<ConstTensorView> views;
  for (const HostTensor* t : run.inputs) views.push_back(t != nullptr ? ConstTensorView(*t) : ConstTensorView());
  std::vector<TensorView> results;
  for (HostTensor& t : made) results.push_back({t.data(), t.dtype(), t.shape()});
  KernelCall call;
  call.inputs = views;
  call.outputs = results;
  call.workspace = workspace.data();
  call.workspace_bytes = workspace.bytes();
  call.pool = &pool;
  if (run.sliced == plan::kNone) {
    if (Status status = (*kernel)->run(call); !status.ok()) return status;
    return made;
  }
  const HostTensor& whole = *run.inputs[run.sliced];
  const std::uint64_t row_bytes = whole.bytes() / static_cast<std::uint64_t>(whole.shape()[0]);
  call.slab_count = static_cast<std::uint32_t>(run.slab_rows.size());
  for (std::uint32_t s = 0; s < call.slab_count; ++s) {
    Shape shape = whole.shape();
    shape[0] = run.slab_rows[s];
    HostTensor slab(whole.dtype(), shape);
    std::memcpy(slab.data(), whole.data() + static_cast<std::uint64_t>(call.row_begin) * row_bytes, slab.bytes());
    views[run.sliced] = slab;
    call.slab = s;
    if (Status status = (*kernel)->run(call); !status.ok()) return status;
    call.row_begin += run.slab_rows[s];
  }
  return made;
}

// Values in [-1, 1], rounded to the dtype.
inline HostTensor random_tensor(std::mt19937_64& random, DType dtype, Shape shape) {
  HostTensor t(dtype, shape);
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const float v = value(random);
    const auto at = static_cast<std::size_t>(i);
    if (dtype == DType::f32) t.as<float>()[at] = v;
    if (dtype == DType::f64) t.as<double>()[at] = static_cast<double>(v);
    if (dtype == DType::f16) t.as<std::uint16_t>()[at] = f32_to_f16(v);
    if (dtype == DType::bf16) t.as<std::uint16_t>()[at] = f32_to_bf16(v);
  }
  return t;
}

inline double number(const HostTensor& t, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  if (t.dtype() == DType::f32) return static_cast<double>(t.as<float>()[at]);
  if (t.dtype() == DType::f64) return t.as<double>()[at];
  return static_cast<double>(t.dtype() == DType::f16 ? f16_to_f32(t.as<std::uint16_t>()[at]) : bf16_to_f32(t.as<std::uint16_t>()[at]));
}

inline bool same_bytes(const HostTensor& a, const HostTensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

// Cuts `rows` into random slabs.
inline std::vector<std::int64_t> random_cut(std::mt19937_64& random, std::int64_t rows) {
  std::vector<std::int64_t> cut;
  const std::int64_t size = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(rows));
  for (std::int64_t done = 0; done < rows; done += size) cut.push_back(std::min(size, rows - done));
  return cut;
}

}  // namespace forebay::testing
