// One run of a seed: machines, a coordinator and its workers, clients, and what goes wrong.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client.h"
#include "coordinator.h"
#include "network.h"
#include "slow_backend.h"

namespace shoal::sim {

/// What became of the requests of a seed, to see that it tried something.
struct Tally {
  int finished = 0;     ///< With the right tokens.
  int cancelled = 0;    ///< By their clients.
  int late = 0;         ///< Their deadlines passed.
  int lost = 0;         ///< Unavailable.
  int asked_again = 0;  ///< After a coordinator died.
  int faults = 0;
  int64_t restored = 0;  ///< Blocks from buddies, by the last coordinator.
  uint64_t trace = 0;    ///< As Turns::trace().
};

class World {
 public:
  World(uint64_t seed, const OpenedModel& model);
  /// As the first thread of a simulation. Ends the process where a promise is broken.
  Tally run();

 private:
  void start_worker(int machine);
  void start_coordinator();
  CoordinatorOptions coordinator_options();
  std::shared_ptr<Coordinator> coordinator() const;

  // Clients.
  void run_client(const Ask& ask);
  bool ask_once(const Ask& ask, Deadline deadline);
  void judge(const Ask& ask, const CheckingSink& sink, bool cancelled);
  void check_tokens(const Ask& ask, const CheckingSink& sink);
  void watch_counts();
  void check_idle();
  void check_nobody_was_given_up();

  // faults.cpp. Each takes its time, and ends what it began.
  void run_faults();
  bool take(int machine);
  void give_back(int machine);
  void stop_for(int machine, Duration stopped);
  void crash_worker();
  void crash_coordinator();
  void part_two();
  void reset_two();
  void corrupt_two();
  void stop_machine();
  void stop_machine_shortly();
  void slow_machine();
  void crawl();
  void jump_clock();
  void drain_worker();
  Duration seconds(double from, double to);
  int any_machine() { return static_cast<int>(random_.below(static_cast<uint64_t>(machines_))); }
  int any_worker() { return 1 + static_cast<int>(random_.below(static_cast<uint64_t>(machines_ - 1))); }
  std::pair<int, int> any_two();

  const OpenedModel& model_;
  RandomStream random_;
  const int machines_;
  AskMaker asks_;
  Network network_;
  CoordinatorOptions options_;
  std::vector<std::shared_ptr<MachinePace>> paces_;
  std::vector<bool> busy_;    ///< With a fault, by machine.
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::shared_ptr<Coordinator> coordinator_;
  bool over_ = false;
  bool slow_only_ = false;  ///< Machines are slow, or stop for a moment: nothing breaks.
  Tally tally_;
};

}  // namespace shoal::sim
