#include "launch/subprocess.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "base/file.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

SubprocessOptions Shell(const std::string& script) {
  return {.argv = {"sh", "-c", script}, .deadline = Deadline::after_ms(20000)};
}

TEST(Subprocess, GivesOutputErrorsAndExitCode) {
  const auto result = RunSubprocess(Shell("echo out; echo err >&2; exit 3"));
  ASSERT_TRUE(result.ok()) << ToString(result.status());
  EXPECT_EQ(result->output, "out\n");
  EXPECT_EQ(result->errors, "err\n");
  EXPECT_EQ(result->exit_code, 3);
}

TEST(Subprocess, ASignalIsANegativeExitCode) {
  const auto result = RunSubprocess(Shell("kill -9 $$"));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->exit_code, -SIGKILL);
}

TEST(Subprocess, InputLargerThanAPipeComesBackWhole) {
  std::string input(3 << 20, 'x');
  input[1234567] = 'y';
  SubprocessOptions options = Shell("cat");
  options.input = input;
  const auto result = RunSubprocess(options);
  ASSERT_TRUE(result.ok()) << ToString(result.status());
  EXPECT_EQ(result->output, input);
}

TEST(Subprocess, AProgramThatDoesNotReadIsNoError) {
  const std::string input(3 << 20, 'x');
  SubprocessOptions options = Shell("exit 5");
  options.input = input;
  const auto result = RunSubprocess(options);
  ASSERT_TRUE(result.ok()) << ToString(result.status());
  EXPECT_EQ(result->exit_code, 5);
}

TEST(Subprocess, ItIsEndedAtItsDeadlineAndItsErrorsAreTold) {
  SubprocessOptions options = Shell("echo stuck >&2; exec sleep 1000");
  options.deadline = Deadline::after_ms(300);
  const absl::Status status = RunSubprocess(options).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_THAT(Message(status), HasSubstr("stuck"));
}

TEST(Subprocess, AGrandchildThatHoldsTheOutputIsNotWaitedFor) {
  const auto result = RunSubprocess(Shell("sleep 1000 & echo $!"));
  ASSERT_TRUE(result.ok()) << ToString(result.status());
  EXPECT_EQ(kill(std::stoi(result->output), SIGKILL), 0);
}

TEST(Subprocess, LinesComeOneByOneUntilEnough) {
  std::vector<std::string> lines;
  SubprocessOptions options = Shell("printf 'a\\nb\\n\\nd'; while :; do echo more; done");
  options.on_line = [&lines](std::string_view line) {
    lines.emplace_back(line);
    return lines.size() < 4;
  };
  const auto result = RunSubprocess(options);
  ASSERT_TRUE(result.ok()) << ToString(result.status());
  EXPECT_THAT(lines, ElementsAre("a", "b", "", "dmore"));
}

TEST(Subprocess, TheLastLineNeedsNoEnd) {
  std::vector<std::string> lines;
  SubprocessOptions options = Shell("printf 'a\\nb'");
  options.on_line = [&lines](std::string_view line) {
    lines.emplace_back(line);
    return true;
  };
  ASSERT_TRUE(RunSubprocess(options).ok());
  EXPECT_THAT(lines, ElementsAre("a", "b"));
}

TEST(Subprocess, OutputWithoutEndIsRefused) {
  SubprocessOptions options = Shell("while :; do echo more; done");
  options.output_max = 100000;
  EXPECT_TRUE(absl::IsResourceExhausted(RunSubprocess(options).status()));
}

TEST(Subprocess, AProgramThatIsNotThereIsNamed) {
  const auto result = RunSubprocess({.argv = {"no-such-program"}, .deadline = Deadline::after_ms(1000)});
  EXPECT_TRUE(absl::IsNotFound(result.status()));
  EXPECT_THAT(Message(result.status()), HasSubstr("no-such-program"));
}

TEST(Subprocess, HeldInputEndsOnlyWithTheProgram) {
  SubprocessOptions options = Shell("read line; echo got $line; read line || echo ended");
  options.input = "one\n";
  options.hold_input = true;
  options.deadline = Deadline::after_ms(500);
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunSubprocess(options).status()));
  options.hold_input = false;
  options.deadline = Deadline::after_ms(20000);
  const auto result = RunSubprocess(options);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->output, "got one\nended\n");
}

TEST(StartDetached, IsOfASessionOfItsOwnWithItsFolderLogAndEnvironment) {
  const std::string folder = std::filesystem::path(testing::TempDir()) / "shoal-detached";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const std::string log = folder + "/log";
  ASSERT_TRUE(WriteTextFile(log, "before").ok());
  const auto pid = StartDetached(
      {.argv = {"/bin/sh", "-c", "pwd; echo $NAME $HOME; ps -o sid= -p $$; cat; ls /proc/self/fd | wc -w"},
       .environment = {"NAME=a b", "PATH=/usr/bin:/bin"},
       .folder = folder,
       .log = log});
  ASSERT_TRUE(pid.ok()) << ToString(pid.status());
  int status = 0;
  ASSERT_EQ(waitpid(*pid, &status, 0), *pid);
  const auto text = ReadTextFile(log, 1 << 20);
  ASSERT_TRUE(text.ok());
  EXPECT_THAT(*text, HasSubstr("before\n" + folder + "\na b\n"));
  EXPECT_NE(getsid(0), *pid);
  EXPECT_THAT(*text, HasSubstr(fmt::format("{}\n", *pid)));
  EXPECT_THAT(*text, HasSubstr("\n4\n"));  // Its three streams, and the folder that ls reads.
}

}  // namespace
}  // namespace shoal
