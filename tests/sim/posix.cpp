// The system's threads, locks, clocks and randomness for this program: a program's own definitions are found before
// those of libraries. Outside of a simulation each call goes on to the system.
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <random>

#include "turns.h"

namespace {

using shoal::sim::kNever;
using shoal::sim::Turns;

constexpr int64_t kSecondNs = 1'000'000'000;
/// What yielding a core takes: what spins gets on.
constexpr int64_t kYieldNs = 50'000;

/// The turns, where the caller is one of the simulated threads; nullptr elsewhere.
Turns* InThread() {
  Turns* turns = shoal::sim::CurrentTurns();
  return turns != nullptr && turns->in_thread() ? turns : nullptr;
}

template <typename Function>
Function* System(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

int64_t NsOf(const timespec& time) { return time.tv_sec * kSecondNs + time.tv_nsec; }
timespec TimeOf(int64_t ns) { return {.tv_sec = ns / kSecondNs, .tv_nsec = ns % kSecondNs}; }

/// A time of a clock as one of the turns.
int64_t UntilNs(Turns& turns, clockid_t clock, const timespec& time) {
  if (clock != CLOCK_REALTIME) return NsOf(time);
  return turns.now_ns() + (NsOf(time) - turns.wall_clock_ns());
}

// A mutex is the system's: the one thread that there is takes it, and finds it taken where another fiber has it.
int TryLock(pthread_mutex_t* mutex) {
  static auto* const system = System<decltype(pthread_mutex_trylock)>("pthread_mutex_trylock");
  return system(mutex);
}

int Unlock(pthread_mutex_t* mutex) {
  static auto* const system = System<decltype(pthread_mutex_unlock)>("pthread_mutex_unlock");
  return system(mutex);
}

int Lock(Turns& turns, pthread_mutex_t* mutex, int64_t until_ns) {
  turns.maybe_yield();
  int result = TryLock(mutex);
  while (result == EBUSY) {
    const bool woken = turns.wait(mutex, until_ns);
    result = TryLock(mutex);
    if (result == EBUSY && !woken) return ETIMEDOUT;
  }
  return result;
}

int Wait(Turns& turns, pthread_cond_t* condition, pthread_mutex_t* mutex, int64_t until_ns) {
  (void)Unlock(mutex);
  turns.wake_one(mutex);
  const bool woken = turns.wait(condition, until_ns);
  (void)Lock(turns, mutex, kNever);
  return woken ? 0 : ETIMEDOUT;
}

}  // namespace

extern "C" {

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                   void* argument) noexcept {
  static auto* const system = System<decltype(pthread_create)>("pthread_create");
  Turns* turns = InThread();
  if (turns == nullptr) return system(thread, attributes, body, argument);
  *thread = turns->start(body, argument);
  return 0;
}

int pthread_join(pthread_t thread, void** result) {
  static auto* const system = System<decltype(pthread_join)>("pthread_join");
  Turns* turns = InThread();
  if (turns == nullptr) return system(thread, result);
  void* returned = turns->join(thread);
  if (result != nullptr) *result = returned;
  return 0;
}

int pthread_detach(pthread_t thread) noexcept {
  static auto* const system = System<decltype(pthread_detach)>("pthread_detach");
  Turns* turns = InThread();
  if (turns == nullptr) return system(thread);
  turns->detach(thread);
  return 0;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  static auto* const system = System<decltype(pthread_mutex_lock)>("pthread_mutex_lock");
  Turns* turns = InThread();
  return turns == nullptr ? system(mutex) : Lock(*turns, mutex, kNever);
}

int pthread_mutex_timedlock(pthread_mutex_t* mutex, const timespec* until) noexcept {
  static auto* const system = System<decltype(pthread_mutex_timedlock)>("pthread_mutex_timedlock");
  Turns* turns = InThread();
  if (turns == nullptr) return system(mutex, until);
  return Lock(*turns, mutex, UntilNs(*turns, CLOCK_REALTIME, *until));
}

int pthread_mutex_clocklock(pthread_mutex_t* mutex, clockid_t clock, const timespec* until) noexcept {
  static auto* const system = System<decltype(pthread_mutex_clocklock)>("pthread_mutex_clocklock");
  Turns* turns = InThread();
  if (turns == nullptr) return system(mutex, clock, until);
  return Lock(*turns, mutex, UntilNs(*turns, clock, *until));
}

int pthread_mutex_trylock(pthread_mutex_t* mutex) noexcept {
  if (Turns* turns = InThread()) turns->maybe_yield();
  return TryLock(mutex);
}

int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  const int result = Unlock(mutex);
  if (Turns* turns = InThread()) turns->wake_one(mutex);
  return result;
}

