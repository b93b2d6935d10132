#include "cpu/topology.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "cpu/cgroup.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = int64_t{1} << 20;

/// A tree of files that stands for /proc and /sys; gone with the test.
class FakeSystem : public testing::Test {
 protected:
  FakeSystem()
      : root_(fs::temp_directory_path() / (std::string("shoal-topology-") +
                                           testing::UnitTest::GetInstance()->current_test_info()->name() +
                                           "-" + std::to_string(getpid()))) {
    fs::remove_all(root_);
  }
  ~FakeSystem() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  CgroupLimits limits() const { return ReadCgroupLimits(root_.string()); }

  const fs::path root_;
};

constexpr char kV2Mount[] = "30 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
constexpr char kV1Mounts[] =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
constexpr char kNoLimitOfV1[] = "9223372036854771712\n";

TEST_F(FakeSystem, ATreeWithoutMountsIsTakenForOneGroupOfV2) {
  write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Testium 9000\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  write("sys/fs/cgroup/memory.max", "123456789\n");
  const Topology limited = ReadTopology(root_.string());
  EXPECT_EQ(limited.cpu_name, "Testium 9000");
  EXPECT_EQ(limited.cpus, 1);
  EXPECT_EQ(limited.cores, 1);
  EXPECT_DOUBLE_EQ(limited.quota_cpus, 0.5);
  EXPECT_EQ(limited.memory_bytes, 123456789);
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  const Topology free = ReadTopology(root_.string());
  EXPECT_GE(free.cpus, 1);
  EXPECT_EQ(free.quota_cpus, 0);
  EXPECT_GT(free.memory_bytes, 123456789);
}

TEST_F(FakeSystem, TheLeastLimitOfNestedGroupsOfV2Counts) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/user.slice/app.scope\n");
  write("sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n");
  write("sys/fs/cgroup/user.slice/app.scope/cpu.max", "400000 100000\n");
  write("sys/fs/cgroup/user.slice/memory.max", "268435456\n");
  write("sys/fs/cgroup/user.slice/memory.current", "200000000\n");
  write("sys/fs/cgroup/user.slice/memory.stat", "anon 1\ninactive_file 50000000\n");
  write("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
  EXPECT_EQ(limits().memory_bytes, 256 * kMiB);
  EXPECT_EQ(limits().memory_left_bytes, 256 * kMiB - 150000000);
  EXPECT_DOUBLE_EQ(limits().cpus.value(), 1.5);
}

TEST_F(FakeSystem, ASoftLimitOfV2CountsAsOne) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/box\n");
  write("sys/fs/cgroup/box/memory.max", "536870912\n");
  write("sys/fs/cgroup/box/memory.high", "268435456\n");
  EXPECT_EQ(limits().memory_bytes, 256 * kMiB);
}

TEST_F(FakeSystem, TheLeastLimitOfNestedGroupsOfV1Counts) {
  write("proc/self/mountinfo", kV1Mounts);
  write("proc/self/cgroup", "4:memory:/outer/inner\n2:cpu,cpuacct:/quota\n0::/\n");
  write("sys/fs/cgroup/memory/outer/inner/memory.limit_in_bytes", kNoLimitOfV1);
  write("sys/fs/cgroup/memory/outer/memory.limit_in_bytes", "268435456\n");
  write("sys/fs/cgroup/memory/outer/memory.usage_in_bytes", "100000000\n");
  write("sys/fs/cgroup/memory/outer/memory.stat", "inactive_file 5\ntotal_inactive_file 60000000\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", kNoLimitOfV1);
  write("sys/fs/cgroup/cpu,cpuacct/quota/cpu.cfs_quota_us", "100000\n");
  write("sys/fs/cgroup/cpu,cpuacct/quota/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limits().memory_bytes, 256 * kMiB);
  EXPECT_EQ(limits().memory_left_bytes, 256 * kMiB - 40000000);
  EXPECT_DOUBLE_EQ(limits().cpus.value(), 1.0);
  EXPECT_EQ(ReadTopology(root_.string()).cpus, 1);
}

TEST_F(FakeSystem, AContainersOwnViewOfItsGroupIsRead) {
  // The mount shows the group /docker/abc alone, and the process knows its group by the host's name.
  write("proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  write("proc/self/cgroup", "4:memory:/docker/abc/job\n");
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "900000000\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "500000000\n");
  EXPECT_EQ(limits().memory_bytes, 500000000);
  // A group that the mount does not show at all: its own limit is all that can be seen.
  write("proc/self/cgroup", "4:memory:/../other\n");
  EXPECT_EQ(limits().memory_bytes, 500000000);
}

TEST_F(FakeSystem, FilesThatSayNonsenseLimitNothing) {
  write("proc/self/mountinfo", std::string("garbage\n - cgroup2\n1 2 - cgroup2 x y\n") + kV2Mount);
  write("proc/self/cgroup", "0\n::\nx:y\n0::no-slash\n");
  write("sys/fs/cgroup/cpu.max", "many 0\n");
  write("sys/fs/cgroup/memory.max", "a lot\n");
  EXPECT_FALSE(limits().cpus.has_value());
  EXPECT_FALSE(limits().memory_bytes.has_value());
}

TEST_F(FakeSystem, AvailableMemoryLeavesOutWhatOthersUse) {
  write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n");
  const Topology topology = ReadTopology(root_.string());
  EXPECT_EQ(topology.memory_bytes, int64_t{16} << 30);
  EXPECT_EQ(topology.memory_available_bytes, int64_t{8} << 30);
  EXPECT_LE(UsableMemory(topology), (int64_t{8} << 30) * 9 / 10);
  EXPECT_GE(UsableMemory(topology), (int64_t{8} << 30) * 9 / 10 - 10);
}

TEST_F(FakeSystem, SlowerCoresAreCounted) {
  write("sys/devices/cpu_atom/cpus", "0-4095\n");
  const int all = ReadTopology().cpus;
  EXPECT_GE(ReadTopology(root_.string()).efficiency_cpus, all);
  write("sys/devices/cpu_atom/cpus", "4000-4095,x\n");
  EXPECT_EQ(ReadTopology(root_.string()).efficiency_cpus, 0);
}

TEST(Cgroup, AQuotaFeedsWholeThreads) {
  EXPECT_EQ(ThreadsFedBy(0.1), 1);
  EXPECT_EQ(ThreadsFedBy(1.0), 1);
  EXPECT_EQ(ThreadsFedBy(1.5), 1);
  EXPECT_EQ(ThreadsFedBy(1.8), 2);
  EXPECT_EQ(ThreadsFedBy(4.0), 4);
}

}  // namespace
}  // namespace shoal
