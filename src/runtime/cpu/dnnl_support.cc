#ifdef FOREBAY_HAVE_ONEDNN
#include "runtime/cpu/dnnl_support.h"

#include <dlfcn.h>

#include <string>

namespace forebay::cpu {

DnnlSingleThread::DnnlSingleThread() {
  set_ = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
}

void DnnlSingleThread::apply() const {
  if (set_ != nullptr) set_(1);
}

Status dnnl_failed(const dnnl::error& error, const char* doing) {
  const Code code = error.status == dnnl_unimplemented ? Code::unsupported : error.status == dnnl_out_of_memory ? Code::out_of_memory : Code::internal;
  return Status(code, std::string("oneDNN, ") + doing + ": " + error.what());
}

Status dnnl_failed(dnnl_status_t status, const char* doing) {
  return Status(status == dnnl_out_of_memory ? Code::out_of_memory : Code::internal,
                std::string("oneDNN, ") + doing + ": status " + std::to_string(static_cast<int>(status)));
}

Status dnnl_run(const dnnl::primitive& primitive, const dnnl::stream& stream, const std::pair<int, dnnl_memory_t>* arguments, int count) {
  dnnl_exec_arg_t list[8];
  for (int i = 0; i < count; ++i) list[i] = {arguments[i].first, arguments[i].second};
  const dnnl_status_t status = dnnl_primitive_execute(primitive.get(), stream.get(), count, list);
  return status == dnnl_success ? Status() : dnnl_failed(status, "executing a primitive");
}

}  // namespace forebay::cpu
#endif
