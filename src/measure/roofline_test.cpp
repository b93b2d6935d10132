#include "measure/roofline.h"

#include <gtest/gtest.h>
#include <sys/utsname.h>

#include <fstream>
#include <string>

#include "base/status.h"
#include "measure/roofline_probes.h"
#include "numeric/memory.h"

namespace shoal {
namespace {

// So brief that rates mean nothing (other processes run beside a test): the tests show that every loop ends
// and counts.
constexpr RooflineOptions kBrief{
    .read_bytes = 1 << 20, .run = std::chrono::milliseconds(1), .budget = std::chrono::milliseconds(10)};

TEST(Roofline, MeasuresEveryBoundForAnyNumberOfThreads) {
  const auto meter = RooflineMeter::Create(3, {}, kBrief);
  ASSERT_TRUE(meter.ok()) << ToString(meter.status());
  EXPECT_EQ(meter->resident_bytes(), kBrief.read_bytes);
  for (const int threads : {1, 3}) {
    const Roofline bounds = meter->measure(threads);
    EXPECT_EQ(bounds.threads, threads);
    EXPECT_GT(bounds.read_gbs, 0);
    EXPECT_GT(bounds.vnni_gops, 0);
    EXPECT_GT(bounds.fma_gflops, 0);
    EXPECT_FALSE(bounds.vnni_how.empty());
    EXPECT_GT(meter->read_gbs(threads), 0);
  }
}

TEST(Roofline, MeasuresTheFirstTouchRateUpToTheLastPage) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto rate = MeasureFirstTouchRate(pool, 2 * kHugePageBytes + 1);
    ASSERT_TRUE(rate.ok()) << ToString(rate.status());
    EXPECT_GT(*rate, 0);
  }
}

/// Flags of the first CPU as Linux reports them, independently of our own detection; empty on other systems.
std::string CpuFlags() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("flags")) return line + " ";
  }
  return "";
}

TEST(Roofline, MeasuresTheBestInstructionsThatLinuxReports) {
  const std::string flags = CpuFlags();
  utsname machine = {};
  ASSERT_EQ(uname(&machine), 0);
  // Under emulation of another CPU, /proc/cpuinfo still describes this machine.
  if (flags.empty() || std::string_view(machine.machine) != "x86_64") {
    GTEST_SKIP() << "no x86 flags in /proc/cpuinfo, or not those of the CPU that runs this";
  }
  const auto has = [&](const std::string& flag) { return flags.find(" " + flag + " ") != std::string::npos; };
  const auto meter = RooflineMeter::Create(1, {}, kBrief);
  ASSERT_TRUE(meter.ok()) << ToString(meter.status());
  const Roofline bounds = meter->measure(1);
  const std::string_view expected = has("avx512_vnni") ? "vpdpbusd on 512 bits"
                                    : has("avx_vnni")  ? "vpdpbusd on 256 bits"
                                                       : "vpmaddubsw on 256 bits, 4-bit weights";
  EXPECT_EQ(bounds.vnni_how, expected);
  EXPECT_TRUE(bounds.scaled_gops.has_value());
  EXPECT_EQ(bounds.amx_gops.has_value(), has("amx_int8"));
}

TEST(Roofline, KernelsThatAreHeldToLessAreComparedWithWhatTheyMayUse) {
  for (const Isa isa : SupportedIsas()) {
    RooflineOptions options = kBrief;
    options.isa = isa;
    const auto meter = RooflineMeter::Create(1, {}, options);
    ASSERT_TRUE(meter.ok()) << ToString(meter.status());
    const Roofline bounds = meter->measure(1);
    EXPECT_EQ(bounds.amx_gops.has_value(), isa == Isa::kAmx) << IsaName(isa);
    EXPECT_EQ(bounds.wide_gops.has_value(), isa == Isa::kAvx2) << IsaName(isa);
    if (isa == Isa::kAvx2) {
      EXPECT_EQ(bounds.vnni_how, "vpmaddubsw on 256 bits, 4-bit weights");
    }
    if (isa == Isa::kAvxVnni) {
      EXPECT_EQ(bounds.vnni_how, "vpdpbusd on 256 bits");
    }
    EXPECT_GT(bounds.vnni_gops, 0);
    EXPECT_GT(bounds.fma_gflops, 0);
  }
}

TEST(Roofline, ReconcileRaisesRatesThatOtherTeamsDisprove) {
  std::map<int, Roofline> bounds = {
      {1, {.threads = 1, .read_gbs = 12, .vnni_gops = 100, .amx_gops = 2000, .fma_gflops = 110}},
      {2, {.threads = 2, .read_gbs = 10, .vnni_gops = 900, .amx_gops = 3000, .fma_gflops = 200}}};
  Reconcile(bounds);
  EXPECT_EQ(bounds[1].read_gbs, 12);
  EXPECT_EQ(bounds[2].read_gbs, 12);    // Two threads read no less than one.
  EXPECT_EQ(bounds[1].vnni_gops, 450);  // One thread reaches half the rate of two.
  EXPECT_EQ(bounds[2].vnni_gops, 900);
  EXPECT_EQ(bounds[1].amx_gops, 2000);
  EXPECT_EQ(bounds[2].amx_gops, 3000);
  EXPECT_EQ(bounds[1].fma_gflops, 110);
  EXPECT_EQ(bounds[2].fma_gflops, 200);
}

TEST(Roofline, EveryAvailableProbeRunsAndReturns) {
  for (const auto& probes : {Int8Probes(), ScaledInt8Probes(), WideProbes(), TileProbes(), FmaProbes()}) {
    for (const RateProbe& probe : probes) {
      SCOPED_TRACE(probe.how);
      EXPECT_GT(probe.ops_per_round, 0);
      if (probe.available()) probe.run(3);
    }
  }
  const auto memory = AlignedMemory::Allocate(4 * kReadStep);
  ASSERT_TRUE(memory.ok());
  for (const ReadProbe& probe : ReadProbes()) {
    if (!probe.available()) continue;
    probe.run(memory->data(), 0);  // An empty range, of a team larger than the work.
    probe.run(memory->data(), memory->bytes());
  }
}

}  // namespace
}  // namespace shoal
