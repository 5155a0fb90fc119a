// Large products through cuBLASLt, looked up at run time: absent, our own kernel does them.
//
// The algorithm is chosen once for a slab's fixed shape, without split-K and reduction schemes and
// for a fixed alignment, so a slab has the same bits wherever it lies. A config names one: the library's
// version, the algorithm's id and settings, and the library's own words for it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cuda/cuda_launch.h"
#include "runtime/cuda/cuda_status.h"

namespace forebay::cuda {

struct LtLists;

struct LtShape {
  std::int64_t m = 0, n = 0, k = 0;
  bool b_rows = true;      // B is [n, k] without gaps; else [k, n]
  std::int64_t a_row = 0;  // A is [m, k], rows so far apart
  std::int64_t d_row = 0;
  DType type = DType::bf16;    // of A and B
  DType d_type = DType::bf16;  // type or f32
  bool add = false;            // D += A * B
  std::uint32_t d_alignment = 16;
  std::int64_t batches = 1, a_batch = 0, b_batch = 0, d_batch = 0;  // elements from batch to batch; 0: one for all
  friend bool operator==(const LtShape&, const LtShape&) = default;
};

class LtProduct {
 public:
  virtual ~LtProduct() = default;
  virtual const LtShape& shape() const = 0;
  virtual std::string config() const = 0;
  virtual Status run(const void* a, const void* b, void* d, float alpha,
                     cudaStream_t stream) const = 0;
  virtual void load() const = 0;  // what the first run would, once; on any thread
};

// Null: no library, or it has no algorithm for the shape. With a config: that algorithm, null where the library's heuristics list it
// neither for the shape nor, where given, for the `whole` that the shape is a slab of (then the library is asked whether it serves the
// slab). The last ones made are kept and given again: a prompt has hundreds of products, few of them different, and asks for them anew
// whenever its length changes. `state` outlives what it gives.
std::shared_ptr<const LtProduct> make_lt_product(const LtShape& shape, const std::shared_ptr<CudaState>& state,
                                                 std::string_view config = {}, const LtShape* whole = nullptr);
// Without asking the library, which would start the device: whether it can be expected to.
bool lt_may_serve(const LtShape& shape, std::string_view config);
// Configs of at most `most` algorithms to choose from, as the library's heuristics order them.
inline constexpr std::size_t kMostAlgorithms = 8;
std::vector<std::string> lt_configs(const LtShape& shape, const std::shared_ptr<CudaState>& state, std::size_t most = kMostAlgorithms);
std::string lt_version();                  // "" without the library
std::shared_ptr<LtLists> make_lt_lists();  // what the library lists for shapes, and the products made of it

}  // namespace forebay::cuda
