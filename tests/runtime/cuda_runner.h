// Runs one node's kernel on the CUDA device the way the executor does: whole, slab by slab at addresses of their own, or slabs in one
// launch.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/choosing_kernel.h"
#include "runtime/device_library.h"
#include "runtime/kernels_harness.h"
#include "runtime/merged_kernel.h"
#include "runtime/run_timer.h"

namespace forebay::testing {

class CudaRunner {
 public:
  // Null without a GPU; `why` says so.
  static std::unique_ptr<CudaRunner> create(std::string* why) {
    auto opened = load_device("cuda");
    if (!opened.ok()) {
      *why = opened.status().to_string();
      return nullptr;
    }
    auto runner = std::unique_ptr<CudaRunner>(new CudaRunner());
    runner->device = std::move(opened).value();
    runner->queue_ = runner->device->create_queue("test", 256).value();
    runner->arena_ = runner->device->reserve_arena(kBytes).value();
    if (!runner->arena_->commit(0, kBytes).ok()) *why = "the arena's memory was refused";
    return runner;
  }

  // `cut`: inputs that come in slabs together with run.sliced, in proportion. unsupported when the device has no kernel for it.
  Result<std::vector<HostTensor>> run(const NodeRun& run, const std::vector<std::size_t>& cut = {}, bool merge = false) {
    used_ = 0;
    const plan::Plan plan;
    const NodeView node("tested", run.domain, run.op, run.version, run.attributes, plan, run.inputs.size(), run.outputs);
    const OpSpec* spec = OpRegistry::builtin().find(run.domain, run.op, run.version);
    if (spec == nullptr) return Status(Code::not_found, "no such operator: " + run.op);
    std::vector<TypeShape> in, out(run.outputs);
    for (const HostTensor* t : run.inputs) in.push_back(type_of(t));
    InferContext infer(node, in, run.inputs, out);
    FB_TRY(spec->infer(infer));
    for (const std::size_t o : unwanted) out[o] = TypeShape();
    FB_ASSIGN(kernel, device->create_kernel(node, in, out));
    if (kernel == nullptr) return Status(Code::unsupported, "none");
    std::vector<const HostTensor*> known(run.inputs.size(), nullptr);
    for (std::size_t i = 0; i < known.size(); ++i) known[i] = knows_inputs || (spec->host_inputs >> i & 1u) != 0 ? run.inputs[i] : nullptr;
    PrepareContext prepare{node, in, known, out, &pool, run.sliced, plan::Consumption::whole, run.slab_rows};
    if (run.sliced != plan::kNone) prepare.consumption = spec->consume(node, run.sliced, in);
    FB_TRY(kernel->prepare(prepare));
    if (auto* const choosing = dynamic_cast<ChoosingKernel*>(kernel.get()); way && choosing != nullptr) FB_TRY(choosing->take(*way));
    id = kernel->id();
    return launch(run, cut, merge, out);
  }

  // For what is more than a node: device memory until the next run.
  std::byte* place(std::uint64_t bytes) {
    std::byte* const at = arena_->base() + used_;
    used_ += (bytes + 63) / 64 * 64;
    EXPECT_LE(used_, kBytes);
    return at;
  }
  Queue& queue() { return *queue_; }

  static constexpr std::uint64_t kBytes = 256ull << 20;
  std::unique_ptr<Device> device;
  std::unique_ptr<Kernel> kernel;  // of the last run
  std::string id;                  // of its kernel
  bool merged = false;             // whether its slabs shared a launch
  bool knows_inputs = false;       // their values, when the kernel is prepared
  std::vector<std::size_t> unwanted;  // outputs nobody reads
  std::optional<KernelWay> way;    // to be taken; then its first call is timed
  double microseconds = 0;
  std::uint64_t gap = 0;  // bytes between one slab and the next
  ThreadPool pool{2};

 private:
  CudaRunner() = default;
  const std::byte* copied(const std::byte* from, std::uint64_t bytes) {
    std::byte* const at = place(bytes);
    if (bytes > 0) queue_->copy(at, from, bytes);
    return at;
  }

