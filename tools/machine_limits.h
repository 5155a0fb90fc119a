// The machine and its limits as measured in this run: memory, copies, decoding.
#pragma once

#include <boost/json.hpp>
#include <string>

#include "forebay/status.h"

namespace forebay::tools {

int default_threads();
double memory_read_gbps(int threads, double seconds);  // a large buffer, read by all threads
double copy_gbps(double seconds);                      // one thread; bytes copied
// Page-locked host memory to the device, in copies of 8 MiB that follow each other: what no stream can exceed.
Result<double> device_link_gbps(const std::string& device, double seconds);
// Copies within the device's memory, bytes read and written.
Result<double> device_memory_gbps(const std::string& device, double seconds);
double zstd_decode_gbps(double seconds);               // one thread; bytes out, of data that compresses like bf16 weights
std::string cpu_name();
boost::json::object machine_json();  // {cpu, cores, memory_bytes, kernel, ...}

}  // namespace forebay::tools
