// A thread that does one thing again and again, with pauses that end when it is to stop.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "base/clock.h"

namespace shoal {

class Repeater {
 public:
  /// What is done; returns the pause until it is done again.
  using Act = std::function<Duration()>;

  /// Acts for the first time after `first`. name: of the thread, as NameThread takes it.
  Repeater(const char* name, Duration first, Act act);
  /// Stops.
  ~Repeater();
  Repeater(const Repeater&) = delete;
  Repeater& operator=(const Repeater&) = delete;

  /// Ends a pause at once, and waits for an act that goes on. Idempotent. Not from within the act.
  void stop();

 private:
  void run(const char* name, Duration pause);

  const Act act_;
  std::mutex mutex_;  ///< Guards stopping_.
  std::condition_variable stopped_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
