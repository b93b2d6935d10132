#include "app/signals.h"

#include <pthread.h>

#include <csignal>

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

int WaitForStopSignal() {
  const sigset_t set = StopSignals();
  int number = 0;
  sigwait(&set, &number);
  return number;
}

}  // namespace shoal
