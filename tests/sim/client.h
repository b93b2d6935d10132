// Who asks: requests made from a seed, the sinks that hold the scheduler to its promises, and what must come back.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "models/spec.h"
#include "sched/request.h"

namespace shoal::sim {

/// What a client asks for, and when it loses patience.
struct Ask {
  std::vector<GenerationRequest> choices;
  Duration begins_after{};
  Duration patience{};                    ///< Of its deadline.
  std::optional<Duration> cancels_after;  ///< From its begin.
  bool impatient = false;                 ///< Its deadline may pass while all is well.
};

/// The prompts of one seed: several begin alike, and part within a block of the cache or at its end.
class AskMaker {
 public:
  AskMaker(uint64_t seed, const ModelSpec& spec);
  Ask make();
  /// One that has all the time there is.
  Ask patient();

 private:
  std::vector<int32_t> random_tokens(int64_t count);
  std::vector<int32_t> prompt();
  GenerationRequest request(uint32_t choice, const std::vector<int32_t>& prompt);

  RandomStream random_;
  const int32_t vocabulary_;
  std::vector<std::vector<int32_t>> beginnings_;
  uint64_t asked_ = 0;
};

/// The tokens that a request must get, computed in plain loops.
std::vector<int32_t> ExpectedTokens(const ModelSpec& spec, const GenerationRequest& request);

/// Is told of one request; anything out of order fails the seed.
class CheckingSink final : public EventSink {
 public:
  explicit CheckingSink(const Ask& ask) : ask_(ask), choices_(ask.choices.size()) {}

  void on_begin(int choice, int64_t cached) override;
  bool on_tokens(int choice, std::span<const SampledToken> tokens) override;
  void on_scores(int choice, std::span<const SampledToken> scores) override;
  void on_finish(int choice, FinishReason reason) override;
  void on_error(const absl::Status& status) override;

  /// True once it has ended.
  bool wait_until(Clock::time_point until);
  /// OK where all choices have finished.
  absl::Status outcome() const;
  std::vector<int32_t> tokens(int choice) const;
  FinishReason reason(int choice) const;
  size_t scores(int choice) const;

 private:
  struct Choice {
    bool begun = false;
    std::vector<int32_t> tokens;
    size_t scores = 0;
    std::optional<FinishReason> reason;
  };
  bool ended() const;
  Choice& open_choice(int choice, const char* what);

  const Ask& ask_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Choice> choices_;
  absl::Status error_;
};

}  // namespace shoal::sim
