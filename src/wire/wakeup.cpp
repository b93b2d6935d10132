#include "wire/wakeup.h"

#include <algorithm>
#include <utility>

#include "base/busy_poll.h"
#include "base/check.h"

namespace shoal {
namespace {

// How long an executor that had an event spins for the next one. Longer than what lies between two
// requests for experts of one step (the asker's own experts, then attention and router: 0.5 to 1 ms on one
// thread at Qwen3-30B-A3B's widths), since a node that blocks costs its asker 35 us more in
// sending and both 50 us of waiting; and far shorter than the time between two requests of a user: a node
// that rests costs nothing.
constexpr int64_t kPollNs = 2'000'000;

// How long to sleep before polling is tried again where another thread does it, which pushes what comes.
constexpr Duration kTakenPause = std::chrono::milliseconds(5);

}  // namespace

void Wakeup::attach(std::shared_ptr<InboxSource> source) {
  const std::lock_guard lock(mutex_);
  auto changed = std::make_shared<Sources>(*sources_);
  const auto known = std::ranges::find(*changed, source, &Attached::source);
  if (known == changed->end()) {
    changed->push_back({std::move(source), 1});
  } else {
    ++known->times;
  }
  sources_ = std::move(changed);
}

void Wakeup::detach(const InboxSource* source) {
  const std::lock_guard lock(mutex_);
  auto changed = std::make_shared<Sources>(*sources_);
  const auto known =
      std::ranges::find_if(*changed, [&](const Attached& one) { return one.source.get() == source; });
  SHOAL_CHECK(known != changed->end());
  if (--known->times == 0) changed->erase(known);
  sources_ = std::move(changed);
}

void Wakeup::announce() {
  const std::lock_guard lock(mutex_);
  announced_.fetch_add(1, std::memory_order_release);
  arrived_.notify_one();
  if (InboxSource* source = std::exchange(blocked_in_, nullptr)) source->interrupt();
}

std::shared_ptr<const Wakeup::Sources> Wakeup::sources() const {
  const std::lock_guard lock(mutex_);
  return sources_;
}

void Wakeup::poll() {
  const auto polled = sources();
  const auto enough = [this, seen = announced()] { return announced() != seen; };
  for (const Attached& one : *polled) {
    while (one.source->poll(Deadline{}, enough) == InboxSource::Polled::kHandled) {
    }
  }
}

void Wakeup::wait(uint64_t seen, Clock::time_point until) {
  if (spins_next_.exchange(false, std::memory_order_relaxed)) {
    // Looked up once: announce() needs the lock, and a source that comes meanwhile is announced (Inbox::share).
    const auto polled = sources();
    const auto enough = [&] { return announced() != seen; };
    BusyPoll poll(std::min(Duration(until.time_since_epoch()).count(), NowNs() + kPollNs));
    while (!enough() && poll.pause()) {
      for (const Attached& one : *polled) (void)one.source->poll(Deadline{}, enough);
    }
  }
  block(seen, until);
}

void Wakeup::block(uint64_t seen, Clock::time_point until) {
  const auto announced = [&] { return this->announced() != seen; };
  std::unique_lock lock(mutex_);
  while (!announced() && Clock::now() < until) {
    if (sources_->empty()) {
      arrived_.wait_until(lock, until);
      continue;
    }
    const std::shared_ptr<InboxSource> source = sources_->front().source;
    blocked_in_ = source.get();
    lock.unlock();
    const InboxSource::Polled polled = source->poll(Deadline{until}, announced);
    lock.lock();
    blocked_in_ = nullptr;
    if (polled == InboxSource::Polled::kTaken) {
      arrived_.wait_until(lock, std::min(until, Clock::now() + kTakenPause), announced);
    }
  }
}

}  // namespace shoal
