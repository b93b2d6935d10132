#include "measure/kernel_rates.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/status.h"
#include "plan/machine_profile.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

// So brief that rates mean nothing: the tests show that every loop ends and counts.
KernelMeterOptions Brief(Isa isa) {
  return {.isa = isa, .weight_bytes = 4 << 20, .budget = std::chrono::milliseconds(2)};
}

TEST(KernelRates, EveryInstructionSetAndNumberOfThreadsHasRates) {
  for (const Isa isa : SupportedIsas()) {
    if (isa == Isa::kReference) continue;  // Its one loop over 64 rows takes seconds.
    const auto meter = KernelMeter::Create(2, Brief(isa));
    ASSERT_TRUE(meter.ok()) << ToString(meter.status());
    for (const int threads : {1, 3}) {
      const ThreadRates rates = meter->measure(threads);
      EXPECT_EQ(rates.threads, threads);
      EXPECT_TRUE(CheckRates(rates).ok()) << ToString(CheckRates(rates));
    }
  }
}

TEST(KernelRates, AQuotaLeavesAShareOfTheTime) {
  EXPECT_EQ(ShareUnderQuota(0, 4), 1.0);
  EXPECT_EQ(ShareUnderQuota(0.5, 1), 0.5);
  EXPECT_EQ(ShareUnderQuota(1.5, 2), 0.75);
  EXPECT_EQ(ShareUnderQuota(8, 2), 1.0);
}

TEST(KernelRates, UnderAQuotaThereAreRatesToo) {
  KernelMeterOptions options = Brief(SupportedIsas().back());
  options.quota_cpus = 0.5;
  const auto meter = KernelMeter::Create(2, options);
  ASSERT_TRUE(meter.ok()) << ToString(meter.status());
  EXPECT_TRUE(CheckRates(meter->measure(2)).ok());
}

TEST(KernelRates, TheDiskIsReadAndNothingStaysThere) {
  const fs::path folder = fs::temp_directory_path() / ("shoal-disk-rate-" + std::to_string(getpid()));
  EXPECT_GT(MeasureDiskRead(folder.string()), 0);
  EXPECT_TRUE(fs::is_empty(folder));
  fs::remove_all(folder);
  EXPECT_EQ(MeasureDiskRead("/proc/no-such-folder"), 0);
}

}  // namespace
}  // namespace shoal
