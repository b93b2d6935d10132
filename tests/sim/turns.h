// The threads of the code under test, as fibers of one thread: a seed decides whose turn it is, and the clock moves
// when all of them wait. posix.cpp puts it in the place of the system's threads, locks and clocks for a whole program,
// so that nothing of the product is built differently (docs/decisions/0028).
#pragma once

#include <pthread.h>
#include <ucontext.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/random.h"

namespace shoal::sim {

inline constexpr int64_t kNever = INT64_MAX;

/// The turns that are being taken; nullptr outside of a simulation.
class Turns;
Turns* CurrentTurns();

class Turns {
 public:
  explicit Turns(uint64_t seed) : random_(seed, /*stream=*/1), entropy_(seed, /*stream=*/7) {}

  /// Runs `body` as the first thread, and those that it starts, until it returns. Ends the process where all threads
  /// wait for one another.
  void run(std::function<void()> body);

  /// Whether the caller is one of the threads.
  bool in_thread() const { return current_ != nullptr; }

  /// Of the machine to which the calling thread belongs; threads that it starts belong to the same one.
  int machine() const;
  void set_machine(int machine);

  int64_t now_ns() const { return now_ns_; }
  /// Looking at the clock takes time: what polls it gets on.
  int64_t read_clock_ns() { return now_ns_ += kClockReadNs; }
  /// The clock on a machine's wall, which may jump.
  int64_t wall_clock_ns() { return kWallClockBeginNs + read_clock_ns() + wall_offset_ns_[machine()]; }
  uint64_t entropy() { return entropy_.bits(); }
  void shift_wall_clock(int machine, int64_t ns) { wall_offset_ns_[machine] += ns; }

  // What posix.cpp needs, each called by one of the threads.
  pthread_t start(void* (*body)(void*), void* argument);
  void* join(pthread_t thread);
  void detach(pthread_t thread);
  /// Waits for wake(what), until `until_ns` at most. False: nobody woke it.
  bool wait(const void* what, int64_t until_ns);
  void wake_one(const void* what);
  void wake_all(const void* what);
  /// Gives others a turn now and then, as they could have one at any moment.
  void maybe_yield();
  void sleep_until(int64_t until_ns) { (void)wait(nullptr, until_ns); }

  uint64_t turns_taken() const { return turns_; }
  /// Of all that was decided: equal in two runs of a seed.
  uint64_t trace() const { return trace_; }
  void note(uint64_t value) { trace_ = Mix64(trace_ ^ value); }

 private:
  static constexpr int64_t kClockReadNs = 50;
  static constexpr int64_t kWallClockBeginNs = 1'800'000'000'000'000'000;

  struct Thread {
    uint64_t id = 0;
    ucontext_t context{};
    void* stack = nullptr;
    std::function<void*()> body;
    void* result = nullptr;
    int machine = 0;
    std::string log_name = "simulation";  // Of its lines, while it does not run.
    const void* waits_for = nullptr;
    int64_t until_ns = kNever;
    bool woken = false;
    bool done = false;
    bool detached = false;
  };
  static void Enter();
  Thread* make_thread(std::function<void*()> body, int machine);
  void resume(Thread& thread);
  void make_ready(Thread* thread);
  void forget(Thread* thread);
  /// The next thread, after moving the clock where all wait.
  Thread* next();
  void let_go();

  RandomStream random_;
  RandomStream entropy_;
  int64_t now_ns_ = 1'000'000'000'000;
  std::map<int, int64_t> wall_offset_ns_;
  ucontext_t scheduler_{};
  Thread* current_ = nullptr;
  uint64_t next_id_ = 1;
  std::vector<Thread*> ready_;
  std::map<std::pair<int64_t, uint64_t>, Thread*> timers_;  // By time, then thread.
  std::unordered_map<const void*, std::deque<Thread*>> waiting_;
  std::vector<void*> stacks_;  // Not in use.
  uint64_t turns_ = 0;
  uint64_t trace_ = 0;
};

/// Ends the process: the seed has failed.
[[noreturn]] void FailSeed(const std::string& why);

}  // namespace shoal::sim
