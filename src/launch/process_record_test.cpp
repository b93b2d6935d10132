#include "launch/process_record.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "base/file.h"
#include "base/process_stat.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

/// A child that sleeps, or ignores SIGTERM; ended and waited for at the end.
class Child {
 public:
  explicit Child(bool stubborn = false) {
    sigset_t none;
    sigemptyset(&none);
    pid_ = fork();
    if (pid_ == 0) {
      if (stubborn) std::signal(SIGTERM, SIG_IGN);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      while (true) pause();
    }
  }
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  int pid() const { return pid_; }
  bool ended() const { return !IdentifyProcess(pid_).ok(); }

 private:
  int pid_;
};

TEST(ProcessStat, TheNameMayHoldAnything) {
  const auto stat =
      ParseProcessStat("42 (a) R 1 (b) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 4096 1 2\n");
  ASSERT_TRUE(stat.ok()) << ToString(stat.status());
  EXPECT_EQ(stat->state, 'S');
  EXPECT_EQ(stat->start_ticks, 987654u);
}

TEST(ProcessStat, OtherTextsAreErrors) {
  for (const char* text :
       {"", "42 (a)", "42 (a) S 1 2", "42 a S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9 4",
        "42 (a) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 x 4"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseProcessStat(text).status())) << text;
  }
}

TEST(ProcessRecord, IsWrittenAndReadAgain) {
  auto record = IdentifyProcess(getpid());
  ASSERT_TRUE(record.ok()) << ToString(record.status());
  record->started_unix = 1700000000;
  record->binary = "ab";
  record->command = "cd";
  const std::string path = std::filesystem::path(testing::TempDir()) / "shoal-record.pid";
  ASSERT_TRUE(WritePidFile(path, *record).ok());
  const auto again = ReadPidFile(path);
  ASSERT_TRUE(again.ok()) << ToString(again.status());
  EXPECT_EQ(**again, *record);
  EXPECT_EQ(LifeOf(**again), ProcessLife::kRunning);
  std::filesystem::remove(path);
  EXPECT_EQ(*ReadPidFile(path), std::nullopt);
}

TEST(ProcessRecord, AFileThatIsNoneIsNamed) {
  const std::string path = std::filesystem::path(testing::TempDir()) / "shoal-bad.pid";
  for (const char* text : {"", "17", "{}", R"({"pid": 1, "boot_id": "x"})", R"({"pid": -5, "boot_id": "x"})",
                           R"({"pid": 99999999999, "boot_id": "x"})", R"({"pid": 17})", R"([])"}) {
    ASSERT_TRUE(WriteTextFile(path, text).ok());
    const absl::Status status = ReadPidFile(path).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(Message(status), HasSubstr(path)) << text;
  }
}

TEST(EndProcess, EndsTheOneOfTheRecord) {
  const Child child;
  const auto record = IdentifyProcess(child.pid());
  ASSERT_TRUE(record.ok());
  EXPECT_TRUE(EndProcess(*record, std::chrono::seconds(20)).ok());
  EXPECT_TRUE(child.ended());
  EXPECT_EQ(LifeOf(*record), ProcessLife::kEnded);
  EXPECT_TRUE(EndProcess(*record, std::chrono::seconds(20)).ok());
}

TEST(EndProcess, KillsOneThatDoesNotListen) {
  const Child child(true);
  const auto record = IdentifyProcess(child.pid());
  ASSERT_TRUE(record.ok());
  EXPECT_TRUE(EndProcess(*record, std::chrono::milliseconds(50)).ok());
  EXPECT_TRUE(child.ended());
}

TEST(EndProcess, EndsOneThatWasStopped) {
  const Child child;
  const auto record = IdentifyProcess(child.pid());
  ASSERT_TRUE(record.ok());
  kill(child.pid(), SIGSTOP);
  EXPECT_TRUE(EndProcess(*record, std::chrono::seconds(20)).ok());
  EXPECT_TRUE(child.ended());
}

TEST(EndProcess, LeavesAnotherProcessOfThatPidAlone) {
  const Child child;
  auto record = IdentifyProcess(child.pid());
  ASSERT_TRUE(record.ok());
  const ProcessRecord right = *record;
  record->start_ticks -= 1;
  EXPECT_EQ(LifeOf(*record), ProcessLife::kOther);
  EXPECT_TRUE(EndProcess(*record, std::chrono::milliseconds(50)).ok());
  EXPECT_FALSE(child.ended());
  record = right;
  record->boot_id = "another";
  EXPECT_EQ(LifeOf(*record), ProcessLife::kOther);
  EXPECT_TRUE(EndProcess(*record, std::chrono::milliseconds(50)).ok());
  EXPECT_FALSE(child.ended());
}

}  // namespace
}  // namespace shoal
