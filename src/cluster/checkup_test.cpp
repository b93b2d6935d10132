#include "cluster/checkup.h"

#include <gmock/gmock.h>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

MachineReport Healthy() {
  return {.cpu_name = "CPU",
          .cpus = 8,
          .cores = 4,
          .isa = "avx2",
          .memory_total = int64_t{16} << 30,
          .memory_available = int64_t{12} << 30,
          .memory_limit = int64_t{16} << 30,
          .huge_pages = "madvise",
          .descriptors = 65536};
}

/// What is not well of a machine, as text.
std::string Complaints(const MachineReport& machine) {
  std::string text;
  for (const Finding& finding : CheckMachine("n", machine)) {
    if (finding.verdict != CheckResult::kOk) text += FindingsText({finding});
  }
  return text;
}

TEST(Checkup, AHealthyMachineGivesNoAdvice) { EXPECT_THAT(Complaints(Healthy()), IsEmpty()); }

TEST(Checkup, EachFactThatSlowsShoalDownComesWithWhatToType) {
  MachineReport machine = Healthy();
  machine.huge_pages = "never";
  EXPECT_THAT(Complaints(machine), HasSubstr("echo madvise | sudo tee"));
  machine = Healthy();
  machine.memory_limit = int64_t{2} << 30;
  EXPECT_THAT(Complaints(machine), AllOf(HasSubstr("allows 2.0 GiB"), HasSubstr("MemoryMax")));
  machine = Healthy();
  machine.memory_available = int64_t{1} << 30;
  EXPECT_THAT(Complaints(machine), HasSubstr("--memory 921MiB"));
  machine = Healthy();
  machine.isa = "reference";
  EXPECT_THAT(Complaints(machine), HasSubstr("-cpu host"));
  machine = Healthy();
  machine.descriptors = 256;
  EXPECT_THAT(Complaints(machine), HasSubstr("ulimit -Hn"));
}

TEST(Checkup, ClocksApartAreAdviceAndNeverWrong) {
  EXPECT_EQ(CheckClock("n", 0).verdict, CheckResult::kOk);
  EXPECT_EQ(CheckClock("n", -9).verdict, CheckResult::kOk);
  EXPECT_EQ(CheckClock("n", 20).verdict, CheckResult::kAdvice);
  EXPECT_EQ(CheckClock("n", -86400).verdict, CheckResult::kAdvice);
  EXPECT_THAT(CheckClock("n", -40).text, HasSubstr("40 s behind"));
}

TEST(Checkup, WhatAWorkerAnswersTellsWhatToDo) {
  const auto remedy = [](const absl::Status& status) {
    const Finding finding = CheckAnswer("mini2", "10.0.0.2:50051", status);
    return finding.check + ": " + finding.remedy;
  };
  EXPECT_THAT(remedy(absl::OkStatus()), "port: ");
  EXPECT_THAT(remedy(Unavailable("Connection refused")), HasSubstr("shoal worker --listen 0.0.0.0:50051"));
  EXPECT_THAT(remedy(DeadlineExceeded("Deadline Exceeded")), HasSubstr("ufw allow 50051/tcp"));
  EXPECT_THAT(remedy(Unavailable("DNS resolution failed")), HasSubstr("name is not known"));
  EXPECT_THAT(remedy(Unauthenticated("the caller's key is not this node's")),
              HasSubstr("key: give all nodes"));
}

TEST(Checkup, ALinkToALoopbackAddressIsExplained) {
  const Finding bad = CheckLink("a", "b", "127.0.0.1:5", {.status = Unavailable("another process answers")});
  EXPECT_EQ(bad.verdict, CheckResult::kWrong);
  EXPECT_THAT(bad.remedy, HasSubstr("127.0.0.1 means each machine itself"));
  EXPECT_THAT(CheckLink("a", "b", "10.0.0.2:5", {.status = Unavailable("refused")}).remedy,
              HasSubstr("open 10.0.0.2:5 on 'b' for 'a'"));
  const Finding fast =
      CheckLink("a", "b", "10.0.0.2:5",
                {.round_trip = std::chrono::microseconds(150), .bytes_per_second = 110'000'000});
  EXPECT_EQ(fast.text, "150 us, 110 MB/s");
  EXPECT_EQ(fast.verdict, CheckResult::kOk);
  EXPECT_EQ(CheckLink("a", "b", "h:5", {.round_trip = std::chrono::milliseconds(9)}).verdict,
            CheckResult::kAdvice);
}

TEST(Checkup, AnotherModelUnderTheSameNameIsWrong) {
  MachineReport machine;
  machine.model_hash = "aa";
  EXPECT_EQ(CheckModel("n", machine, "aa").verdict, CheckResult::kOk);
  EXPECT_EQ(CheckModel("n", machine, "bb").verdict, CheckResult::kWrong);
  machine.model_error = "no such model";
  EXPECT_THAT(CheckModel("n", machine, "aa").text, "no such model");
  EXPECT_EQ(CheckModel("n", machine, "aa").verdict, CheckResult::kWrong);
  machine.fetches_model = true;
  EXPECT_EQ(CheckModel("n", machine, "aa").verdict, CheckResult::kOk);
}

TEST(Checkup, OnlyWhatIsWrongCounts) {
  const std::vector<Finding> findings = {{"n", "a", CheckResult::kOk, "", ""},
                                         {"n", "b", CheckResult::kAdvice, "", "do"},
                                         {"n", "c", CheckResult::kWrong, "it is", "do that"}};
  EXPECT_EQ(CountWrong(findings), 1);
  EXPECT_THAT(FindingsText(findings), AllOf(HasSubstr("wrong   n  c  it is"), HasSubstr("-> do that")));
}

}  // namespace
}  // namespace shoal
