// forebay doctor: what this machine offers, and what to do about what it does not. Prints nothing secret: no names, no environment.
#include <dlfcn.h>
#include <link.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>

#include "base/check.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "machine_limits.h"
#include "raw_read.h"
#include "runtime/device_library.h"
#include "session.h"
#include "temporary_folder.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

class Doctor {
 public:
  explicit Doctor(Session& session) : session_(session), quick_(session.options.flag("quick")) {}

  Status run() {
    session_.result["machine"] = machine_json();
    session_.print("{}, {} cores, {} of memory\n", cpu_name(), default_threads(), format_size(memory_info().total_bytes));
    check_cpu();
    check_libraries();
    check_uring();
    check_memlock();
    std::vector<std::string> paths = session_.options.list("path");
    if (paths.empty()) paths = {"."};
    for (const std::string& path : paths) FB_TRY(check_path(path));
    if (!quick_) check_rates();
    session_.result["paths"] = std::move(paths_);
    session_.result["problems"] = std::move(problems_);
    session_.print("{}\n", found_ == 0 ? "no problems found" : fmt::format("{} problems, each with its fix above; everything still works, slower", found_));
    return {};
  }

 private:
  void problem(const std::string& what, const std::string& fix) {
    ++found_;
    problems_.push_back(json::object{{"message", what}, {"fix", fix}});
    session_.print("  problem: {}\n  fix:     {}\n", what, fix);
  }

  void check_cpu() {
    __builtin_cpu_init();
    json::object isa;
    const auto add = [&](const char* name, bool has) { isa[name] = has; };
    add("avx2", __builtin_cpu_supports("avx2") != 0);
    add("fma", __builtin_cpu_supports("fma") != 0);
    add("avx512f", __builtin_cpu_supports("avx512f") != 0);
    session_.print("instructions: avx2 {}, avx512 {}\n", __builtin_cpu_supports("avx2") != 0 ? "yes" : "no",
                   __builtin_cpu_supports("avx512f") != 0 ? "yes" : "no");
    session_.result["instructions"] = std::move(isa);
  }

