// Preloaded into a process: its n-th allocation fails, once or from then on (FAILING_MALLOC_NTH, FAILING_MALLOC_LASTING). Without a number
// nothing fails, and the count is written to the file FAILING_MALLOC_COUNT at the end. For glibc, whose own allocator stays underneath.
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
}

namespace {

std::atomic<long> made{0};
std::atomic<long> failing_nth{0};  // set by the constructor; what is allocated before never fails
std::atomic<bool> failing_lasts{false};

bool fails() {
  const long n = made.fetch_add(1) + 1, nth = failing_nth.load();
  if (nth == 0 || n < nth || (n > nth && !failing_lasts.load())) return false;
  errno = ENOMEM;
  return true;
}

__attribute__((constructor)) void set_up() {
  if (const char* nth = std::getenv("FAILING_MALLOC_NTH")) failing_nth = std::strtol(nth, nullptr, 10);
  failing_lasts = std::getenv("FAILING_MALLOC_LASTING") != nullptr;
}

__attribute__((destructor)) void tell() {
  const char* path = std::getenv("FAILING_MALLOC_COUNT");
  if (path == nullptr) return;
  if (std::FILE* file = std::fopen(path, "w")) {
    std::fprintf(file, "%ld\n", made.load());
    std::fclose(file);
  }
}

}  // namespace

extern "C" {
void* malloc(std::size_t bytes) { return fails() ? nullptr : __libc_malloc(bytes); }
void* calloc(std::size_t count, std::size_t bytes) { return fails() ? nullptr : __libc_calloc(count, bytes); }
void* realloc(void* old, std::size_t bytes) { return fails() ? nullptr : __libc_realloc(old, bytes); }
void* memalign(std::size_t alignment, std::size_t bytes) { return fails() ? nullptr : __libc_memalign(alignment, bytes); }
void* aligned_alloc(std::size_t alignment, std::size_t bytes) { return fails() ? nullptr : __libc_memalign(alignment, bytes); }
int posix_memalign(void** to, std::size_t alignment, std::size_t bytes) {
  void* const got = fails() ? nullptr : __libc_memalign(alignment, bytes);
  if (got == nullptr) return ENOMEM;
  *to = got;
  return 0;
}
}
