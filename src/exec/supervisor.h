// Keeps a session up: whenever the engine has none, the host is asked to build one with the next epoch, until
// it succeeds. One process or many is the host's matter.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "exec/pipeline_engine.h"

namespace shoal {

/// Who can build a session over all nodes of a plan. Called from one thread at a time.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  /// Prepares every node for `epoch` and calls engine.open(). On an error nothing is left open.
  virtual absl::Status open(Epoch epoch, PipelineEngine& engine) = 0;
  /// Ends the session, if there is one: engine.close(why) first, then the nodes. Idempotent.
  virtual void close(PipelineEngine& engine, const absl::Status& why) = 0;
  /// Makes an open() in flight return soon: the process is ending. Safe from any thread.
  virtual void interrupt() {}
};

class Supervisor {
 public:
  Supervisor(SessionHost& host, PipelineEngine& engine,
             Duration retry_pause = std::chrono::milliseconds(500));
  ~Supervisor();

  /// Builds the first session in this thread, so that a wrong flag or model is an error of the start, and
  /// keeps it up from then on.
  absl::Status start();
  void stop();

  /// Why the last attempt to build a session failed; OK where it did not.
  absl::Status last_attempt() const;

 private:
  void run();

  SessionHost& host_;
  PipelineEngine& engine_;
  const Duration retry_pause_;
  Epoch epoch_{0};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  absl::Status last_attempt_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
