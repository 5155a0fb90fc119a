// Shared by the oneDNN kernels: the engine, thread cap and execution with caller's memory. Built only with FOREBAY_HAVE_ONEDNN.
#pragma once

#include <dnnl.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "forebay/status.h"

namespace forebay::cpu {

// oneDNN's OpenMP team is as large as its calling thread says: capped before creation and before each execution.
class DnnlThreads {
 public:
  explicit DnnlThreads(int threads);
  void apply() const;

 private:
  void (*set_)(int) = nullptr;  // of the OpenMP runtime that oneDNN brings; null when it has none
  int threads_ = 1;
};

Status dnnl_failed(const dnnl::error& error, const char* doing);
Status dnnl_failed(dnnl_status_t status, const char* doing);

// Executes with the memories given; allocates nothing of ours.
Status dnnl_run(const dnnl::primitive& primitive, const dnnl::stream& stream, const std::pair<int, dnnl_memory_t>* arguments, int count);

}  // namespace forebay::cpu
