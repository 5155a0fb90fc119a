// Tensor-core instructions on 16-bit floats: 16 x 8 x 16 products with f32 sums, and the matrix loads that feed them.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

// Four 8 x 8 matrices; lane i gives the row that it names.
__device__ inline void load_matrices(unsigned (&r)[4], const void* at) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
__device__ inline void multiply_tile(__half, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_tile(__nv_bfloat16, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// 16 bytes from global to shared memory, behind what runs; zeros where `from` is null.
__device__ inline void copy_async(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = from != nullptr ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from != nullptr ? from : to), "r"(bytes));
}
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;"); }
// All but the last `most` groups have come.
template <int most>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(most));
}

}  // namespace forebay::cuda