  struct Launch {
    Kernel* kernel;
    MergedKernel* merged;
    std::span<const KernelCall> calls;
    static Status call(void* argument) {
      const Launch& launch = *static_cast<Launch*>(argument);
      if (launch.merged != nullptr) return launch.merged->run_merged(launch.calls);
      for (const KernelCall& one : launch.calls) FB_TRY(launch.kernel->run(one));
      return {};
    }
  };

  struct Timed {
    RunTimer* timer;
    Kernel* kernel;
    const KernelCall* first;
    Result<double> time;
    static Status call(void* argument) {
      Timed& timed = *static_cast<Timed*>(argument);
      timed.time = timed.timer->time_calls([&timed] { return timed.kernel->run(*timed.first); });
      return {};
    }
  };

  // What a slab's call sees of an input: its own rows of what is cut, at an address of its own.
  ConstTensorView slab_view(const HostTensor& from, std::int64_t begin, std::int64_t rows, std::int64_t all) {
    ConstTensorView view(from);
    const std::int64_t first = from.shape()[0] * begin / all, count = from.shape()[0] * rows / all;
    const auto row_bits = static_cast<std::uint64_t>(from.shape().elements() / from.shape()[0] * dtype_bits(from.dtype()));
    view.shape[0] = count;
    // Slabs begin at whole bytes; the last one of sub-byte numbers may end within one.
    view.data = copied(from.data() + row_bits * static_cast<std::uint64_t>(first) / 8, (row_bits * static_cast<std::uint64_t>(count) + 7) / 8);
    place(gap);
    return view;
  }

  Result<std::vector<HostTensor>> launch(const NodeRun& run, const std::vector<std::size_t>& cut, bool merge,
                                         const std::vector<TypeShape>& out) {
    const bool sliced = run.sliced != plan::kNone;
    std::vector<ConstTensorView> whole;
    for (const HostTensor* t : run.inputs) {
      whole.push_back(t != nullptr ? ConstTensorView(*t) : ConstTensorView());
      if (t != nullptr) whole.back().data = copied(t->data(), t->bytes());
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
    std::vector<std::vector<ConstTensorView>> inputs(sliced ? run.slab_rows.size() : 1, whole);
    std::vector<KernelCall> calls(inputs.size());
    std::byte* const workspace = place(kernel->workspace_bytes());
    std::int64_t row = 0;
    for (std::size_t s = 0; s < calls.size(); ++s) {
      if (sliced) {
        const std::int64_t all = run.inputs[run.sliced]->shape()[0];
        inputs[s][run.sliced] = slab_view(*run.inputs[run.sliced], row, run.slab_rows[s], all);
        for (const std::size_t i : cut) inputs[s][i] = slab_view(*run.inputs[i], row, run.slab_rows[s], all);
        calls[s].row_begin = row;
        row += run.slab_rows[s];
      }
      calls[s].inputs = inputs[s];
      calls[s].outputs = results;
      calls[s].workspace = kernel->workspace_bytes() > 0 ? workspace : nullptr;
      calls[s].workspace_bytes = kernel->workspace_bytes();
      calls[s].pool = &pool;
      calls[s].slab = static_cast<std::uint32_t>(s);
      calls[s].slab_count = static_cast<std::uint32_t>(calls.size());
    }
    auto* merging = merge ? dynamic_cast<MergedKernel*>(kernel.get()) : nullptr;
    merged = merging != nullptr && merging->merges();
    for (std::size_t first = 0; first < calls.size(); first += kMostMerged) {
      Launch one{kernel.get(), merged ? merging : nullptr,
                 std::span<const KernelCall>(calls).subspan(first, std::min(kMostMerged, calls.size() - first))};
      queue_->launch(Launch::call, &one);
      if (Status status = queue_->synchronize(); !status.ok()) {
        queue_->clear_error();
        return status;
      }
    }
    if (way) {
      Timed timed{dynamic_cast<RunTimer*>(device.get()), kernel.get(), &calls[0], Result<double>(0.0)};
      queue_->launch(Timed::call, &timed);
      FB_TRY(queue_->synchronize());
      FB_ASSIGN(microseconds, timed.time);
    }
    for (std::size_t o = 0; o < made.size(); ++o)
      if (results[o].present()) queue_->copy(made[o].data(), results[o].data, made[o].bytes());
    FB_TRY(queue_->synchronize());
    return made;
  }

  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Queue> queue_;
  std::uint64_t used_ = 0;
};

}  // namespace forebay::testing
