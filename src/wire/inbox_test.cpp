// An inbox that is filled from the thread that waits for it.
#include "wire/inbox.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

namespace shoal {
namespace {

using std::chrono::milliseconds;

Deadline Soon() { return Deadline::after_ms(20'000); }

Event FrameFrom(int node) {
  Event event;
  event.kind = Event::Kind::kFrame;
  event.from = NodeId{node};
  return event;
}

/// Gives what `arrives()` does; waits for interrupt() otherwise.
class FakeSource final : public InboxSource {
 public:
  Polled poll(Deadline deadline, absl::FunctionRef<bool()> enough) override {
    ++polls;
    if (taken) return Polled::kTaken;
    std::unique_lock lock(mutex);
    if (arrives && arrives()) return Polled::kHandled;
    if (deadline.expired() || enough()) return Polled::kNothing;
    slept.set_value();
    interrupted.wait_until(lock, deadline.at, [this] { return std::exchange(knocked, false); });
    return Polled::kNothing;
  }
  void interrupt() override {
    const std::lock_guard lock(mutex);
    ++interrupts;
    knocked = true;
    interrupted.notify_all();
  }

  std::function<bool()> arrives;
  std::atomic<bool> taken{false};
  std::atomic<int> polls{0};
  std::atomic<int> interrupts{0};
  std::promise<void> slept;  // poll() waits; once.

 private:
  std::mutex mutex;
  std::condition_variable interrupted;
  bool knocked = false;
};

TEST(Inbox, TakesWhatHasArrivedThoughNoTimeIsLeft) {
  const auto owner = std::make_shared<FakeSource>();
  FakeSource& source = *owner;
  Inbox inbox({}, owner);
  int left = 2;  // Something that brings no event first, as the end of a write.
  source.arrives = [&] {
    if (left == 0) return false;
    if (--left == 0) inbox.push(FrameFrom(3));
    return true;
  };
  const auto event = inbox.receive(Deadline::after_ms(0));
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->from, NodeId{3});
  EXPECT_TRUE(absl::IsDeadlineExceeded(inbox.receive(Deadline::after_ms(0)).status()));
}

TEST(Inbox, AnEventOfAnotherThreadInterruptsASleepInTheSource) {
  const auto owner = std::make_shared<FakeSource>();
  FakeSource& source = *owner;
  Inbox inbox({}, owner);
  std::thread other([&] {
    source.slept.get_future().wait();
    inbox.push(FrameFrom(4));
  });
  const auto event = inbox.receive(Soon());
  other.join();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->from, NodeId{4});
  EXPECT_EQ(source.interrupts, 1);
}

TEST(Inbox, NobodyIsInterruptedWhoDoesNotSleep) {
  const auto owner = std::make_shared<FakeSource>();
  FakeSource& source = *owner;
  Inbox inbox({}, owner);
  inbox.wake();
  EXPECT_EQ(inbox.receive(Soon())->kind, Event::Kind::kWake);
  EXPECT_EQ(source.interrupts, 0);
  EXPECT_EQ(source.polls, 0);
}

TEST(Inbox, WhatAnotherThreadPollsIsReceivedHere) {
  const auto owner = std::make_shared<FakeSource>();
  FakeSource& source = *owner;
  source.taken = true;
  Inbox inbox({}, owner);
  std::thread other([&] {
    while (source.polls < 2) std::this_thread::sleep_for(milliseconds(1));
    inbox.push(FrameFrom(5));
  });
  const auto event = inbox.receive(Soon());
  other.join();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->from, NodeId{5});
}

TEST(Inbox, ClosingEndsASleepInTheSource) {
  const auto owner = std::make_shared<FakeSource>();
  FakeSource& source = *owner;
  Inbox inbox({}, owner);
  std::thread other([&] {
    source.slept.get_future().wait();
    inbox.close(absl::CancelledError("closed"));
  });
  EXPECT_TRUE(absl::IsCancelled(inbox.receive(Soon()).status()));
  other.join();
}

}  // namespace
}  // namespace shoal
