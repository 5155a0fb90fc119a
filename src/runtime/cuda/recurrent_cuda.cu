#include <utility>

#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/recurrent_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;

__device__ inline float mapped(const CellFunction& f, float x) {
  switch (f.map) {
    case CellMap::sigmoid:
      return 1.0f / (1.0f + expf(-x));
    case CellMap::tanh:
      return tanhf(x);
    case CellMap::relu:
      return x < 0.0f ? 0.0f : x;
    case CellMap::affine:
      return f.alpha * x + f.beta;
    case CellMap::leaky_relu:
      return x < 0.0f ? f.alpha * x : x;
    case CellMap::thresholded_relu:
      return x > f.alpha ? x : 0.0f;
    case CellMap::scaled_tanh:
      return f.alpha * tanhf(f.beta * x);
    case CellMap::hard_sigmoid:
      return fminf(1.0f, fmaxf(0.0f, f.alpha * x + f.beta));
    case CellMap::elu:
      return x < 0.0f ? f.alpha * expm1f(x) : x;
    case CellMap::softsign:
      return x / (1.0f + fabsf(x));
    case CellMap::softplus:
      return log1pf(expf(-fabsf(x))) + fmaxf(x, 0.0f);
  }
  return x;
}
__device__ inline float gate(const RecurrentTask& task, int which, float x) {
  if (task.clip > 0.0f) x = fminf(task.clip, fmaxf(-task.clip, x));
  return mapped(task.functions[which], x);
}

template <typename T>
__device__ inline float at(const void* data, std::int64_t i) {
  return data == nullptr ? 0.0f : widen(static_cast<const T*>(data)[i]);
}
__device__ inline std::int64_t length_of(const RecurrentTask& task, std::int64_t b) {
  if (task.lengths == nullptr) return task.steps;
  const std::int64_t given = task.lengths[b];
  return given < 0 || given > task.steps ? task.steps : given;
}
__device__ inline bool broken(const RecurrentTask& task, std::int64_t b) {
  return task.lengths != nullptr && (task.lengths[b] < 0 || task.lengths[b] > task.steps);
}

template <typename T>
__global__ void begin_states(const __grid_constant__ RecurrentTask task) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= task.batch * task.hidden) return;
  const std::int64_t b = i / task.hidden, from = b * task.state_batch + i % task.hidden;
  task.h[i] = broken(task, b) ? NAN : at<T>(task.h0, from);
  task.c[i] = broken(task, b) ? NAN : at<T>(task.c0, from);
}
template <typename T>
__global__ void end_states(const __grid_constant__ RecurrentTask task) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= task.batch * task.hidden) return;
  const std::int64_t to = i / task.hidden * task.state_batch + i % task.hidden;
  if (task.y_h != nullptr) static_cast<T*>(task.y_h)[to] = narrow<T>(task.h[i]);
  if (task.y_c != nullptr) static_cast<T*>(task.y_c)[to] = narrow<T>(task.c[i]);
}

// What one hidden unit of one row of the batch has before its cell: `sums` are the products by R.
template <typename T>
struct Unit {
  const RecurrentTask& task;
  std::int64_t b, j, row, gates;
  __device__ float x(int g) const { return task.x_gates[(row * gates + g) * task.hidden + j]; }
  __device__ float both_biases(int g) const { return own_bias(g) + recurrent_bias(g); }
  __device__ float own_bias(int g) const { return at<T>(task.bias, g * task.hidden + j); }
  __device__ float recurrent_bias(int g) const { return at<T>(task.bias, (gates + g) * task.hidden + j); }
  __device__ float peephole(int g) const { return at<T>(task.peepholes, g * task.hidden + j); }
};

template <typename T>
__device__ inline float lstm(const Unit<T>& u, const float* sums, float& c) {
  const RecurrentTask& task = u.task;
  float i = u.x(0) + u.both_biases(0) + sums[0], o = u.x(1) + u.both_biases(1) + sums[1], f = u.x(2) + u.both_biases(2) + sums[2],
        g = u.x(3) + u.both_biases(3) + sums[3];
  if (task.peepholes != nullptr) {
    i += u.peephole(0) * c;
    f += u.peephole(2) * c;
  }
  i = gate(task, 0, i);
  f = task.input_forget ? 1.0f - i : gate(task, 0, f);
  g = gate(task, 1, g);
  c = f * c + i * g;
  if (task.peepholes != nullptr) o += u.peephole(1) * c;
  return gate(task, 0, o) * mapped(task.functions[2], c);
}
template <typename T>
__device__ inline float gru(const Unit<T>& u, const float* sums, float h) {
  const RecurrentTask& task = u.task;
  const float z = gate(task, 0, u.x(0) + u.both_biases(0) + sums[0]), r = gate(task, 0, u.x(1) + u.both_biases(1) + sums[1]);
  const float n = gate(task, 1, u.x(2) + u.own_bias(2) + r * (sums[2] + u.recurrent_bias(2)));
  return (1.0f - z) * n + z * h;
}

