#include "runtime/cpu/dnnl_matmul.h"

#include "base/check.h"

#ifdef FOREBAY_HAVE_ONEDNN
#include "runtime/cpu/dnnl_support.h"
#endif

namespace forebay::cpu {

#ifdef FOREBAY_HAVE_ONEDNN
namespace {

#define FB_TEXT_INNER(x) #x
#define FB_TEXT(x) FB_TEXT_INNER(x)

class Matmul final : public DnnlMatmul {
 public:
  explicit Matmul(const DnnlMatmulShape& shape) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    threads_.apply();
    const auto type = shape.dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    const dnnl::memory::desc a({shape.m, shape.k}, type, {shape.a_row, shape.a_col});
    const dnnl::memory::desc b({shape.k, shape.n}, type, {shape.b_row, shape.b_col});
    const dnnl::memory::desc c({shape.m, shape.n}, dnnl::memory::data_type::f32, {shape.c_row, 1});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc made(dnnl::matmul::desc(a, b, c), attributes, engine_);
    primitive_ = dnnl::matmul(made);
    a_ = dnnl::memory(a, engine_, nullptr);
    b_ = dnnl::memory(b, engine_, nullptr);
    c_ = dnnl::memory(c, engine_, nullptr);
    scratch_ = dnnl::memory(made.scratchpad_desc(), engine_, nullptr);
    scratch_bytes_ = made.scratchpad_desc().get_size();
  }
  std::uint64_t scratch_bytes() const override { return scratch_bytes_; }
  Status run(const std::byte* a, const std::byte* b, float* c, std::byte* scratch) override {
    threads_.apply();
    dnnl_memory_set_data_handle(a_.get(), const_cast<std::byte*>(a));
    dnnl_memory_set_data_handle(b_.get(), const_cast<std::byte*>(b));
    dnnl_memory_set_data_handle(c_.get(), c);
    dnnl_memory_set_data_handle(scratch_.get(), scratch);
    const std::pair<int, dnnl_memory_t> arguments[] = {
        {DNNL_ARG_SRC, a_.get()}, {DNNL_ARG_WEIGHTS, b_.get()}, {DNNL_ARG_DST, c_.get()}, {DNNL_ARG_SCRATCHPAD, scratch_.get()}};
    return dnnl_run(primitive_, stream_, arguments, 4);
  }

 private:
  DnnlSingleThread threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul primitive_;
  dnnl::memory a_, b_, c_, scratch_;
  std::uint64_t scratch_bytes_ = 0;
};

}  // namespace

std::unique_ptr<DnnlMatmul> DnnlMatmul::create(const DnnlMatmulShape& shape) {
  if (shape.m < 1 || shape.n < 1 || shape.k < 1) return nullptr;
  try {
    return std::make_unique<Matmul>(shape);
  } catch (const dnnl::error&) {
    return nullptr;  // this machine or version does not serve it
  }
}

const char* dnnl_version_text() { return FB_TEXT(DNNL_VERSION_MAJOR) "." FB_TEXT(DNNL_VERSION_MINOR) "." FB_TEXT(DNNL_VERSION_PATCH); }
#else
std::unique_ptr<DnnlMatmul> DnnlMatmul::create(const DnnlMatmulShape&) { return nullptr; }
const char* dnnl_version_text() { return ""; }
#endif

}  // namespace forebay::cpu
