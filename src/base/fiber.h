// A function with a stack of its own, run piece by piece on the thread that resumes it: what lets one thread
// have several computations in flight that each wait somewhere.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"

namespace shoal {

class Fiber {
 public:
  /// Takes memory for the stack, as much as a thread has; only what is used of it costs. ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Fiber>> Create(std::function<void()> body);
  /// Before `body` has begun, or after it has ended.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs `body`, from its begin or from its last suspend(), until it suspends itself or ends. Always of the
  /// same thread: what is local to a thread must not change in the middle of a function.
  void resume();
  /// Goes back to the caller of resume(). Called within `body`, where nothing that is bound to the thread is
  /// held: no lock, no call of a library in progress.
  void suspend();
  bool done() const { return done_; }

 private:
  struct Contexts;
  Fiber(std::function<void()> body, std::unique_ptr<Contexts> contexts);
  static void Enter(unsigned int high, unsigned int low);

  const std::function<void()> body_;
  const std::unique_ptr<Contexts> contexts_;
  bool begun_ = false;
  bool done_ = false;
};

}  // namespace shoal