  void check_libraries() {
    constexpr std::array<const char*, 6> kNames{"libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libnvidia-ml.so.1"};
    json::array tried;
    bool driver = false;
    std::string cudnn;
    for (const char* name : kNames) {
      json::object one{{"name", name}};
      void* handle = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL);
      one["found"] = handle != nullptr;
      if (handle != nullptr) {
        struct link_map* map = nullptr;
        if (::dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr) one["path"] = map->l_name;
        ::dlclose(handle);
      } else {
        const char* why = ::dlerror();
        one["reason"] = why != nullptr ? why : "not found";
      }
      if (std::string_view(name) == "libcuda.so.1") driver = handle != nullptr;
      if (std::string_view(name) == "libcudnn.so.9" && handle != nullptr) one["version"] = cudnn = cudnn_version();
      tried.push_back(std::move(one));
    }
    session_.result["libraries"] = std::move(tried);
    session_.result["driver"] = driver;
    session_.result["gpu"] = ::access("/dev/nvidiactl", F_OK) == 0;
    check_cuda(driver);
    session_.print("cuDNN: {}\n", cudnn.empty() ? "none (libcudnn.so.9): convolutions on a GPU are our own kernels'" : cudnn);
  }

  // The GPU as `--device cuda` would open it, or the line with which that would be refused.
  void check_cuda(bool driver) {
    auto device = load_device("cuda");
    json::object cuda{{"usable", device.ok()}};
    if (device.ok()) {
      const DeviceInfo& info = (*device)->info();
      cuda["name"] = info.name;
      cuda["total_bytes"] = info.total_bytes;
      std::string found = info.name + ", " + format_size(info.total_bytes);
      if (const auto free = (*device)->free_bytes(); free.ok()) {
        cuda["free_bytes"] = *free;
        found += ", " + format_size(*free) + " free";
      }
      for (const auto& [name, value] : info.numerics) found += fmt::format("; {} {}", name, value);
      session_.print("CUDA device: {}\n", found);
    } else {
      cuda["reason"] = device.status().message();
      session_.print("CUDA device: {}\n", driver ? "not usable" : "none, as there is no driver (libcuda.so.1): using the CPU");
      const std::string& hint = device.status().problems().front().hint;
      if (driver) problem(device.status().message(), hint.empty() ? "--device cpu works without it" : hint);
    }
    session_.result["cuda"] = std::move(cuda);
  }

  // As 9.10.2; empty where it is not whole. Asked of the part that has it: libcudnn.so ends the process where a part is missing.
  static std::string cudnn_version() {
    void* const graph = ::dlopen("libcudnn_graph.so.9", RTLD_LAZY | RTLD_LOCAL);
    if (graph == nullptr) return {};
    const auto ask = reinterpret_cast<std::size_t (*)()>(::dlsym(graph, "cudnnGetVersion"));
    const std::size_t version = ask != nullptr ? ask() : 0;
    ::dlclose(graph);
    return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  }

  void check_uring() {
    std::string why;
    const bool works = uring_available(&why);
    session_.result["io_uring"] = json::object{{"available", works}, {"reason", why}};
    session_.print("io_uring: {}\n", works ? "works" : "no (" + why + ")");
    if (!works) {
      problem("io_uring is not available, reading threads are used instead: " + why,
              "sysctl kernel.io_uring_disabled=0, or allow it in the container's seccomp profile");
    }
  }

  void check_memlock() {
    struct rlimit limit {};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    const bool unlimited = limit.rlim_cur == RLIM_INFINITY || ::geteuid() == 0;
    if (unlimited) session_.result["memlock_bytes"] = nullptr;
    else session_.result["memlock_bytes"] = std::uint64_t{limit.rlim_cur};
    session_.print("memlock: {}\n", unlimited ? "unlimited" : format_size(limit.rlim_cur));
    if (!unlimited && limit.rlim_cur < (256ull << 20)) {
      problem(fmt::format("only {} may be locked, so reads go to unregistered memory", format_size(limit.rlim_cur)),
              "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit");
    }
  }

  Status check_path(const std::string& path) {
    FB_TRY(check_interrupted());
    json::object one{{"path", path}};
    auto work = TemporaryFolder::create(path, false);
    if (!work.ok()) {
      one["writable"] = false;
      problem(fmt::format("{} is not writable: {}", path, work.status().message()), "name a folder of yours with --path DIR");
      paths_.push_back(std::move(one));
      return {};
    }
    const std::string probe = join_path(work->path(), "probe");
    const std::uint64_t bytes = quick_ ? 4ull << 20 : 512ull << 20;
    FB_ASSIGN(auto file, DurableFile::create(posix_file_system(), probe, bytes));
    std::vector<std::byte> block(4ull << 20);
    for (std::uint64_t at = 0; at < bytes; at += block.size()) {
      FB_TRY(check_interrupted());
      for (std::size_t i = 0; i < block.size(); i += 256) block[i] = static_cast<std::byte>((at + i) * 2654435761u >> 13);
      FB_TRY(file->append(block));
    }
    FB_TRY(file->commit());
    std::vector<std::unique_ptr<File>> files;
    FB_ASSIGN(auto reader, posix_file_system().open_read(probe, DirectIo::prefer));
    const bool direct = reader->direct();
    one["writable"] = true;
    one["direct"] = direct;
    one["block_bytes"] = direct ? reader->alignment() : 1;
    files.push_back(std::move(reader));
    RawReadOptions options;
    options.seconds = quick_ ? 0.1 : 3.0;
    FB_ASSIGN(const RawReadResult read, raw_read(files, options));
    one["read_gbps"] = read.gbps;
    one["read_engine"] = read.engine;
    session_.print("{}: O_DIRECT {}, {:.2f} GB/s by {}\n", path, direct ? "works" : "refused", read.gbps, read.engine);
    if (!direct) problem(fmt::format("{} refuses O_DIRECT: reads go through the page cache", path), "keep weights on ext4 or xfs");
    paths_.push_back(std::move(one));
    return {};
  }

  void check_rates() {
    const double memory = memory_read_gbps(default_threads(), 3.0), copy = copy_gbps(1.0), decode = zstd_decode_gbps(1.0);
    session_.result["rates"] = json::object{{"memory_gbps", memory}, {"copy_gbps", copy}, {"zstd_decode_gbps", decode}};
    session_.print("memory read {:.1f} GB/s, copy {:.1f} GB/s (one thread), zstd decode {:.2f} GB/s (one thread)\n", memory, copy, decode);
  }

  Session& session_;
  bool quick_;
  json::array problems_, paths_;
  std::size_t found_ = 0;
};

}  // namespace

Status run_doctor(Session& session) { return Doctor(session).run(); }

}  // namespace forebay::tools
