// Elementwise work of prompts: large operands in runs, 16 bytes of the output at a time. The same bits as the general kernels.
#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kRun = 8;
constexpr std::int64_t kLong = 1 << 18;  // elements: below, the general kernels do

template <typename T>
struct alignas(sizeof(T) * kRun < 16 ? sizeof(T) * kRun : 16) Run {
  T x[kRun];
};

__device__ inline float combined(BinaryOp op, float a, float b) {
  switch (op) {
    case BinaryOp::add:
      return a + b;
    case BinaryOp::sub:
      return a - b;
    case BinaryOp::mul:
      return a * b;
    case BinaryOp::div:
      return a / b;
    case BinaryOp::min:
      return b != b ? b : b < a ? b : a;
    default:
      return b != b ? b : a < b ? b : a;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) combine_runs(BinaryOp op, const __grid_constant__ Walk walk, T* y, const T* a, const T* b) {
  after_previous();
  const std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kRun;
  if (i >= walk.total) return;
  std::int64_t at[3];
  locate(walk, i, at);
  const Run<T> left = *reinterpret_cast<const Run<T>*>(a + at[1]), right = *reinterpret_cast<const Run<T>*>(b + at[2]);
  Run<T> made;
#pragma unroll
  for (int e = 0; e < kRun; ++e) made.x[e] = narrow<T>(combined(op, widen(left.x[e]), widen(right.x[e])));
  *reinterpret_cast<Run<T>*>(y + at[0]) = made;
}
template <typename T>
cudaError_t start(BinaryOp op, const Walk& walk, void* y, const void* a, const void* b, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((walk.total / kRun + kThreads - 1) / kThreads);
  return launch_after(combine_runs<T>, dim3(blocks), kThreads, 0, stream, op, walk, static_cast<T*>(y), static_cast<const T*>(a),
                      static_cast<const T*>(b));
}

bool aligned(std::initializer_list<const void*> pointers) {
  bool all = true;
  for (const void* p : pointers) all = all && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  return all;
}

// Eight neighbours of the output are eight neighbours of each operand.
bool in_runs(const Walk& walk) {
  const int last = walk.rank - 1;
  bool runs = last >= 0 && walk.dims[last] % kRun == 0;
  for (int o = 0; runs && o < 3; ++o) {
    runs = walk.strides[o][last] == 1;
    for (int d = 0; d < last; ++d) runs = runs && walk.strides[o][d] % kRun == 0;
  }
  return runs;
}

// A thread turns 8 pairs: task.walk is over the rows and the half width, of which `runs` make one.
template <typename T, typename C>
__global__ void __launch_bounds__(kThreads)
    rotate_runs(const __grid_constant__ RotateTask task, T* y, const T* x, const C* cosines, const C* sines) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= task.walk.total / kRun) return;
  std::int64_t at[3];
  locate(task.walk, i * kRun, at);
  const auto read = [](const auto* from) { return *reinterpret_cast<const Run<std::decay_t<decltype(*from)>>*>(from); };
  const Run<T> a = read(x + at[0]), b = read(x + at[0] + task.half);
  const Run<C> cos = read(cosines + at[1]), sin = read(sines + at[2]), more_cos = read(cosines + at[1] + task.cos_step),
               more_sin = read(sines + at[2] + task.sin_step);
  Run<T> first, second;
#pragma unroll
  for (int e = 0; e < kRun; ++e) {
    const float u = widen(a.x[e]), v = widen(b.x[e]);
    first.x[e] = narrow<T>(u * widen(cos.x[e]) - v * widen(sin.x[e]));
    second.x[e] = narrow<T>(v * widen(more_cos.x[e]) + u * widen(more_sin.x[e]));
  }
  *reinterpret_cast<Run<T>*>(y + at[0]) = first;
  *reinterpret_cast<Run<T>*>(y + at[0] + task.half) = second;
}
template <typename T>
cudaError_t start_rotate(DType table_type, const RotateTask& task, void* y, const void* x, const void* cos, const void* sin,
                         cudaStream_t stream) {
  const auto go = [&](auto tag) {
    using C = decltype(tag);
    const auto blocks = static_cast<unsigned>((task.walk.total / kRun + kThreads - 1) / kThreads);
    rotate_runs<<<blocks, kThreads, 0, stream>>>(task, static_cast<T*>(y), static_cast<const T*>(x), static_cast<const C*>(cos),
                                                 static_cast<const C*>(sin));
    return cudaGetLastError();
  };
  return by_float(table_type, go);
}

}  // namespace

bool launch_long_binary(BinaryOp op, DType type, const Walk& walk, void* y, const void* a, const void* b, cudaStream_t stream,
                        cudaError_t* error) {
  if (!is_float(type) || !in_runs(walk) || walk.total < kLong || op == BinaryOp::pow || op >= BinaryOp::equal || !aligned({y, a, b})) return false;
  *error = by_float(type, [&](auto t) { return start<decltype(t)>(op, walk, y, a, b, stream); });
  return true;
}

bool launch_long_rotate(DType type, DType table_type, const RotateTask& task, void* y, const void* x, const void* cos, const void* sin,
                        cudaStream_t stream, cudaError_t* error) {
  const Walk& walk = task.walk;
  const bool runs = walk.total >= kLong && in_runs(walk) && aligned({y, x, cos, sin});
  if (!is_float(type) || !runs || task.half % kRun != 0 || task.cos_step % kRun != 0 || task.sin_step % kRun != 0) return false;
  *error = by_float(type, [&](auto t) { return start_rotate<decltype(t)>(table_type, task, y, x, cos, sin, stream); });
  return true;
}

}  // namespace forebay::cuda
