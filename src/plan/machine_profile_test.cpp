#include "plan/machine_profile.h"

#include <gtest/gtest.h>

#include <limits>

namespace shoal {
namespace {

MachineProfile Example() {
  return {.machine = {.cpu = "Testium \"9000\"",
                      .cores = 8,
                      .threads = 8,
                      .cpus = "0-7",
                      .memory_bytes = int64_t{16} << 30,
                      .quota_cpus = 7.5,
                      .isa = "avx2",
                      .version = "1.2.3"},
          .measured_at = 1'700'000'000,
          .efficiency_cpus = 4,
          .disk_mbs = 1500.5,
          .rates = {{1, 10, 100, 20, 0.25, 7, 15, 20, 4, 60},
                    {2, 18, 200, 40, 1.5, 12, 30, 20, 4, 100},
                    {8, 30, 800, 100, 3, 24, 90, 20, 4, 400}}};
}

TEST(MachineProfile, IsReadBackAsItWasWritten) {
  const auto read = ProfileFromJson(ProfileToJson(Example()));
  ASSERT_TRUE(read.ok()) << ToString(read.status());
  EXPECT_EQ(*read, Example());
}

TEST(MachineProfile, ErrorsNameThePlace) {
  const std::string good = ProfileToJson(Example());
  const auto broken = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    const auto read = ProfileFromJson(text);
    return read.ok() ? "read" : Message(read.status());
  };
  EXPECT_NE(broken("\"threads\": 2", "\"threads\": 1").find("rates[1]"), std::string::npos);
  EXPECT_NE(broken("18.0", "-18.0").find("rates[1].read_gbs"), std::string::npos);
  EXPECT_NE(broken("18.0", "0").find("rates[1].read_gbs"), std::string::npos);
  EXPECT_NE(broken("\"cores\": 8", "\"cores\": \"8\"").find("machine.cores"), std::string::npos);
  EXPECT_NE(broken("shoal-profile-3", "shoal-profile-0").find("shoal-profile-0"), std::string::npos);
  EXPECT_NE(broken("disk_mbs", "disc_mbs").find("disc_mbs"), std::string::npos);
}

TEST(MachineProfile, RatesBetweenMeasuredNumbersAreInterpolated) {
  const MachineProfile profile = Example();
  EXPECT_DOUBLE_EQ(profile.rates_of(1).read_gbs, 10);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).read_gbs, 24);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).int8_gops, 500);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).attention_gbs, 18);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).attention_gflops, 60);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).handover_us, 20);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).draw_ns, 4);
  EXPECT_DOUBLE_EQ(profile.rates_of(5).int8_few_gops, 250);
  EXPECT_EQ(profile.rates_of(5).threads, 5);
  EXPECT_DOUBLE_EQ(profile.rates_of(100).f32_gflops, 100);
}

TEST(MachineProfile, IsMeasuredAnewForAnotherMachineAndWithAge) {
  const MachineProfile profile = Example();
  EXPECT_EQ(WhyStale(profile, profile.machine, profile.measured_at + 60), "");
  EXPECT_NE(WhyStale(profile, profile.machine, profile.measured_at + kProfileMaxAgeS + 1), "");
  EXPECT_NE(WhyStale(profile, profile.machine, profile.measured_at - 1), "");
  MachineIdentity other = profile.machine;
  other.quota_cpus = 1;
  EXPECT_NE(WhyStale(profile, other, profile.measured_at), "");
  EXPECT_NE(other.hash(), profile.machine.hash());
}

TEST(MachineProfile, MoreThreadsAreNeverSlower) {
  std::vector<ThreadRates> rates = {{1, 30, 100, 20, 0}, {2, 17, 150, 50, 1}, {4, 40, 600, 60, 1}};
  Reconcile(rates);
  EXPECT_EQ(rates[1].read_gbs, 30);
  EXPECT_EQ(rates[1].int8_gops, 300);
  EXPECT_EQ(rates[0].int8_gops, 150);
  EXPECT_EQ(rates[0].f32_gflops, 25);
  EXPECT_EQ(rates[2].read_gbs, 40);
}

TEST(MachineProfile, FewNumbersOfThreadsAreMeasured) {
  EXPECT_EQ(ThreadCountsToMeasure(1), std::vector<int>({1}));
  EXPECT_EQ(ThreadCountsToMeasure(3), std::vector<int>({1, 2, 3}));
  for (const int threads : {5, 8, 16, 64, 96, 1024}) {
    const std::vector<int> counts = ThreadCountsToMeasure(threads);
    EXPECT_EQ(counts.front(), 1);
    EXPECT_EQ(counts.back(), threads);
    EXPECT_LE(counts.size(), 12);
  }
}

TEST(MachineProfile, RatesThatNoMachineHasAreRefused) {
  const ThreadRates good = Example().rates[0];
  EXPECT_TRUE(CheckRates(good).ok());
  for (const double bad : {0.0, -1.0, 1e12, std::numeric_limits<double>::quiet_NaN()}) {
    ThreadRates rates = good;
    rates.read_gbs = bad;
    EXPECT_FALSE(CheckRates(rates).ok()) << bad;
    rates = good;
    rates.attention_gflops = bad;
    EXPECT_EQ(CheckRates(rates).ok(), bad == 0) << bad;  // 0: an older worker measured none.
  }
}

}  // namespace
}  // namespace shoal
