#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "cpu/arena.h"
#include "cpu/pool.h"
#include "cpu/topology.h"

namespace shoal {
namespace {

TEST(ThreadPool, RunsEveryWorkerExactlyOncePerRun) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    // One writer per element, so that ThreadSanitizer reports a race.
    std::vector<int> calls(static_cast<size_t>(threads));
    for (int round = 0; round < 2000; ++round) {
      pool.run([&](int worker, int n) {
        EXPECT_EQ(n, threads);
        ++calls[static_cast<size_t>(worker)];
      });
      for (const int count : calls) ASSERT_EQ(count, round + 1);
    }
  }
}

TEST(ThreadPool, RunPartsTilesTheRangeForAnyNumberOfThreads) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> hits(100);
    pool.run_ranges(100, 16, [&](Range part) {
      EXPECT_EQ(part.begin % 16, 0);
      for (int64_t i = part.begin; i < part.end; ++i) ++hits[static_cast<size_t>(i)];
    });
    for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
  }
}

TEST(ThreadPool, RunWakesSleepingWorkers) {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // Far beyond the spin.
    pool.run([&](int, int) { ++sum; });
  }
  EXPECT_EQ(sum.load(), 15);
}

// The CPUs that this thread may run on.
std::vector<int> OwnCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

TEST(ThreadPool, WorkersArePinnedAndTheCallerOnlyOnRequest) {
  const std::vector<int> allowed = OwnCpus();
  ASSERT_FALSE(allowed.empty());
  std::thread([&] {  // A thread of its own, because pinning outlasts the test.
    ThreadPool pool(3, {allowed.back(), allowed.front()});
    std::vector<std::vector<int>> seen(3);
    pool.run([&](int worker, int) { seen[static_cast<size_t>(worker)] = OwnCpus(); });
    EXPECT_EQ(seen[0], allowed);  // Not pinned yet.
    EXPECT_EQ(seen[1], std::vector<int>{allowed.front()});
    EXPECT_EQ(seen[2], std::vector<int>{allowed.back()});
    pool.pin_caller();
    EXPECT_EQ(OwnCpus(), std::vector<int>{allowed.back()});
  })
      .join();
}

TEST(CpuList, KeepsItsOrderAndRefusesBadItems) {
  const std::vector<int> allowed = OwnCpus();
  const std::string first = std::to_string(allowed.front());
  EXPECT_EQ(*ParseCpuList(first), std::vector<int>{allowed.front()});
  EXPECT_EQ(*ParseCpuList(first + "-" + first), std::vector<int>{allowed.front()});
  if (allowed.size() > 1) {
    EXPECT_EQ(*ParseCpuList(std::to_string(allowed[1]) + "," + first),
              (std::vector<int>{allowed[1], allowed[0]}));
  }
  for (const std::string& bad : {std::string("x"), std::string("0-"), std::string("3-1"), std::string(""),
                                 std::string("-1"), first + "," + first, std::string("99999")}) {
    const auto list = ParseCpuList(bad);
    ASSERT_FALSE(list.ok()) << bad;
    EXPECT_EQ(list.status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_NE(ParseCpuList("99999").status().message().find("may not use CPU 99999; it may use " + first),
            std::string::npos);
}

TEST(ThreadPoolDeathTest, RefusesToRunInsideItself) {
  EXPECT_DEATH(
      {
        ThreadPool pool(1);
        pool.run([&](int, int) { pool.run([](int, int) {}); });
      },
      "running_");
}

TEST(Arena, AllocationsAreAlignedAndDoNotOverlap) {
  Arena arena;
  std::vector<std::span<uint8_t>> blocks;
  for (int64_t n : {1, 63, 64, 65, 1000000, 3000000, 0, 7}) blocks.push_back(arena.allocate<uint8_t>(n));
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks[i].data()) % 64, 0u);
    for (uint8_t& byte : blocks[i]) byte = static_cast<uint8_t>(i);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (const uint8_t byte : blocks[i]) ASSERT_EQ(byte, i);
  }
}

TEST(Arena, DoesNotGrowAfterTheSecondEqualStep) {
  Arena arena;
  const auto step = [&] {
    arena.reset();
    for (int i = 0; i < 20; ++i) arena.allocate<float>(100000);
  };
  step();
  step();  // The reset joined the chunks.
  const int64_t growths = arena.growths();
  for (int i = 0; i < 10; ++i) step();
  EXPECT_EQ(arena.growths(), growths);
}

TEST(Arena, AScopeReleasesItsMemory) {
  Arena arena;
  arena.allocate<float>(10);
  float* first = nullptr;
  for (int layer = 0; layer < 3; ++layer) {
    ArenaScope scope(arena);
    float* at = arena.allocate<float>(1000).data();
    if (first == nullptr) first = at;
    EXPECT_EQ(at, first);
  }
}

TEST(ThreadPool, ProgressMovesWithEachPartAndWhereAPartSaysSo) {
  ThreadPool pool(3);
  const uint64_t before = pool.progress();
  pool.run([](int, int) {});
  EXPECT_EQ(pool.progress(), before + 3);
  pool.run([&](int worker, int) {
    if (worker != 1) return;
    const uint64_t within = pool.progress();
    pool.note_progress();
    EXPECT_GT(pool.progress(), within);
  });
  EXPECT_EQ(pool.progress(), before + 7);
}

}  // namespace
}  // namespace shoal
