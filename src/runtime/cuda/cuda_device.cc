// The CUDA device, and the entry of its library.
#include <sys/types.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "base/check.h"
#include "runtime/cpu/cpu_timeline.h"
#include "runtime/cuda/caller_stream_cuda.h"
#include "runtime/cuda/cuda_arena.h"
#include "runtime/cuda/cuda_facts.h"
#include "runtime/cuda/cuda_kernels.h"
#include "runtime/cuda/cuda_queue.h"
#include "runtime/cuda/cuda_recording.h"
#include "runtime/cuda/cuda_tools.h"
#include "runtime/cuda/cudnn_conv.h"
#include "runtime/cuda/hardware_queues.h"
#include "runtime/cuda/lt_product.h"
#include "runtime/cuda/run_timer_cuda.h"
#include "runtime/device_library.h"
#include "runtime/run_timer.h"

namespace forebay::cuda {
namespace {

constexpr int kOldest =
    FOREBAY_CUDA_OLDEST;  // compute capability, ten times: what the library has machine code for

class CudaDevice final : public Device, public ReplayDevice, public RunTimer, public CallerStreams, public DeviceTools {
 public:
  static Result<std::unique_ptr<Device>> open() {
    auto state = std::make_shared<CudaState>();
    // Read by the driver when it starts, if it has not, and the caller has not chosen. Kernels that came to the device when first used would
    // take memory in the middle of a pass. Only cuDNN's libraries hold far more than are called, and would take hundreds of MiB.
    setenv("CUDA_MODULE_LOADING", cudnn_version().empty() ? "EAGER" : "LAZY", 0);
    ask_for_hardware_queues();
    FB_ASSIGN(const DeviceFacts facts, device_facts(state->ordinal, kOldest));
    state->capability = facts.capability;
    state->lists = make_lt_lists();
    return std::unique_ptr<Device>(new CudaDevice(std::move(state), facts));
  }

  const DeviceInfo& info() const override { return info_; }

  Result<std::uint64_t> free_bytes() override {
    std::size_t free = 0, total = 0;
    FB_TRY(state_->start());
    FB_TRY(state_->errors.check(cudaMemGetInfo(&free, &total), "asking for free device memory"));
    return static_cast<std::uint64_t>(free);
  }
  Result<std::unique_ptr<Arena>> reserve_arena(std::uint64_t bytes) override {
    FB_TRY(state_->start());
    return CudaArena::reserve(bytes, state_);
  }
  Result<std::unique_ptr<Arena>> wrap_arena(std::span<std::byte> memory) override {
    FB_TRY(state_->start());
    return CudaArena::wrap(memory, state_);
  }
  Result<std::unique_ptr<Queue>> create_queue(const std::string& name,
                                              std::uint32_t capacity) override {
    FB_TRY(state_->start());
    return CudaQueue::create_on(name, capacity, state_);
  }
  Result<std::unique_ptr<Timeline>> create_timeline() override {
    return std::unique_ptr<Timeline>(std::make_unique<CpuTimeline>());
  }
  Status register_host(std::span<std::byte> memory) override {
    FB_TRY(state_->start());
    return state_->errors.check(
        cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterDefault),
        "page-locking " + std::to_string(memory.size()) + " bytes");
  }
  void unregister_host(std::span<std::byte> memory) override {
    static_cast<void>(cudaHostUnregister(memory.data()));
  }
  Result<std::unique_ptr<Kernel>> create_kernel(const NodeView& node,
                                                std::span<const TypeShape> inputs,
                                                std::span<const TypeShape> outputs) override {
    return make_cuda_kernel(node, inputs, outputs, state_);
  }
  Status copy_now(std::byte* to, const std::byte* from, std::uint64_t bytes) override {
    if (bytes == 0) return {};
    const cudaStream_t stream = queue_stream();
    FB_TRY(state_->errors.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream),
                                "copying " + std::to_string(bytes) + " bytes"));
    return state_->errors.check(cudaStreamSynchronize(stream), "work of the device");
  }
  Result<double> time_calls(const std::function<Status()>& enqueue) override { return time_on_stream(enqueue, *state_); }

  std::unique_ptr<Recording> record(Queue::HostFunction work, void* argument, std::unique_ptr<Recording> worn) override {
    const TieWords::Quiet quiet(*words_);
    return record_graph(work, argument, state_, std::move(worn), static_cast<bool>(quiet));
  }
  bool can_record() override { return static_cast<bool>(TieWords::Quiet(*words_)); }
  Status replay(Recording& recording) override { return replay_graph(recording); }

  Result<std::unique_ptr<PassTie>> create_tie() override {
    FB_TRY(state_->start());
    return CudaTie::create(state_, words_);
  }
  Result<bool> capturing(void* stream) override {
    cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
    FB_TRY(state_->errors.check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &now), "asking whether the caller's stream is captured"));
    return now != cudaStreamCaptureStatusNone;
  }
  bool when_quiet(const std::function<void()>& work) override { return words_->when_quiet(work); }
  std::unique_ptr<Queue> capture_queue(void* stream) override { return make_capture_queue(static_cast<cudaStream_t>(stream), state_); }
  Status capture_event(void* stream, void* event) override {
    return state_->errors.check(cudaEventRecordWithFlags(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream), cudaEventRecordExternal),
                                "capturing the inputs-consumed event");
  }

  Result<std::unique_ptr<Stopwatch>> create_stopwatch() override {
    FB_TRY(state_->start());
    return CudaStopwatch::create(state_);
  }
  void begin_range(const char* name) override { begin_nvtx_range(name); }
  void end_range() override { end_nvtx_range(); }
  Status sync() override { return state_->errors.check(cudaStreamSynchronize(queue_stream()), "work of the device"); }

 private:
  CudaDevice(std::shared_ptr<CudaState> state, const DeviceFacts& facts)
      : state_(std::move(state)), words_(TieWords::of_process()) {
    info_.kind = "cuda";
    info_.name = facts.name;
    info_.total_bytes = facts.total_bytes;
    info_.granule = kGranule;
    info_.arena_host_addressable = false;
    info_.numerics.emplace_back("sm", std::to_string(facts.capability));
    info_.numerics.emplace_back("cuda", std::to_string(CUDART_VERSION));
    info_.numerics.emplace_back("cublaslt", lt_version());
    if (const std::string version = cudnn_version(); !version.empty()) info_.numerics.emplace_back("cudnn", version);
  }

  const std::shared_ptr<CudaState> state_;
  const std::shared_ptr<TieWords> words_;
  DeviceInfo info_;
};

void open_device(DeviceLibraryCall* call) {
  if (call->build == nullptr || device_library_build() != call->build) {
    call->status = Status(Code::unavailable, "libforebay_cuda.so is of another build (" +
                                                 device_library_build() + ") than the program");
    return;
  }
  auto device = CudaDevice::open();
  if (device.ok()) {
    call->device = std::move(device).value();
  } else {
    call->status = std::move(device).status();
  }
}

}  // namespace
}  // namespace forebay::cuda

extern "C" __attribute__((visibility("default"))) void forebay_open_device(
    forebay::DeviceLibraryCall* call) {
  forebay::cuda::open_device(call);
}
