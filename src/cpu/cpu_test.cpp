#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/clock.h"
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

TEST(ThreadPool, ChunksTileRangesOfEverySizeOnEveryNumberOfThreads) {
  for (const int threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    for (const int64_t size : {1, 2, 4, 33, 100, 1000, 1537}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(size));
      for (int round = 1; round <= 40; ++round) {
        pool.run_ranges(size, 1, [&](Range part) {
          EXPECT_FALSE(part.empty());
          for (int64_t i = part.begin; i < part.end; ++i) ++hits[static_cast<size_t>(i)];
        });
        for (const auto& hit : hits) ASSERT_EQ(hit.load(), round) << size << " on " << threads;
      }
    }
  }
}

TEST(ThreadPool, AThreadThatIsHeldUpLeavesItsWorkToOthers) {
  ThreadPool pool(2);
  std::atomic<int> left{64};
  std::atomic<int64_t> first_size{0};
  std::atomic<bool> taken{false};
  // Whoever has the first unit waits until the other has done all else.
  pool.run_ranges(64, 1, [&](Range part) {
    left -= static_cast<int>(part.size());
    if (part.begin != 0) return;
    first_size = part.size();
    const Deadline end = Deadline::after(std::chrono::seconds(20));
    while (left > 0 && !end.expired()) std::this_thread::yield();
    taken = left == 0;
  });
  EXPECT_TRUE(taken);
  EXPECT_LT(first_size, 32);  // Less than its share: the rest of that was taken.
  EXPECT_EQ(left.load(), 0);
  pool.run_ranges(64, 1, [&](Range part) { left += static_cast<int>(part.size()); });
  EXPECT_EQ(left.load(), 64);
}

TEST(ThreadPool, SharesFollowTheSpeedOfUnlikeThreads) {
  ThreadPool pool(2);
  EXPECT_EQ(pool.share(0), 0.5);
  const std::thread::id fast = std::this_thread::get_id();
  for (int round = 0; round < 120; ++round) {
    pool.run_ranges(64, 1, [&](Range part) {
      // Sleeps, which take their time however many cores there are.
      const int64_t us = std::this_thread::get_id() == fast ? 50 : 400;
      std::this_thread::sleep_for(std::chrono::microseconds(us * part.size()));
    });
  }
  EXPECT_GT(pool.share(0), 0.55);
  EXPECT_DOUBLE_EQ(pool.share(0) + pool.share(1), 1.0);
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

TEST(Topology, ThisMachineHasACpuAndMemory) {
  const Topology topology = ReadTopology();
  EXPECT_FALSE(topology.cpu_name.empty());
  EXPECT_GE(topology.cpus, topology.cores);
  EXPECT_GE(topology.cores, 1);
  EXPECT_GT(topology.memory_bytes, int64_t{1} << 28);
  EXPECT_GT(UsableMemory(topology), 0);
  EXPECT_LT(UsableMemory(topology), topology.memory_bytes);
}

}  // namespace
}  // namespace shoal
