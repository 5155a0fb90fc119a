// A node on the CUDA device beside the CPU's kernel. Skips where there is no GPU, and says so.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/check.h"
#include "runtime/device_library.h"
#include "runtime/kernels_harness.h"
#include "runtime/merged_kernel.h"

namespace forebay::testing {

class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = load_device("cuda");
    if (!opened.ok()) GTEST_SKIP() << opened.status().to_string();
    device_ = std::move(opened).value();
    queue_ = device_->create_queue("test", 256).value();
    arena_ = device_->reserve_arena(256ull << 20).value();
    ASSERT_TRUE(arena_->commit(0, 256ull << 20).ok());
  }

  struct Call {
    Kernel* kernel;
    const KernelCall* call;
  };
  std::byte* place(std::uint64_t bytes) {
    std::byte* const at = arena_->base() + used_;
    used_ += (bytes + 63) / 64 * 64;
    EXPECT_LE(used_, arena_->reserved_bytes());
    return at;
  }

  // As run_node, on the device. unsupported when the device has no kernel for it.
  Result<std::vector<HostTensor>> on_device(const NodeRun& run) {
    used_ = 0;
    const plan::Plan plan;
    const NodeView node("tested", run.domain, run.op, run.version, run.attributes, plan, run.inputs.size(), run.outputs);
    const OpSpec* spec = OpRegistry::builtin().find(run.domain, run.op, run.version);
    if (spec == nullptr) return Status(Code::not_found, "no such operator: " + run.op);
    std::vector<TypeShape> in, out(run.outputs);
    for (const HostTensor* t : run.inputs) in.push_back(type_of(t));
    InferContext infer(node, in, run.inputs, out);
    FB_TRY(spec->infer(infer));
    for (const std::size_t o : unwanted_) out[o] = TypeShape();
    FB_ASSIGN(auto kernel, device_->create_kernel(node, in, out));
    if (kernel == nullptr) return Status(Code::unsupported, "none");
    std::vector<const HostTensor*> known(run.inputs.size(), nullptr);
    for (std::size_t i = 0; i < known.size(); ++i) {
      if ((spec->host_inputs >> i & 1u) != 0 || run.op == "Gather") known[i] = run.inputs[i];
    }
    PrepareContext prepare{node, in, known, out, &pool_, run.sliced, plan::Consumption::whole, run.slab_rows};
    if (run.sliced != plan::kNone) prepare.consumption = spec->consume(node, run.sliced, in);
    FB_TRY(kernel->prepare(prepare));
    ids_.insert(std::string(kernel->id()));
    return launch(run, *kernel, out);
  }

  Result<std::vector<HostTensor>> launch(const NodeRun& run, Kernel& kernel, const std::vector<TypeShape>& out) {
    std::vector<ConstTensorView> views;
    for (const HostTensor* t : run.inputs) {
      views.push_back(t != nullptr ? ConstTensorView(*t) : ConstTensorView());
      if (t == nullptr || t->bytes() == 0) continue;
      std::byte* const at = place(t->bytes());
      queue_->copy(at, t->data(), t->bytes());
      views.back().data = at;
    }
    std::vector<HostTensor> made;
    std::vector<TensorView> results;
    for (const TypeShape& type : out) {
      if (!type.present()) {
        made.emplace_back();
        results.emplace_back();
        continue;
      }
      made.emplace_back(type.dtype, type.shape());
      std::memset(made.back().data(), 0xff, made.back().bytes());
      results.push_back({place(made.back().bytes()), type.dtype, type.shape()});
      queue_->copy(results.back().data, made.back().data(), made.back().bytes());
    }
    KernelCall call;
    call.inputs = views;
    call.outputs = results;
    call.workspace_bytes = kernel.workspace_bytes();
    call.workspace = call.workspace_bytes > 0 ? place(call.workspace_bytes) : nullptr;
    call.pool = &pool_;
    auto* const merging = dynamic_cast<MergedKernel*>(&kernel);
    if (merge_ && merging != nullptr && merging->merges()) return launch_merged(run, *merging, call, views, results, made);
    call.slab_count = run.sliced == plan::kNone ? 1 : static_cast<std::uint32_t>(run.slab_rows.size());
    Call one{&kernel, &call};
    const std::byte* const whole = run.sliced == plan::kNone ? nullptr : views[run.sliced].data;
    for (std::uint32_t s = 0; s < call.slab_count; ++s) {
      call.slab = s;
      if (run.sliced != plan::kNone) {
        const std::uint64_t row_bytes = run.inputs[run.sliced]->bytes() / static_cast<std::uint64_t>(run.inputs[run.sliced]->shape()[0]);
        views[run.sliced].shape[0] = run.slab_rows[s];
        std::byte* const slab = place(row_bytes * static_cast<std::uint64_t>(run.slab_rows[s]));
        queue_->copy(slab, whole + static_cast<std::uint64_t>(call.row_begin) * row_bytes,
                     row_bytes * static_cast<std::uint64_t>(run.slab_rows[s]));
        views[run.sliced].data = slab;
      }
      queue_->launch([](void* argument) { return static_cast<Call*>(argument)->kernel->run(*static_cast<Call*>(argument)->call); }, &one);
      FB_TRY(queue_->synchronize());
      if (run.sliced != plan::kNone) call.row_begin += run.slab_rows[s];
    }
    for (std::size_t o = 0; o < made.size(); ++o)
      if (results[o].present()) queue_->copy(made[o].data(), results[o].data, made[o].bytes());
    FB_TRY(queue_->synchronize());
    return made;
  }

  // All slabs in one launch, each at an address of its own.
  Result<std::vector<HostTensor>> launch_merged(const NodeRun& run, MergedKernel& kernel, const KernelCall& whole,
                                                const std::vector<ConstTensorView>& views, const std::vector<TensorView>& results,
                                                std::vector<HostTensor>& made) {
    const std::uint64_t row_bytes = run.inputs[1]->bytes() / static_cast<std::uint64_t>(run.inputs[1]->shape()[0]);
    std::vector<std::vector<ConstTensorView>> inputs(run.slab_rows.size(), views);
    std::vector<KernelCall> calls(run.slab_rows.size(), whole);
    std::int64_t row = 0;
    for (std::size_t s = 0; s < calls.size(); ++s) {
      const std::uint64_t bytes = row_bytes * static_cast<std::uint64_t>(run.slab_rows[s]);
      std::byte* const slab = place(bytes + 4096);
      queue_->copy(slab, views[1].data + static_cast<std::uint64_t>(row) * row_bytes, bytes);
      inputs[s][1] = ConstTensorView(slab, views[1].dtype, views[1].shape);
      inputs[s][1].shape[0] = run.slab_rows[s];
      calls[s].inputs = inputs[s];
      calls[s].row_begin = row;
      calls[s].slab = static_cast<std::uint32_t>(s);
      calls[s].slab_count = static_cast<std::uint32_t>(calls.size());
      row += run.slab_rows[s];
    }
    struct Many {
      MergedKernel* kernel;
      std::span<const KernelCall> calls;
    };
    for (std::size_t first = 0; first < calls.size(); first += kMostMerged) {
      Many many{&kernel, std::span<const KernelCall>(calls).subspan(first, std::min(kMostMerged, calls.size() - first))};
      queue_->launch([](void* argument) { return static_cast<Many*>(argument)->kernel->run_merged(static_cast<Many*>(argument)->calls); },
                     &many);
      FB_TRY(queue_->synchronize());
    }
    ++merged_;
    for (std::size_t o = 0; o < made.size(); ++o) queue_->copy(made[o].data(), results[o].data, made[o].bytes());
    FB_TRY(queue_->synchronize());
    return std::move(made);
  }

  // `tolerance` 0: the same bytes.
  void compare(const NodeRun& run, double tolerance, const std::string& what) {
    auto cpu = run_node(run, pool_);
    ASSERT_TRUE(cpu.ok()) << what << ": " << cpu.status().to_string();
    auto cuda = on_device(run);
    ASSERT_TRUE(cuda.ok()) << what << ": " << cuda.status().to_string();
    for (std::size_t o = 0; o < cpu->size(); ++o) {
      if (std::find(unwanted_.begin(), unwanted_.end(), o) != unwanted_.end()) continue;
      const HostTensor &a = (*cpu)[o], &b = (*cuda)[o];
      ASSERT_EQ(a.shape(), b.shape()) << what;
      if (tolerance == 0) {
        EXPECT_TRUE(same_bytes(a, b)) << what << ", output " << o;
        continue;
      }
      double worst = 0;
      for (std::int64_t i = 0; i < a.shape().elements(); ++i) {
        if (number(a, i) == number(b, i) || (std::isnan(number(a, i)) && std::isnan(number(b, i)))) continue;
        const double error = std::abs(number(a, i) - number(b, i)) / std::max(1.0, std::abs(number(a, i)));
        if (!(error <= worst)) worst = error;
      }
      EXPECT_LE(worst, tolerance) << what << ", output " << o;
    }
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Queue> queue_;
  ThreadPool pool_{2};
  std::uint64_t used_ = 0;
  bool merge_ = false;
  int merged_ = 0;
  std::vector<std::size_t> unwanted_;  // outputs nobody reads
  std::set<std::string> ids_;
  std::mt19937_64 random_{20261121};
};

inline double tolerance_of(DType type) {
  return type == DType::f32 ? 2e-6 : type == DType::f16 ? 1e-3 : 8e-3;
}

inline HostTensor integers(std::vector<std::int64_t> values) {
  HostTensor t(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.as<std::int64_t>().begin());
  return t;
}

}  // namespace forebay::testing
