// Messages for somebody else's server, posted by a thread of its own: whatever that server does costs who leaves them here
// at most some messages. Used for webhooks and traces.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/client.h"
#include "base/clock.h"
#include "base/log_throttle.h"

namespace shoal {

/// Messages since the start.
struct OutboxTotals {
  int64_t sent = 0;     ///< Taken by the server.
  int64_t failed = 0;   ///< Given up after all attempts, or refused.
  int64_t dropped = 0;  ///< Never tried: the queue was full, or the process ended.
  int64_t waiting = 0;  ///< Now.
};

class Outbox {
 public:
  struct Options {
    std::string name;  ///< "webhook": for the log, which is told nothing of the URL but its host.
    HttpUrl url;
    size_t waiting_max = 256;  ///< Messages that may wait; further ones are dropped.
    /// Messages that one POST has at most: head, the messages with commas between, tail. One that is not full goes
    /// batch_wait after its first message came.
    size_t batch_max = 1;
    Duration batch_wait{};
    std::string head;
    std::string tail;
    Duration timeout = std::chrono::seconds(5);  ///< Of one attempt.
    int attempts =
        1;  ///< Of a batch that is not taken; a server that refuses it (4xx but 408 and 429) is not asked again.
    Duration pause_first = std::chrono::seconds(1);  ///< Between attempts; then twice as long each time,
    Duration pause_max = std::chrono::seconds(30);   ///< up to this.
  };
  /// InvalidArgument where the authorities for https can't be read.
  static absl::StatusOr<std::unique_ptr<Outbox>> Start(Options options);
  /// Drops what waits.
  ~Outbox();

  /// A message; its text (JSON) is asked for by the outbox's thread. Never waits. False: dropped.
  bool post(std::function<std::string()> text);

  OutboxTotals totals() const;

  /// Takes nothing more, and posts what waits for so long at most, without pauses between attempts. Idempotent.
  void stop(Duration patience);

 private:
  Outbox(Options options, HttpClient client);
  void run();
  /// Empty: the end.
  std::vector<std::function<std::string()>> next_batch();
  void deliver(const std::vector<std::function<std::string()>>& batch);
  /// OK: taken. InvalidArgument: refused for good. Else why it is worth another attempt.
  absl::Status attempt(const std::string& body) const;
  /// Whether there may be another attempt.
  bool pause(Duration duration);
  Deadline attempt_deadline() const;

  const Options options_;
  const HttpClient client_;
  LogThrottle failures_{std::chrono::seconds(30)};
  mutable std::mutex mutex_;  ///< Guards what follows, but for the thread.
  std::condition_variable changed_;
  std::deque<std::function<std::string()>> waiting_;
  std::optional<Clock::time_point> first_at_;  ///< When the oldest that waits came.
  OutboxTotals totals_;
  bool stopping_ = false;
  Deadline until_{};  ///< Of stop().
  std::thread thread_;
};

}  // namespace shoal
