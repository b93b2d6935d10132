#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/exposure.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/ids.h"
#include "base/log_name.h"
#include "base/log_throttle.h"
#include "base/process.h"
#include "base/random.h"
#include "base/range.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

TEST(Status, MessageKeepsItsFormatArguments) {
  const absl::Status status = NotFound("tensor '{}' in {}: expected {} rows", "a.weight", "x.safetensors", 7);
  EXPECT_EQ(ToString(status), "NOT_FOUND: tensor 'a.weight' in x.safetensors: expected 7 rows");
  EXPECT_EQ(ToString(Annotate(status, "load")),
            "NOT_FOUND: load: tensor 'a.weight' in x.safetensors: expected 7 rows");
}

TEST(Check, PrintsBothOperands) { EXPECT_DEATH(SHOAL_CHECK_EQ(1 + 1, 3), "1 \\+ 1 == 3 \\(2 vs 3\\)"); }

TEST(File, WriteThenReadGivesTheTextBackAndLeavesNoPartialFile) {
  const std::string path = testing::TempDir() + "/base_test_written";
  ASSERT_EQ(WriteTextFile(path, "{}"), absl::OkStatus());
  EXPECT_EQ(*ReadTextFile(path, 4096), "{}\n");
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  std::filesystem::remove(path);
  EXPECT_EQ(ToString(WriteTextFile("/nowhere/x", "{}")),
            "RESOURCE_EXHAUSTED: cannot write /nowhere/x: No such file or directory");
}

TEST(File, ReadRefusesAFileAboveItsBound) {
  const std::string path = testing::TempDir() + "/base_test_file";
  const std::string text(3 << 20, 'x');
  std::ofstream(path) << text;
  EXPECT_EQ(*ReadTextFile(path, 3 << 20), text);
  EXPECT_EQ(ToString(ReadTextFile(path, 4096).status()),
            "INVALID_ARGUMENT: " + path + ": expected at most 4.0 KiB, found more");
  EXPECT_EQ(ToString(ReadTextFile("/dev/zero", 4096).status()),
            "INVALID_ARGUMENT: /dev/zero: expected at most 4.0 KiB, found more");
  EXPECT_EQ(ReadTextFile(path + "x", 4096).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadTextFile(testing::TempDir(), 4096).status().code(), absl::StatusCode::kInvalidArgument);
  std::filesystem::remove(path);
}

TEST(Text, ParseBytesKnowsUnitsAndRefusesOtherWords) {
  EXPECT_EQ(*ParseBytes("8GiB"), int64_t{8} << 30);
  EXPECT_EQ(*ParseBytes("1.5GB"), 1500000000);
  EXPECT_EQ(*ParseBytes("4096"), 4096);
  for (const char* bad : {"", "GiB", "-1", "5 parsecs", "1e30"}) EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
}

TEST(Text, NearestWordFindsATypoAndNothingFarAway) {
  EXPECT_EQ(NearestWord("stratgy", {"strategy", "custom_proportions"}), "strategy");
  EXPECT_EQ(NearestWord("zzzzzz", {"strategy", "custom_proportions"}), "");
}

TEST(Text, ParseHostPortTakesBracketedIpv6AndRefusesBadPorts) {
  EXPECT_EQ(ParseHostPort("[::1]:80")->host, "::1");
  EXPECT_EQ(ParseHostPort("a.b:50051")->port, 50051);
  for (const char* bad : {"a", "a:", ":80", "a:70000", "::1:80", "a:8x"})
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
}

TEST(Range, StaticRangesTileTheWholeWithoutGaps) {
  for (int n = 1; n < 9; ++n) {
    int64_t at = 0;
    for (int i = 0; i < n; ++i) {
      const Range part = StaticRange(1000, 16, i, n);
      EXPECT_EQ(part.begin, at);
      at = part.end;
    }
    EXPECT_EQ(at, 1000);
  }
}

TEST(Random, IsAFunctionOfItsKeyAlone) {
  EXPECT_EQ(RandomBits(1, 2, 3), RandomBits(1, 2, 3));
  EXPECT_NE(RandomBits(1, 2, 3), RandomBits(1, 2, 4));
  EXPECT_NE(RandomBits(1, 2, 3), RandomBits(2, 1, 3));
  double sum = 0;
  for (int i = 0; i < 10000; ++i) sum += RandomUniform(7, 0, i);
  EXPECT_NEAR(sum / 10000, 0.5, 5 * 0.2887 / 100);  // Five standard errors of a uniform mean.
}

