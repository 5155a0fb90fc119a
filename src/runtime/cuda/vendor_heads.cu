#include "runtime/cuda/vendor_heads.h"

#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

__device__ inline std::int64_t position_of(const HeadsTask& t, std::int64_t b, std::int64_t i) {
  switch (t.positions) {
    case Positions::each:
      return t.ids[b * t.rows + i];
    case Positions::offset:
      return (t.ids != nullptr ? t.ids[0] : 0) + i;
    case Positions::behind:
      return t.befores[b] + i;
    default:
      return b * t.rows + i;
  }
}

template <typename T>
__device__ inline float lifted(const HeadsTask& t, const T* x, std::int64_t head, std::int64_t e) {
  const float value = widen(x[e]);
  return t.bias == nullptr ? value : value + widen(static_cast<const T*>(t.bias)[head * t.size + e]);
}

// A row a warp. A lane reads and writes the same elements, so x may be y.
template <typename T>
__global__ void __launch_bounds__(kThreads) turn_heads(const __grid_constant__ HeadsTask t) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (index >= t.batch * t.heads * t.rows) return;
  const std::int64_t head = index % t.heads, i = index / t.heads % t.rows, b = index / t.heads / t.rows;
  const T* const x = static_cast<const T*>(t.x) + b * t.x_strides[0] + head * t.x_strides[1] + i * t.x_strides[2];
  const std::int64_t to = i + (t.behind ? t.befores[b] : 0);
  T* const y = static_cast<T*>(t.y) + b * t.y_strides[0] + head * t.y_strides[1] + to * t.y_strides[2];
  float factor = 1;
  if (t.norm != nullptr) {
    float sum = 0;
    for (std::int64_t e = lane; e < t.size; e += 32) {
      const float value = lifted(t, x, head, e);
      sum = fmaf(value, value, sum);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    factor = 1.0f / sqrtf(sum / static_cast<float>(t.size) + t.epsilon);
  }
  const auto value = [&](std::int64_t e) {
    const float plain = lifted(t, x, head, e);
    return t.norm == nullptr ? plain : plain * factor * widen(static_cast<const T*>(t.norm)[e]);
  };
  const std::int64_t position = t.half > 0 ? position_of(t, b, i) : 0;
  const bool wrong = (t.valid != nullptr && t.valid[b] == 0) || (t.half > 0 && (position < 0 || position >= t.table_rows));
  if (wrong) {
    for (std::int64_t e = lane; e < t.size; e += 32) y[e] = narrow<T>(NAN);
    return;
  }
  const T *const cos = static_cast<const T*>(t.cos) + position * t.half, *const sin = static_cast<const T*>(t.sin) + position * t.half;
  for (std::int64_t j = lane; j < t.half; j += 32) {
    const std::int64_t first = t.interleaved ? 2 * j : j, second = t.interleaved ? 2 * j + 1 : j + t.half;
    const float a = value(first), c = value(second), u = widen(cos[j]), v = widen(sin[j]);
    y[first] = narrow<T>(u * a - v * c);
    y[second] = narrow<T>(v * a + u * c);
  }
  for (std::int64_t e = 2 * t.half + lane; e < t.size; e += 32) y[e] = narrow<T>(value(e));
}

template <typename T>
cudaError_t start(const HeadsTask& t, cudaStream_t stream) {
  const std::int64_t rows = t.batch * t.heads * t.rows;
  if (rows == 0 || t.size == 0) return cudaSuccess;
  turn_heads<T><<<static_cast<unsigned>((rows + kWarps - 1) / kWarps), kThreads, 0, stream>>>(t);
  return cudaGetLastError();
}

__global__ void find_sequences(const __grid_constant__ SequencesTask t) {
  for (std::int64_t b = threadIdx.x; b < t.batch; b += blockDim.x) {
    const std::int64_t after = std::int64_t{t.last[b]} + 1, before = t.prompt ? 0 : after - t.queries;
    const bool valid = after >= 1 && after <= t.total && before >= 0 && before <= t.past;
    t.befores[b] = valid ? before : 0;
    t.afters[b] = valid ? after : t.total;
    t.valid[b] = valid ? 1 : 0;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) write_padding(const __grid_constant__ PaddingTask t) {
  const std::int64_t row = blockIdx.x, b = row / (t.heads * t.rows), h = row / t.rows % t.heads, i = row % t.rows;
  const T* const added = t.added == nullptr
                             ? nullptr
                             : static_cast<const T*>(t.added) + (((t.added_batches == 1 ? 0 : b) * t.heads + h) * t.rows + i) * t.keys;
  for (std::int64_t j = threadIdx.x; j < t.keys; j += kThreads) {
    bool seen = true;
    if (t.padding_rank == 1) seen = j < t.padding[b];
    if (t.padding_rank > 1) seen = t.padding[(t.padding_rank == 2 ? b : b * t.rows + i) * t.keys + j] > 0;
    t.mask[row * t.keys + j] = (seen ? 0.0f : t.fill) + (added != nullptr ? widen(added[j]) : 0.0f);
  }
}
template <typename T>
cudaError_t start(const PaddingTask& t, cudaStream_t stream) {
  const std::int64_t rows = t.batches * t.heads * t.rows;
  if (rows == 0 || t.keys == 0) return cudaSuccess;
  write_padding<T><<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(t);
  return cudaGetLastError();
}

template <typename Task>
cudaError_t start_by_type(const Task& task, cudaStream_t stream) {
  return by_float(task.type, [&](auto t) { return start<decltype(t)>(task, stream); });
}

}  // namespace

cudaError_t launch_heads(const HeadsTask& task, cudaStream_t stream) {
  return start_by_type(task, stream);
}

cudaError_t launch_sequences(const SequencesTask& task, cudaStream_t stream) {
  if (task.batch == 0) return cudaSuccess;
  find_sequences<<<1, kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

cudaError_t launch_padding(const PaddingTask& task, cudaStream_t stream) {
  return start_by_type(task, stream);
}

}  // namespace forebay::cuda
