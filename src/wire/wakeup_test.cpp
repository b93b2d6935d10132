// Several inboxes that one thread empties.
#include "wire/wakeup.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "wire/inbox.h"

namespace shoal {
namespace {

Clock::time_point Later() { return Clock::now() + std::chrono::seconds(20); }

Event FrameFrom(int node) {
  Event event;
  event.kind = Event::Kind::kFrame;
  event.from = NodeId{node};
  return event;
}

/// Sleeps until it is interrupted.
class SleepingSource final : public InboxSource {
 public:
  Polled poll(Deadline deadline, absl::FunctionRef<bool()> enough) override {
    ++polls;
    std::unique_lock lock(mutex);
    if (deadline.expired() || enough()) return Polled::kNothing;
    slept.set_value();
    interrupted.wait_until(lock, deadline.at, [this] { return std::exchange(knocked, false); });
    return Polled::kNothing;
  }
  void interrupt() override {
    const std::lock_guard lock(mutex);
    knocked = true;
    interrupted.notify_all();
  }

  std::atomic<int> polls{0};
  std::promise<void> slept;  // Once.

 private:
  std::mutex mutex;
  std::condition_variable interrupted;
  bool knocked = false;
};

TEST(Wakeup, OneThreadWaitsForTwoInboxes) {
  const auto wakeup = std::make_shared<Wakeup>();
  Inbox a({});
  Inbox b({});
  a.share(wakeup);
  b.share(wakeup);
  std::promise<void> turn;
  std::thread other([&] {
    a.push(FrameFrom(1));
    turn.get_future().wait();
    b.push(FrameFrom(2));
  });
  std::vector<int> order;
  while (order.size() < 2 && Clock::now() < Later()) {
    const uint64_t seen = wakeup->announced();
    for (Inbox* inbox : {&a, &b}) {
      const auto event = inbox->take();
      ASSERT_TRUE(event.ok());
      if (!event->has_value()) continue;
      order.push_back((*event)->from.value);
      if (order.size() == 1) turn.set_value();
    }
    if (order.size() < 2) wakeup->wait(seen, Later());
  }
  other.join();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(Wakeup, WhatCameBeforeAnInboxWasSharedEndsTheWait) {
  const auto wakeup = std::make_shared<Wakeup>();
  const uint64_t seen = wakeup->announced();
  Inbox inbox({});
  inbox.push(FrameFrom(3));
  inbox.share(wakeup);
  wakeup->wait(seen, Clock::time_point::max());
  EXPECT_EQ((*inbox.take())->from, NodeId{3});
}

TEST(Wakeup, ASourceOfTwoInboxesIsPolledOnceUntilBothHaveClosed) {
  const auto wakeup = std::make_shared<Wakeup>();
  const auto source = std::make_shared<SleepingSource>();
  Inbox a({}, source);
  Inbox b({}, source);
  a.share(wakeup);
  b.share(wakeup);
  wakeup->poll();
  EXPECT_EQ(source->polls, 1);
  a.close(absl::CancelledError("over"));
  wakeup->poll();
  EXPECT_EQ(source->polls, 2);
  b.close(absl::CancelledError("over"));
  wakeup->poll();
  EXPECT_EQ(source->polls, 2);
  EXPECT_EQ(source.use_count(), 1);
}

TEST(Wakeup, AnInboxWithoutASourceInterruptsASleepInTheSourceOfAnother) {
  const auto wakeup = std::make_shared<Wakeup>();
  const auto source = std::make_shared<SleepingSource>();
  Inbox sleeping({}, source);
  Inbox other({});
  sleeping.share(wakeup);
  other.share(wakeup);
  std::thread pusher([&] {
    source->slept.get_future().wait();
    other.push(FrameFrom(4));
  });
  wakeup->wait(wakeup->announced(), Clock::time_point::max());
  pusher.join();
  EXPECT_EQ((*other.take())->from, NodeId{4});
}

TEST(Wakeup, AWaitEndsAtItsTimeThoughNothingCame) {
  Wakeup wakeup;
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(5);
  wakeup.wait(wakeup.announced(), until);
  EXPECT_GE(Clock::now(), until);
}

}  // namespace
}  // namespace shoal
