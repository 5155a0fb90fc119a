#include "stream/work_pool.h"

#include <string>
#include <system_error>

#include "base/check.h"

namespace forebay::stream {

Result<std::unique_ptr<WorkPool>> WorkPool::create(int threads, std::size_t capacity, Job job, void* context) {
  std::unique_ptr<WorkPool> pool(new WorkPool(capacity, job, context));
  for (int i = 0; i < threads; ++i) {
    try {
      pool->threads_.emplace_back([p = pool.get(), i] { p->work(i); });
    } catch (const std::system_error& error) {
      if (i == 0) return Status(Code::unavailable, std::string("no thread to decode with: ") + error.what());
      break;
    }
  }
  return pool;
}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void WorkPool::submit(void* item) {
  std::lock_guard lock(mutex_);
  FB_CHECK(count_ < items_.size());
  items_[(first_ + count_++) % items_.size()] = item;
  wake_.notify_one();
}

void WorkPool::work(int worker) {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return count_ > 0 || stop_; });
    if (count_ == 0) return;
    void* item = items_[first_];
    first_ = (first_ + 1) % items_.size();
    --count_;
    lock.unlock();
    job_(context_, item, worker);
    lock.lock();
  }
}

}  // namespace forebay::stream