TEST(Deadline, RemainingIsNeverNegative) {
  EXPECT_EQ(Deadline::after_ms(-5).remaining().count(), 0);
  EXPECT_TRUE(Deadline::after_ms(-5).expired());
}

TEST(LogName, EveryLineOfANamedProcessNamesItsNode) {
  EXPECT_EQ(LogNameOf("", -1, "supervisor"), "supervisor");
  EXPECT_EQ(LogNameOf("", -1, "mini2/1"), "mini2/1");
  EXPECT_EQ(LogNameOf("mini2", 1, "shoal"), "mini2/1");
  EXPECT_EQ(LogNameOf("mini2", 1, "supervisor"), "mini2/1 supervisor");
  EXPECT_EQ(LogNameOf("mini2", 1, "mini2"), "mini2/1");
  // A plan that does without a node gives those behind it other ranks: the log keeps to what it was told.
  EXPECT_EQ(LogNameOf("mini2", 2, "mini2/1"), "mini2/2");
  EXPECT_EQ(LogNameOf("mini2", -1, "mini2/1"), "mini2/1");
  EXPECT_EQ(LogNameOf("mini2", -1, "mini2"), "mini2");
  EXPECT_EQ(LogNameOf("mini2", -1, "executor"), "mini2 executor");
}

TEST(LogThrottle, LogsOneLinePerIntervalAndCountsTheOthers) {
  testing::internal::CaptureStderr();
  LogThrottle throttle(std::chrono::milliseconds(50));
  EXPECT_TRUE(throttle.warn("refused"));
  EXPECT_FALSE(throttle.warn("refused"));
  EXPECT_FALSE(throttle.warn("refused"));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_TRUE(throttle.warn("refused"));
  EXPECT_NE(testing::internal::GetCapturedStderr().find("refused (2 like it"), std::string::npos);
}

TEST(Process, RaisesTheDescriptorLimitToTheHardLimit) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(DescriptorLimit(), 100);
  const int64_t raised = RaiseDescriptorLimit();
  EXPECT_EQ(raised, DescriptorLimit());
  EXPECT_EQ(raised, static_cast<int64_t>(std::min<rlim_t>(before.rlim_max, 1 << 20)));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(Exposure, DistinguishesLoopbackFromOtherAddresses) {
  for (const char* host : {"127.0.0.1", "127.8.9.10", "::1", "localhost", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(IsLoopback(host)) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "fe80::1", "", "no such name.invalid"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

TEST(Exposure, APortThatOthersReachNeedsAKeyOrInsecure) {
  EXPECT_TRUE(CheckExposure({.what = "x", .host = "127.0.0.1"}).ok());
  EXPECT_TRUE(CheckExposure({.what = "x", .host = "0.0.0.0", .has_key = true}).ok());
  EXPECT_TRUE(CheckExposure({.what = "x", .host = "0.0.0.0", .insecure = true}).ok());
  const absl::Status refused = CheckExposure({.what = "worker --listen", .host = "0.0.0.0"});
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  for (const char* part : {"worker --listen", "0.0.0.0", "--key-file", "--insecure"}) {
    EXPECT_NE(Message(refused).find(part), std::string::npos) << part;
  }
}

TEST(FileLock, IsHeldByOneAtATimeAndGoesWithItsHandle) {
  const std::string path = testing::TempDir() + "lock of the test";
  auto first = TryLockFile(path);
  ASSERT_TRUE(first.ok() && first->held);
  const auto second = TryLockFile(path);
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(second->held);
  first = absl::UnknownError("");
  EXPECT_TRUE(TryLockFile(path)->held);
  EXPECT_EQ(TryLockFile(testing::TempDir() + "no such folder/lock").status().code(),
            absl::StatusCode::kNotFound);
  // Whoever may write to a folder must not have us make files elsewhere.
  const std::string link = path + " link";
  (void)symlink("/tmp/elsewhere", link.c_str());
  EXPECT_FALSE(TryLockFile(link).ok());
  unlink(link.c_str());
  unlink(path.c_str());
}

}  // namespace
}  // namespace shoal
