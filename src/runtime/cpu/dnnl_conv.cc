#include "runtime/cpu/dnnl_conv.h"

#include "base/check.h"

#ifdef FOREBAY_HAVE_ONEDNN
#include "runtime/cpu/dnnl_support.h"
#endif

namespace forebay::cpu {

#ifdef FOREBAY_HAVE_ONEDNN
namespace {

dnnl::memory::dims dense_strides(const dnnl::memory::dims& dims) {
  dnnl::memory::dims strides(dims.size(), 1);
  for (std::size_t i = dims.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

// A tensor as the caller has it, and as the primitive wants it.
struct Side {
  dnnl::memory plain, wanted;
  dnnl::reorder reorder;
  bool reorders = false;
  std::uint64_t offset = 0;  // of `wanted` in the scratch

  void make(const dnnl::engine& engine, const dnnl::memory::desc& user, const dnnl::memory::desc& own, bool to_user, std::uint64_t* at) {
    plain = dnnl::memory(user, engine, nullptr);
    reorders = user != own;
    if (!reorders) return;
    wanted = dnnl::memory(own, engine, nullptr);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    reorder = to_user ? dnnl::reorder(dnnl::reorder::primitive_desc(engine, own, engine, user, attributes))
                      : dnnl::reorder(dnnl::reorder::primitive_desc(engine, user, engine, own, attributes));
    offset = *at;
    *at += (own.get_size() + 63) / 64 * 64;
  }
  dnnl_memory_t bind(const void* data, std::byte* scratch) const {
    dnnl_memory_set_data_handle(plain.get(), const_cast<void*>(data));
    if (!reorders) return plain.get();
    dnnl_memory_set_data_handle(wanted.get(), scratch + offset);
    return wanted.get();
  }
};

class Conv final : public DnnlConv {
 public:
  explicit Conv(const DnnlConvShape& s) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_), has_bias_(s.bias) {
    threads_.apply();
    using Dims = dnnl::memory::dims;
    constexpr auto f32 = dnnl::memory::data_type::f32;
    Dims x = {s.batch, s.channels}, y = {s.batch, s.filters}, w = {s.filters / s.groups, s.channels / s.groups}, dilation;
    if (s.groups > 1) w.insert(w.begin(), s.groups);
    x.insert(x.end(), s.in.begin(), s.in.end());
    y.insert(y.end(), s.out.begin(), s.out.end());
    w.insert(w.end(), s.kernel.begin(), s.kernel.end());
    for (const std::int64_t d : s.dilation) dilation.push_back(d - 1);
    Dims x_strides = dense_strides(x), y_strides = dense_strides(y);
    x_strides[0] = s.x_image;
    x_strides[1] = s.x_channel;
    y_strides[0] = s.y_image;
    y_strides[1] = s.y_channel;
    const dnnl::memory::desc user_x(x, f32, x_strides), user_w(w, f32, dense_strides(w)), user_y(y, f32, y_strides);
    const dnnl::memory::desc bias({s.filters}, f32, dnnl::memory::format_tag::a);
    const auto any = [](const Dims& dims) { return dnnl::memory::desc(dims, f32, dnnl::memory::format_tag::any); };
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    constexpr auto kind = dnnl::prop_kind::forward_inference;
    constexpr auto algorithm = dnnl::algorithm::convolution_direct;
    const auto desc = s.bias ? dnnl::convolution_forward::desc(kind, algorithm, any(x), any(w), bias, any(y), Dims(s.stride), dilation, Dims(s.pad_begin),
                                                               Dims(s.pad_end))
                             : dnnl::convolution_forward::desc(kind, algorithm, any(x), any(w), any(y), Dims(s.stride), dilation, Dims(s.pad_begin),
                                                               Dims(s.pad_end));
    const dnnl::convolution_forward::primitive_desc made(desc, attributes, engine_);
    primitive_ = dnnl::convolution_forward(made);
    x_.make(engine_, user_x, made.src_desc(), false, &scratch_bytes_);
    w_.make(engine_, user_w, made.weights_desc(), false, &scratch_bytes_);
    y_.make(engine_, user_y, made.dst_desc(), true, &scratch_bytes_);
    if (has_bias_) bias_ = dnnl::memory(bias, engine_, nullptr);
    pad_ = dnnl::memory(made.scratchpad_desc(), engine_, nullptr);
    pad_offset_ = scratch_bytes_;
    scratch_bytes_ += made.scratchpad_desc().get_size();
  }
  std::uint64_t scratch_bytes() const override { return scratch_bytes_; }
  Status run(const float* x, const float* w, const float* bias, float* y, std::byte* scratch) override {
    threads_.apply();
    dnnl_memory_t src = x_.bind(x, scratch), weights = w_.bind(w, scratch), dst = y_.bind(y, scratch);
    FB_TRY(reorder(x_, true));
    FB_TRY(reorder(w_, true));
    dnnl_memory_set_data_handle(pad_.get(), scratch + pad_offset_);
    std::pair<int, dnnl_memory_t> arguments[5] = {
        {DNNL_ARG_SRC, src}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, dst}, {DNNL_ARG_SCRATCHPAD, pad_.get()}, {DNNL_ARG_BIAS, nullptr}};
    if (has_bias_) {
      dnnl_memory_set_data_handle(bias_.get(), const_cast<float*>(bias));
      arguments[4].second = bias_.get();
    }
    FB_TRY(dnnl_run(primitive_, stream_, arguments, has_bias_ ? 5 : 4));
    return reorder(y_, false);
  }

 private:
  Status reorder(const Side& side, bool in) const {
    if (!side.reorders) return {};
    const dnnl_memory_t from = in ? side.plain.get() : side.wanted.get(), to = in ? side.wanted.get() : side.plain.get();
    const std::pair<int, dnnl_memory_t> arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return dnnl_run(side.reorder, stream_, arguments, 2);
  }
  DnnlSingleThread threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::convolution_forward primitive_;
  Side x_, w_, y_;
  dnnl::memory bias_, pad_;
  bool has_bias_ = false;
  std::uint64_t pad_offset_ = 0, scratch_bytes_ = 0;
};

}  // namespace

std::unique_ptr<DnnlConv> DnnlConv::create(const DnnlConvShape& shape) {
  try {
    return std::make_unique<Conv>(shape);
  } catch (const dnnl::error&) {
    return nullptr;  // this machine or version does not serve it
  }
}
#else
std::unique_ptr<DnnlConv> DnnlConv::create(const DnnlConvShape&) { return nullptr; }
#endif

}  // namespace forebay::cpu
