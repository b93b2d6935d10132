#include "sched/mask_pool.h"

#include <utility>

#include "base/check.h"
#include "base/process.h"

namespace shoal {

MaskPool::MaskPool(int threads_max) : threads_max_(static_cast<size_t>(threads_max)) {
  SHOAL_CHECK_GE(threads_max, 1);
}

MaskPool::~MaskPool() { stop(); }

void MaskPool::post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    jobs_.push_back(std::move(job));
    // An idle thread may have a job waiting for it already: there are as many threads as jobs, up to the limit.
    if (idle_ < jobs_.size() && threads_.size() < threads_max_) threads_.emplace_back([this] { run(); });
  }
  wake_.notify_one();
}

void MaskPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    jobs_.clear();
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void MaskPool::run() {
  NameThread("masks");
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    --idle_;
    if (stopping_) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace shoal
