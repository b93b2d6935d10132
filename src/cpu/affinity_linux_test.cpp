// Threads that stay on chosen CPUs, which only Linux lets them do.
#include <gtest/gtest.h>
#include <sched.h>

#include <string>
#include <thread>
#include <vector>

#include "cpu/pool.h"
#include "cpu/topology.h"

namespace shoal {
namespace {

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

}  // namespace
}  // namespace shoal
