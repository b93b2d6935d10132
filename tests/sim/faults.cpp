// What goes wrong in a World.
#include <algorithm>
#include <thread>

#include "base/log.h"
#include "mutation.h"
#include "turns.h"
#include "world.h"

namespace shoal::sim {
namespace {

constexpr double kFaultsBeginS = 20;
/// A peer that answers no keep-alive ping for so long is down.
constexpr double kKeepAliveMinS = 4;
constexpr double kKeepAliveMaxS = 6;

}  // namespace

void World::run_faults() {
  using Fault = void (World::*)();
  constexpr Fault kFaults[] = {&World::crash_worker, &World::crash_worker, &World::crash_coordinator,
                               &World::part_two,     &World::part_two,     &World::reset_two,
                               &World::corrupt_two,  &World::stop_machine, &World::slow_machine,
                               &World::jump_clock,   &World::drain_worker};
  // What a cluster must take for slow, not for dead.
  constexpr Fault kSlow[] = {&World::crawl, &World::crawl, &World::slow_machine, &World::stop_machine_shortly,
                             &World::jump_clock};
  slow_only_ = random_.below(6) == 0;
  std::vector<std::thread> threads;
  const uint64_t count = random_.below(7);
  for (uint64_t i = 0; i < count; ++i) {
    const Fault fault =
        slow_only_ ? kSlow[random_.below(std::size(kSlow))] : kFaults[random_.below(std::size(kFaults))];
    const Duration begin = seconds(0, kFaultsBeginS);
    threads.emplace_back([this, fault, begin] {
      std::this_thread::sleep_for(begin);
      {
        const std::lock_guard lock(mutex_);
        ++tally_.faults;
      }
      (this->*fault)();
    });
  }
  if (Mutated("lost_frame_not_noticed")) {
    std::this_thread::sleep_for(seconds(0, kFaultsBeginS));
    network_.lose_next(0, any_worker());
  }
  for (std::thread& thread : threads) thread.join();
}

/// One fault at a time has a machine.
bool World::take(int machine) {
  const std::lock_guard lock(mutex_);
  if (busy_[static_cast<size_t>(machine)]) return false;
  return busy_[static_cast<size_t>(machine)] = true;
}

void World::give_back(int machine) {
  const std::lock_guard lock(mutex_);
  busy_[static_cast<size_t>(machine)] = false;
}

void World::crash_worker() {
  const int worker = any_worker();
  if (!take(worker)) return;
  const Duration away = seconds(0.05, random_.below(2) == 0 ? 1 : 20);
  LogInfo("fault: worker-{} is killed, for {:.1f} s", worker, SecondsOf(away));
  network_.crash(worker);
  std::this_thread::sleep_for(away);
  start_worker(worker);
  give_back(worker);
}

void World::crash_coordinator() {
  if (!take(0)) return;
  LogInfo("fault: the coordinator is killed");
  std::shared_ptr<Coordinator> killed;
  {
    const std::lock_guard lock(mutex_);
    killed = std::move(coordinator_);
    coordinator_ = nullptr;
  }
  network_.crash(0);
  // What is left of it in this process is taken down where nobody waits for it.
  std::thread([killed = std::move(killed)]() mutable { killed.reset(); }).detach();
  std::this_thread::sleep_for(seconds(0.05, 4));
  start_coordinator();
  give_back(0);
}

void World::part_two() {
  const auto [a, b] = any_two();
  if (!take(a)) return;
  if (!take(b)) return give_back(a);
  const Duration apart = seconds(0.05, random_.below(2) == 0 ? 3 : 20);
  const Duration keep_alive = seconds(kKeepAliveMinS, kKeepAliveMaxS);
  LogInfo("fault: nothing travels between machines {} and {} for {:.1f} s", a, b, SecondsOf(apart));
  network_.part(a, b);
  std::this_thread::sleep_for(std::min(apart, keep_alive));
  if (apart > keep_alive) {
    network_.reset(a, b);
    std::this_thread::sleep_for(apart - keep_alive);
  }
  network_.heal(a, b);
  give_back(a);
  give_back(b);
}

void World::reset_two() {
  const auto [a, b] = any_two();
  LogInfo("fault: the connections between machines {} and {} break", a, b);
  network_.reset(a, b);
}

void World::corrupt_two() {
  const auto [a, b] = any_two();
  LogInfo("fault: a bit flips on the way from machine {} to {}", a, b);
  network_.corrupt_next(a, b);
}

void World::stop_for(int machine, Duration stopped) {
  LogInfo("fault: machine {} computes nothing for {:.1f} s", machine, SecondsOf(stopped));
  paces_[static_cast<size_t>(machine)]->stopped_until = Clock::now() + stopped;
  std::this_thread::sleep_for(stopped);
}

void World::stop_machine() {
  const int machine = any_machine();
  stop_for(machine, seconds(0.1, random_.below(2) == 0 ? 4 : 15));
}

void World::stop_machine_shortly() {
  const int machine = any_machine();
  if (!take(machine)) return;
  stop_for(machine, seconds(0.1, 2));
  give_back(machine);
}

void World::crawl() {
  const int machine = any_machine();
  const Duration taken = seconds(1, 30);
  LogInfo("fault: a layer of machine {} takes {:.1f} s", machine, SecondsOf(taken));
  paces_[static_cast<size_t>(machine)]->crawls_until = Clock::now() + taken;
  std::this_thread::sleep_for(taken);
}

void World::slow_machine() {
  const int machine = any_machine();
  const Duration slow = seconds(1, 15);
  MachinePace& pace = *paces_[static_cast<size_t>(machine)];
  LogInfo("fault: machine {} is slow for {:.1f} s", machine, SecondsOf(slow));
  pace.layer = seconds(0.005, 0.4);
  network_.slow_down(machine, seconds(0, 0.1));
  std::this_thread::sleep_for(slow);
  pace.layer = MachinePace().layer;
  network_.slow_down(machine, Duration::zero());
}

void World::jump_clock() {
  const int machine = any_machine();
  const Duration jump = seconds(-100'000, 100'000);
  LogInfo("fault: the clock of machine {} jumps by {:.0f} s", machine, SecondsOf(jump));
  CurrentTurns()->shift_wall_clock(machine, jump.count());
}

void World::drain_worker() {
  const int worker = any_worker();
  const Duration drained = seconds(1, 15);
  LogInfo("fault: worker-{} is drained for {:.1f} s", worker, SecondsOf(drained));
  if (const auto told = coordinator()) told->drain(worker, true);
  std::this_thread::sleep_for(drained);
  if (const auto told = coordinator()) told->drain(worker, false);
}

}  // namespace shoal::sim
