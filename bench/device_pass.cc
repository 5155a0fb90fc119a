// Passes over input and output in the caller's device memory, on the caller's stream, as a PyTorch program has them:
//   device_pass MODEL.plan WEIGHTS PASSES SHAPE... [--executed N] [--deep N]     (a shape as 32x3x224x224, of the plan's one input)
// prints the median in milliseconds for each shape, from the call to the end of the stream's work. --executed: so many passes by `execute`
// come first, the others are only enqueued. --deep: so many are always under way, and the time is that of all by their number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <string_view>
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

struct Ways {
  int passes = 0, executed = 0, deep = 1;
};

// Median of the passes after three.
double time_each(forebay::ExecutionContext& context, cudaStream_t stream, const Ways& ways, forebay::Status* status) {
  std::vector<double> times;
  for (int i = 0; i < ways.passes + 3 && status->ok(); ++i) {
    const auto began = Clock::now();
    *status = context.enqueue(stream);
    cudaStreamSynchronize(stream);
    if (i >= 3) times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - began).count());
  }
  if (status->ok()) *status = context.wait();
  std::sort(times.begin(), times.end());
  return times.empty() ? 0 : times[times.size() / 2];
}

// Mean of the second half, with the stream never empty.
double time_all(forebay::ExecutionContext& context, cudaStream_t stream, const Ways& ways, forebay::Status* status) {
  std::vector<cudaEvent_t> ended(static_cast<std::size_t>(ways.deep));
  for (cudaEvent_t& event : ended) cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  Clock::time_point began;
  for (int i = 0; i < 2 * ways.passes && status->ok(); ++i) {
    cudaEvent_t& event = ended[static_cast<std::size_t>(i % ways.deep)];
    if (i >= ways.deep) cudaEventSynchronize(event);
    if (i == ways.passes) began = Clock::now();
    *status = context.enqueue(stream);
    cudaEventRecord(event, stream);
  }
  cudaStreamSynchronize(stream);
  const double all = std::chrono::duration<double, std::milli>(Clock::now() - began).count();
  for (const cudaEvent_t event : ended) cudaEventDestroy(event);
  if (status->ok()) *status = context.wait();
  return all / ways.passes;
}

// Takes "NAME N" out of the arguments.
int take_option(std::vector<const char*>* arguments, std::string_view name, int otherwise) {
  const auto at = std::find(arguments->begin(), arguments->end(), name);
  if (at == arguments->end() || at + 1 == arguments->end()) return otherwise;
  const int value = std::atoi(*(at + 1));
  arguments->erase(at, at + 2);
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<const char*> arguments(argv + 1, argv + argc);
  Ways ways;
  ways.executed = take_option(&arguments, "--executed", 0);
  ways.deep = take_option(&arguments, "--deep", 1);
  if (arguments.size() > 2) ways.passes = std::atoi(arguments[2]);
  if (arguments.size() < 4 || ways.passes < 1 || ways.deep < 1) {
    std::cout << "usage: device_pass MODEL.plan WEIGHTS PASSES SHAPE... [--executed N] [--deep N]" << std::endl;
    return 2;
  }
  auto plan = forebay::Plan::load(arguments[0]);
  if (!plan.ok()) return failed(plan.status());
  forebay::WeightSources weights;
  weights.paths = {arguments[1]};
  forebay::EngineOptions options;
  options.device = "cuda";
  options.budget = forebay::Budget::of_percent(100);
  cudaStream_t stream = nullptr;
  for (std::size_t i = 3; i < arguments.size(); ++i) {
    auto engine = forebay::Engine::create(*plan, weights, options);
    if (!engine.ok()) return failed(engine.status());
    // After the engine: the device's library chooses how modules are loaded.
    if (stream == nullptr && cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
      return failed(forebay::Status(forebay::Code::unavailable, "no stream"));
    auto context = engine->create_context();
    if (!context.ok()) return failed(context.status());
    const forebay::Shape shape = parse_shape(arguments[i]);
    const forebay::TensorInfo input = plan->inputs()[0];
    const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * static_cast<std::size_t>(forebay::dtype_bits(input.dtype) / 8);
    void* x = nullptr;
    const std::vector<std::byte> values = input_values(input.dtype, shape.elements(), bytes);
    if (cudaMalloc(&x, bytes) != cudaSuccess || cudaMemcpy(x, values.data(), bytes, cudaMemcpyHostToDevice) != cudaSuccess)
      return failed(forebay::Status(forebay::Code::resource_exhausted, "no device memory for the input"));
    forebay::Status status =
        context->bind_input(input.name, forebay::ConstTensorView(static_cast<const std::byte*>(x), input.dtype, shape));
    for (int e = 0; e < ways.executed && status.ok(); ++e) status = context->execute();
    const double taken = ways.deep > 1 ? time_all(*context, stream, ways, &status) : time_each(*context, stream, ways, &status);
    if (!status.ok()) return failed(status);
    std::cout << arguments[i] << " " << taken << " ms" << std::endl;
    cudaFree(x);
  }
  return 0;
}
