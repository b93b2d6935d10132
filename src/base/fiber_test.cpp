#include "base/fiber.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace shoal {
namespace {

TEST(Fiber, TwoFibersRunByTurnsOnTheThreadThatResumesThem) {
  std::string order;
  std::vector<std::thread::id> threads;
  std::unique_ptr<Fiber> a;
  std::unique_ptr<Fiber> b;
  const auto body = [&](std::unique_ptr<Fiber>& self, char name) {
    for (int i = 0; i < 3; ++i) {
      order += name;
      threads.push_back(std::this_thread::get_id());
      self->suspend();
    }
  };
  a = *Fiber::Create([&] { body(a, 'a'); });
  b = *Fiber::Create([&] { body(b, 'b'); });
  while (!a->done() || !b->done()) {
    a->resume();
    b->resume();
  }
  EXPECT_EQ(order, "ababab");
  EXPECT_EQ(threads, std::vector<std::thread::id>(6, std::this_thread::get_id()));
}

int64_t SumOfStack(Fiber& fiber, int depth) {
  volatile char page[4096];
  for (size_t i = 0; i < sizeof(page); ++i) page[i] = static_cast<char>(depth);
  if (depth == 0) fiber.suspend();
  const int64_t below = depth == 0 ? 0 : SumOfStack(fiber, depth - 1);
  return below + page[0] + page[4095];
}

TEST(Fiber, KeepsItsStackWhileItIsSuspended) {
  std::unique_ptr<Fiber> fiber;
  int64_t sum = 0;
  fiber = *Fiber::Create([&] { sum = SumOfStack(*fiber, 100); });
  fiber->resume();
  EXPECT_FALSE(fiber->done());
  volatile char other[64 << 10];
  for (size_t i = 0; i < sizeof(other); ++i) other[i] = 1;
  fiber->resume();
  EXPECT_TRUE(fiber->done());
  EXPECT_EQ(sum, 100 * 101);
}

TEST(Fiber, ManyComeAndGo) {
  int ended = 0;
  for (int i = 0; i < 1000; ++i) {
    std::unique_ptr<Fiber> fiber;
    fiber = *Fiber::Create([&] {
      fiber->suspend();
      ++ended;
    });
    fiber->resume();
    fiber->resume();
  }
  EXPECT_EQ(ended, 1000);
}

TEST(Fiber, OneThatNeverBeganIsDropped) {
  bool ran = false;
  (void)*Fiber::Create([&] { ran = true; });
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace shoal