// kFirst and kCount: which gates' rows of R this launch multiplies by. Of a GRU that resets before its product, gates 0 and 1 by h, and
// then gate 2 by what was left of it. A warp makes a hidden unit for kRows rows of the batch.
template <typename T, int kFirst, int kCount, int kRows>
__global__ void __launch_bounds__(kThreads) step(const __grid_constant__ RecurrentTask task, std::int64_t s) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t j = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp, hidden = task.hidden;
  const std::int64_t b0 = static_cast<std::int64_t>(blockIdx.y) * kRows;
  if (j >= hidden) {
    after_previous();
    return;
  }
  const float* const from = kFirst == 2 ? task.reset : task.h;
  float sums[kRows][kCount] = {};
  after_previous();
#pragma unroll 4
  for (std::int64_t k = lane; k < hidden; k += kWarp) {
    float weights[kCount];
#pragma unroll
    for (int g = 0; g < kCount; ++g) weights[g] = widen(static_cast<const T*>(task.r)[((kFirst + g) * hidden + j) * hidden + k]);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const float h = b0 + m < task.batch ? from[(b0 + m) * hidden + k] : 0.0f;
#pragma unroll
      for (int g = 0; g < kCount; ++g) sums[m][g] = fmaf(weights[g], h, sums[m][g]);
    }
  }
  // A lane takes a row: the cells of all rows are made at once.
  float mine[kCount] = {};
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int g = 0; g < kCount; ++g) {
      for (int distance = kWarp / 2; distance > 0; distance /= 2) sums[m][g] += __shfl_xor_sync(0xffffffffu, sums[m][g], distance);
      if (lane == m) mine[g] = sums[m][g];
    }
  }
  const std::int64_t b = b0 + lane, own = b * hidden + j;
  if (lane >= kRows || b >= task.batch) return;
  float h = task.h[own];
  const std::int64_t length = length_of(task, b);
  if (s < length) {
    const std::int64_t time = task.reversed ? length - 1 - s : s;
    const Unit<T> unit{task, b, j, time * task.x_time + b * task.x_batch, task.cell == Cell::lstm ? 4 : task.cell == Cell::gru ? 3 : 1};
    if constexpr (kCount == 4) h = lstm(unit, mine, task.c[own]);
    if constexpr (kCount == 3) h = gru(unit, mine, h);
    if constexpr (kCount == 2) {
      task.update[own] = gate(task, 0, unit.x(0) + unit.both_biases(0) + mine[0]);
      task.reset[own] = gate(task, 0, unit.x(1) + unit.both_biases(1) + mine[1]) * h;
      return;
    }
    if constexpr (kFirst == 2) {
      const float z = task.update[own];
      h = (1.0f - z) * gate(task, 1, unit.x(2) + unit.both_biases(2) + mine[0]) + z * h;
    } else if constexpr (kCount == 1) {
      h = gate(task, 0, unit.x(0) + unit.both_biases(0) + mine[0]);
    }
    if (task.y != nullptr) static_cast<T*>(task.y)[time * task.y_time + b * task.y_batch + j] = narrow<T>(h);
  }
  if constexpr (kCount != 2) task.next_h[own] = h;
}

template <typename T, int kFirst, int kCount>
cudaError_t start_step(const RecurrentTask& task, std::int64_t s, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((task.hidden * kWarp + kThreads - 1) / kThreads);
  if (task.batch == 1) return launch_after(step<T, kFirst, kCount, 1>, dim3(blocks, 1), kThreads, 0, stream, task, s);
  const dim3 grid(blocks, static_cast<unsigned>((task.batch + 7) / 8));
  return launch_after(step<T, kFirst, kCount, 8>, grid, kThreads, 0, stream, task, s);
}
template <typename T>
cudaError_t start_cell(const RecurrentTask& task, std::int64_t s, cudaStream_t stream) {
  if (task.cell == Cell::rnn) return start_step<T, 0, 1>(task, s, stream);
  if (task.cell == Cell::lstm) return start_step<T, 0, 4>(task, s, stream);
  if (task.linear_before_reset) return start_step<T, 0, 3>(task, s, stream);
  const cudaError_t first = start_step<T, 0, 2>(task, s, stream);
  return first == cudaSuccess ? start_step<T, 2, 1>(task, s, stream) : first;
}

template <typename T>
cudaError_t start(RecurrentTask task, cudaStream_t stream) {
  const unsigned blocks = blocks_for(task.batch * task.hidden, kThreads);
  begin_states<T><<<blocks, kThreads, 0, stream>>>(task);
  for (std::int64_t s = 0; s < task.steps; ++s) {
    const cudaError_t error = start_cell<T>(task, s, stream);
    if (error != cudaSuccess) return error;
    std::swap(task.h, task.next_h);
  }
  end_states<T><<<blocks, kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_recurrent(const RecurrentTask& task, cudaStream_t stream) {
  if (task.batch * task.hidden == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { return start<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
