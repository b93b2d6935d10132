// A sink that remembers what it was told, for tests.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "sched/request.h"

namespace shoal {

class RecordingSink : public EventSink {
 public:
  /// Says "enough" after `wanted` tokens; never where negative.
  explicit RecordingSink(int wanted = -1) : wanted_(wanted) {}

  bool on_token(int32_t token) override {
    std::lock_guard lock(mutex_);
    late_ |= over();
    tokens_.push_back(token);
    changed_.notify_all();
    return static_cast<int>(tokens_.size()) != wanted_;
  }
  void on_finish(FinishReason reason) override {
    std::lock_guard lock(mutex_);
    late_ |= over();
    reason_ = reason;
    changed_.notify_all();
  }
  void on_error(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    late_ |= over();
    error_ = status;
    changed_.notify_all();
  }

  /// True if the request ended before 30 s passed.
  bool wait_end() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return over(); });
  }
  /// True if at least `count` tokens came before 30 s passed.
  bool wait_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return tokens_.size() >= count; });
  }
  std::vector<int32_t> tokens() const {
    std::lock_guard lock(mutex_);
    return tokens_;
  }
  std::optional<FinishReason> reason() const {
    std::lock_guard lock(mutex_);
    return reason_;
  }
  absl::Status error() const {
    std::lock_guard lock(mutex_);
    return error_;
  }
  /// Something came after the end.
  bool late() const {
    std::lock_guard lock(mutex_);
    return late_;
  }

 private:
  bool over() const { return reason_.has_value() || !error_.ok(); }

  const int wanted_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> tokens_;
  std::optional<FinishReason> reason_;
  absl::Status error_;
  bool late_ = false;
};

}  // namespace shoal