int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  static auto* const system = System<decltype(pthread_cond_wait)>("pthread_cond_wait");
  Turns* turns = InThread();
  return turns == nullptr ? system(condition, mutex) : Wait(*turns, condition, mutex, kNever);
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) {
  static auto* const system = System<decltype(pthread_cond_timedwait)>("pthread_cond_timedwait");
  Turns* turns = InThread();
  if (turns == nullptr) return system(condition, mutex, until);
  return Wait(*turns, condition, mutex, UntilNs(*turns, CLOCK_REALTIME, *until));
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const timespec* until) {
  static auto* const system = System<decltype(pthread_cond_clockwait)>("pthread_cond_clockwait");
  Turns* turns = InThread();
  if (turns == nullptr) return system(condition, mutex, clock, until);
  return Wait(*turns, condition, mutex, UntilNs(*turns, clock, *until));
}

int pthread_cond_signal(pthread_cond_t* condition) noexcept {
  static auto* const system = System<decltype(pthread_cond_signal)>("pthread_cond_signal");
  Turns* turns = InThread();
  if (turns == nullptr) return system(condition);
  turns->wake_one(condition);
  return 0;
}

int pthread_cond_broadcast(pthread_cond_t* condition) noexcept {
  static auto* const system = System<decltype(pthread_cond_broadcast)>("pthread_cond_broadcast");
  Turns* turns = InThread();
  if (turns == nullptr) return system(condition);
  turns->wake_all(condition);
  return 0;
}

int sched_yield() noexcept {
  static auto* const system = System<decltype(sched_yield)>("sched_yield");
  Turns* turns = InThread();
  if (turns == nullptr) return system();
  turns->sleep_until(turns->now_ns() + kYieldNs);
  return 0;
}

int nanosleep(const timespec* duration, timespec* left) {
  static auto* const system = System<decltype(nanosleep)>("nanosleep");
  Turns* turns = InThread();
  if (turns == nullptr) return system(duration, left);
  turns->sleep_until(turns->now_ns() + NsOf(*duration));
  return 0;
}

int clock_nanosleep(clockid_t clock, int flags, const timespec* time, timespec* left) {
  static auto* const system = System<decltype(clock_nanosleep)>("clock_nanosleep");
  Turns* turns = InThread();
  if (turns == nullptr) return system(clock, flags, time, left);
  const bool absolute = (flags & TIMER_ABSTIME) != 0;
  turns->sleep_until(absolute ? UntilNs(*turns, clock, *time) : turns->now_ns() + NsOf(*time));
  return 0;
}

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  static auto* const system = System<decltype(clock_gettime)>("clock_gettime");
  Turns* turns = InThread();
  if (turns == nullptr || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID) {
    return system(clock, time);
  }
  *time = TimeOf(clock == CLOCK_REALTIME ? turns->wall_clock_ns() : turns->read_clock_ns());
  return 0;
}

}  // extern "C"

// What the product takes from the system's randomness differs between processes, not between runs of a seed.
std::random_device::result_type std::random_device::_M_getval() {
  result_type value = 0;
  if (Turns* turns = InThread()) return static_cast<result_type>(turns->entropy());
  (void)getentropy(&value, sizeof value);
  return value;
}
