#include "app/signals.h"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/log.h"

namespace shoal {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // A client that hangs up is an error of one write, not of the process.
}

void BlockReloadSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int WaitForStopSignal(const std::function<void()>& reload) {
  sigset_t set = StopSignals();
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  const bool reloads = reload && sigismember(&blocked, SIGHUP) == 1;
  if (reloads) sigaddset(&set, SIGHUP);
  while (true) {
    int number = 0;
    sigwait(&set, &number);
    if (number != SIGHUP) return number;
    reload();
  }
}

bool StopSignalWithin(Deadline deadline) {
  constexpr Duration kLook = std::chrono::milliseconds(20);  // macOS has no sigtimedwait().
  const sigset_t stop = StopSignals();
  while (true) {
    sigset_t pending;
    sigpending(&pending);
    if (sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1) {
      int number = 0;
      sigwait(&stop, &number);
      return true;
    }
    if (deadline.expired()) return false;
    std::this_thread::sleep_for(std::min(kLook, deadline.remaining()));
  }
}

void UnblockStopSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void ExitWithin(Duration limit) {
  std::thread([limit] {
    std::this_thread::sleep_for(limit);
    LogInfo("ends now: what was being done could not be interrupted");
    std::_Exit(0);
  }).detach();
}

}  // namespace shoal
