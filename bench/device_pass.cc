// Passes over input and output in the caller's device memory, on the caller's stream, as a PyTorch program has them:
//   device_pass MODEL.plan WEIGHTS PASSES SHAPE...      (a shape as 32x3x224x224, of the plan's one input)
// prints the median in milliseconds for each shape, from the call to the end of the stream's work.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "forebay/engine.h"
#include "forebay/plan.h"

namespace {

using Clock = std::chrono::steady_clock;

int failed(const forebay::Status& status) {
  std::cout << "device_pass: " << status.to_string() << std::endl;
  return 1;
}

forebay::Shape parse_shape(const char* text) {
  std::vector<std::int64_t> dims;
  for (char* at = const_cast<char*>(text); *at != 0; at += *at == 'x' ? 1 : 0) dims.push_back(std::strtoll(at, &at, 10));
  return forebay::Shape(dims);
}

// Small numbers; integers are the rows of a table of 16,384 or more, far apart.
std::vector<std::byte> input_values(forebay::DType dtype, std::int64_t count, std::size_t bytes) {
  std::vector<std::byte> values(bytes, std::byte{0x30});
  for (std::int64_t i = 0; i < count && dtype == forebay::DType::i64; ++i) {
    const std::int64_t row = i * 7919 % 16384;
    std::memcpy(values.data() + i * 8, &row, sizeof row);
  }
  return values;
}

// Median of the passes after three.
double time_passes(forebay::ExecutionContext& context, cudaStream_t stream, int passes, forebay::Status* status) {
  std::vector<double> times;
  for (int i = 0; i < 2 && status->ok(); ++i) *status = context.execute();  // recordings are made while no stream waits
  for (int i = 0; i < passes + 3 && status->ok(); ++i) {
    const auto began = Clock::now();
    *status = context.enqueue(stream);
    cudaStreamSynchronize(stream);
    if (i >= 3) times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - began).count());
    if (status->ok()) *status = context.wait();
  }
  std::sort(times.begin(), times.end());
  return times.empty() ? 0 : times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cout << "usage: device_pass MODEL.plan WEIGHTS PASSES SHAPE..." << std::endl;
    return 2;
  }
  auto plan = forebay::Plan::load(argv[1]);
  if (!plan.ok()) return failed(plan.status());
  forebay::WeightSources weights;
  weights.paths = {argv[2]};
  forebay::EngineOptions options;
  options.device = "cuda";
  options.budget = forebay::Budget::of_percent(100);
  cudaStream_t stream = nullptr;
  for (int i = 4; i < argc; ++i) {
    auto engine = forebay::Engine::create(*plan, weights, options);
    if (!engine.ok()) return failed(engine.status());
    // After the engine: the device's library chooses how modules are loaded.
    if (stream == nullptr && cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
      return failed(forebay::Status(forebay::Code::unavailable, "no stream"));
    auto context = engine->create_context();
    if (!context.ok()) return failed(context.status());
    const forebay::Shape shape = parse_shape(argv[i]);
    const forebay::TensorInfo input = plan->inputs()[0];
    const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * static_cast<std::size_t>(forebay::dtype_bits(input.dtype) / 8);
    void* x = nullptr;
    const std::vector<std::byte> values = input_values(input.dtype, shape.elements(), bytes);
    if (cudaMalloc(&x, bytes) != cudaSuccess || cudaMemcpy(x, values.data(), bytes, cudaMemcpyHostToDevice) != cudaSuccess)
      return failed(forebay::Status(forebay::Code::resource_exhausted, "no device memory for the input"));
    forebay::Status status =
        context->bind_input(input.name, forebay::ConstTensorView(static_cast<const std::byte*>(x), input.dtype, shape));
    if (status.ok()) status = context->execute();
    const double median = status.ok() ? time_passes(*context, stream, std::atoi(argv[3]), &status) : 0;
    if (!status.ok()) return failed(status);
    std::cout << argv[i] << " " << median << " ms" << std::endl;
    cudaFree(x);
  }
  return 0;
}
