// A sink that remembers what it was told, for tests.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "sched/request.h"

namespace shoal {

class RecordingSink : public EventSink {
 public:
  /// Says "enough" after `wanted` tokens of a choice; never where negative.
  explicit RecordingSink(int wanted = -1) : wanted_(wanted) {}

  void on_begin(int choice, int64_t cached) override {
    std::lock_guard lock(mutex_);
    late_ |= !error_.ok() || of(choice).begun;
    of(choice).begun = true;
    of(choice).cached = cached;
    changed_.notify_all();
  }
  bool on_tokens(int choice, std::span<const SampledToken> tokens) override {
    std::lock_guard lock(mutex_);
    late_ |= over(choice) || !of(choice).begun || tokens.empty();
    for (const SampledToken& one : tokens) {
      of(choice).tokens.push_back(one.id);
      of(choice).sampled.push_back(one);
    }
    changed_.notify_all();
    return static_cast<int>(of(choice).tokens.size()) != wanted_;
  }
  void on_scores(int choice, std::span<const SampledToken> scores) override {
    std::lock_guard lock(mutex_);
    late_ |= over(choice) || !of(choice).begun || scores.empty() || !of(choice).tokens.empty();
    of(choice).scores.insert(of(choice).scores.end(), scores.begin(), scores.end());
  }
  void on_embedding(int choice, std::span<const float> embedding) override {
    std::lock_guard lock(mutex_);
    late_ |= over(choice) || !of(choice).begun || !of(choice).embedding.empty();
    of(choice).embedding.assign(embedding.begin(), embedding.end());
  }
  void on_end_token(int choice, const SampledToken& token) override {
    std::lock_guard lock(mutex_);
    late_ |= over(choice);
    of(choice).end_token = token;
  }
  void on_finish(int choice, FinishReason reason) override {
    std::lock_guard lock(mutex_);
    late_ |= over(choice);
    of(choice).reason = reason;
    changed_.notify_all();
  }
  void on_step_end() override {
    std::lock_guard lock(mutex_);
    ++step_ends_;
  }
  void on_tick(Clock::time_point) override {
    std::lock_guard lock(mutex_);
    ++ticks_;
    changed_.notify_all();
  }
  void on_error(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    late_ |= !error_.ok();
    for (const Choice& one : choices_) late_ |= choices_.size() == 1 && one.reason.has_value();
    error_ = status;
    changed_.notify_all();
  }

  /// True if the first `choices` choices ended, or the request by an error, before 30 s passed.
  bool wait_end(int choices = 1) {
    return wait([&] {
      for (int i = 0; i < choices; ++i) {
        if (!over(i)) return false;
      }
      return true;
    });
  }
  /// True if at least `count` tokens of the first choice came before 30 s passed.
  bool wait_tokens(size_t count) {
    return wait([&] { return of(0).tokens.size() >= count; });
  }
  bool wait_tick() {
    return wait([&] { return ticks_ > 0; });
  }
  bool begun(int choice = 0) const { return choice_of(choice).begun; }
  int64_t cached(int choice = 0) const { return choice_of(choice).cached; }
  std::vector<int32_t> tokens(int choice = 0) const { return choice_of(choice).tokens; }
  std::vector<SampledToken> sampled(int choice = 0) const { return choice_of(choice).sampled; }
  std::vector<SampledToken> scores(int choice = 0) const { return choice_of(choice).scores; }
  std::vector<float> embedding(int choice = 0) const { return choice_of(choice).embedding; }
  std::optional<SampledToken> end_token(int choice = 0) const { return choice_of(choice).end_token; }
  std::optional<FinishReason> reason(int choice = 0) const { return choice_of(choice).reason; }
  int step_ends() const {
    std::lock_guard lock(mutex_);
    return step_ends_;
  }
  absl::Status error() const {
    std::lock_guard lock(mutex_);
    return error_;
  }
  /// Something came after the end, or out of order.
  bool late() const {
    std::lock_guard lock(mutex_);
    return late_;
  }

 private:
  struct Choice {
    bool begun = false;
    int64_t cached = 0;
    std::vector<int32_t> tokens;
    std::vector<SampledToken> sampled;
    std::vector<SampledToken> scores;
    std::vector<float> embedding;
    std::optional<SampledToken> end_token;
    std::optional<FinishReason> reason;
  };
  // With the mutex held.
  Choice& of(int choice) {
    if (choices_.size() <= static_cast<size_t>(choice)) choices_.resize(static_cast<size_t>(choice) + 1);
    return choices_[static_cast<size_t>(choice)];
  }
  bool over(int choice) { return of(choice).reason.has_value() || !error_.ok(); }
  Choice choice_of(int choice) const {
    std::lock_guard lock(mutex_);
    return static_cast<size_t>(choice) < choices_.size() ? choices_[static_cast<size_t>(choice)] : Choice{};
  }
  template <typename Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), condition);
  }

  const int wanted_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Choice> choices_;
  absl::Status error_;
  bool late_ = false;
  int step_ends_ = 0;
  int ticks_ = 0;
};

}  // namespace shoal
