// Threads that compute masks while the layers of a step run.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace shoal {

class MaskPool {
 public:
  /// Starts threads as jobs come, at most so many.
  explicit MaskPool(int threads_max);
  /// Stops.
  ~MaskPool();
  MaskPool(const MaskPool&) = delete;
  MaskPool& operator=(const MaskPool&) = delete;

  /// Runs `job` on one of the threads. Jobs begin in the order of their posts. After stop() it is dropped.
  void post(std::function<void()> job);

  /// Drops the jobs that have not begun, and waits for those that have. Idempotent.
  void stop();

 private:
  void run();

  const size_t threads_max_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace shoal
