// What kernels for compute capability 9.0 share: barriers in shared memory, matrices of 128-byte rows in it, and products of warpgroups.
#pragma once

#include <cstdint>
#include <type_traits>

#include "runtime/cuda/mma_numbers.cuh"

namespace forebay::cuda {

__device__ inline unsigned shared_place(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}
__device__ inline void begin_barrier(unsigned at, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(at), "r"(arrivals) : "memory");
}
__device__ inline void arrive_at(unsigned at) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}\n" ::"r"(at) : "memory");
}
// When this thread's copies so far have landed.
__device__ inline void arrive_behind_copies(unsigned at) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(at) : "memory");
}
__device__ inline void await_turn(unsigned at, int turn) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra over;\nbra again;\nover:\n}\n" ::
          "r"(at),
      "r"(turn & 1)
      : "memory");
}
// `threads` of the block meet, by barrier `id`; others pass by.
__device__ inline void meet_some(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
// 16 bytes without waiting; where `there` is false, zeros, and nothing is read.
__device__ inline void copy_16(unsigned to, const void* from, bool there) {
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes));
}
// Copies that have landed are seen by warpgroups' products.
__device__ inline void show_copies() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// Rows of 128 bytes, 16-byte piece p of row r at p ^ r % 8; `step` bytes between blocks of 64 columns of a turned matrix.
__device__ inline std::uint64_t product_matrix(unsigned address, unsigned step) {
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | static_cast<std::uint64_t>(step >> 4) << 16 |
         static_cast<std::uint64_t>(1024 >> 4) << 32 | std::uint64_t{1} << 62;
}
__device__ inline void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int most>
__device__ inline void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(most) : "memory");
}

#define FB_SUMS_8(i) \
  "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3]), "+f"(d[i + 1][0]), "+f"(d[i + 1][1]), "+f"(d[i + 1][2]), "+f"(d[i + 1][3])
#define FB_SUMS_32(i) FB_SUMS_8(i), FB_SUMS_8(i + 2), FB_SUMS_8(i + 4), FB_SUMS_8(i + 6)
#define FB_NAMES_32                                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, " \
  "%27, %28, %29, %30, %31"
#define FB_NAMES_64                                                                                                                 \
  FB_NAMES_32                                                                                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, " \
  "%57, %58, %59, %60, %61, %62, %63"

#define FB_NAMES_96                                                                                                                 \
  FB_NAMES_64                                                                                                                       \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, " \
  "%89, %90, %91, %92, %93, %94, %95"
#define FB_NAMES_128                                                                                                             \
  FB_NAMES_96                                                                                                                    \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, " \
  "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d[64 x 64, 128, 192 or 256] += a * b' over 16 columns of both, in shared memory; turned: += a * b, 16 rows of b.
#define FB_PRODUCT_64(type)                                                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" FB_NAMES_32 "}, %32, %33, 1, 1, 1, 0, %34;\n" \
               : FB_SUMS_32(0)                                                                                                \
               : "l"(a), "l"(b), "n"(kTurned ? 1 : 0))
#define FB_PRODUCT_128(type)                                                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" FB_NAMES_64 "}, %64, %65, 1, 1, 1, 0, %66;\n" \
               : FB_SUMS_32(0), FB_SUMS_32(8)                                                                                  \
               : "l"(a), "l"(b), "n"(kTurned ? 1 : 0))
#define FB_PRODUCT_192(type)                                                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" FB_NAMES_96 "}, %96, %97, 1, 1, 1, 0, %98;\n" \
               : FB_SUMS_32(0), FB_SUMS_32(8), FB_SUMS_32(16)                                                                  \
               : "l"(a), "l"(b), "n"(kTurned ? 1 : 0))
#define FB_PRODUCT_256(type)                                                                                                       \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" FB_NAMES_128 "}, %128, %129, 1, 1, 1, 0, %130;\n" \
               : FB_SUMS_32(0), FB_SUMS_32(8), FB_SUMS_32(16), FB_SUMS_32(24)                                                      \
               : "l"(a), "l"(b), "n"(kTurned ? 1 : 0))
template <typename T, bool kTurned>
__device__ __forceinline__ void add_product(float (&d)[8][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_PRODUCT_64("f16");
  } else {
    FB_PRODUCT_64("bf16");
  }
}
template <typename T, bool kTurned>
__device__ __forceinline__ void add_product(float (&d)[16][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_PRODUCT_128("f16");
  } else {
    FB_PRODUCT_128("bf16");
  }
}
template <typename T, bool kTurned>
__device__ __forceinline__ void add_product(float (&d)[24][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_PRODUCT_192("f16");
  } else {
    FB_PRODUCT_192("bf16");
  }
}
template <typename T, bool kTurned>
__device__ __forceinline__ void add_product(float (&d)[32][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_PRODUCT_256("f16");
  } else {
    FB_PRODUCT_256("bf16");
  }
}

}  // namespace forebay::cuda
