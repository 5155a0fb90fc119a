// Shared by the oneDNN kernels: the engine, thread cap and execution with caller's memory. Built only with FOREBAY_HAVE_ONEDNN.
#pragma once

#include <dnnl.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "forebay/status.h"

namespace forebay::cpu {

// Every primitive runs on its calling thread alone: work is shared by our pool, each part a primitive of its own. An OpenMP team would
// spin beside the pool's threads, and its barriers cost milliseconds when processors are shared. Before creation and each execution.
class DnnlSingleThread {
 public:
  DnnlSingleThread();
  void apply() const;

 private:
  void (*set_)(int) = nullptr;  // of the OpenMP runtime that oneDNN brings; null when it has none
};

Status dnnl_failed(const dnnl::error& error, const char* doing);
Status dnnl_failed(dnnl_status_t status, const char* doing);

// Executes with the memories given; allocates nothing of ours.
Status dnnl_run(const dnnl::primitive& primitive, const dnnl::stream& stream, const std::pair<int, dnnl_memory_t>* arguments, int count);

}  // namespace forebay::cpu
