#include "launch/host_agent.h"

#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/file_handle.h"
#include "base/status.h"
#include "base/text.h"
#include "launch/log_reader.h"
#include "launch/process_record.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A folder whose bin/shoal is a script: "run" sleeps, "end" writes a line and ends.
class HostAgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / fmt::format("shoal agent's {}", getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/bin");
    const std::string binary = folder_ + "/bin/shoal";
    ASSERT_TRUE(
        WriteTextFile(binary, "#!/bin/sh\necho \"$@\" $NAME\n[ \"$1\" = end ] && exit 3\nexec sleep 1000")
            .ok());
    chmod(binary.c_str(), 0755);
  }
  void TearDown() override {
    (void)ask(HostVerb::kStop);
    std::filesystem::remove_all(folder_);
  }

  HostReply ask(HostVerb verb, const std::string& what = "run", const std::string& probe = "") {
    HostOrder order{.verb = verb, .workdir = folder_, .timeout_ms = 20000};
    order.files = {{.name = "cluster.key", .content = "secret", .secret = true}};
    order.processes = {{.id = "mini2",
                        .rank = 1,
                        .args = {what},
                        .model_roots = {"~/m"},
                        .env = {{"NAME", "a b"}},
                        .probe = probe,
                        .fingerprint = what}};
    return agent().run(order);
  }
  HostAgent agent() {
    return HostAgent({.home = "/home/me",
                      .environment = {"PATH=/usr/bin:/bin", "NAME=other"},
                      .version = "1",
                      .emit = [this](const HostEvent& event) { lines_.push_back(event.text); },
                      .asker_gone = [] { return true; }});
  }
  std::string pid_file() const { return folder_ + "/run/mini2.pid"; }

  std::string folder_;
  std::vector<std::string> lines_;
};

TEST_F(HostAgentTest, StartsOnceAndStops) {
  const HostReply first = ask(HostVerb::kStart);
  ASSERT_TRUE(first.status.ok()) << ToString(first.status);
  EXPECT_TRUE(first.processes[0].fresh);
  EXPECT_EQ(first.processes[0].error, "");
  const HostReply second = ask(HostVerb::kStart);
  EXPECT_FALSE(second.processes[0].fresh);
  EXPECT_FALSE(second.processes[0].outdated);
  EXPECT_EQ(second.processes[0].pid, first.processes[0].pid);
  EXPECT_EQ(ask(HostVerb::kStatus).processes[0].state, HostProcessState::kRunning);
  EXPECT_TRUE(ask(HostVerb::kStart, "other").processes[0].outdated);
  const HostReply stopped = ask(HostVerb::kStop);
  EXPECT_TRUE(stopped.processes[0].fresh);
  EXPECT_EQ(stopped.processes[0].state, HostProcessState::kStopped);
  EXPECT_FALSE(IdentifyProcess(first.processes[0].pid).ok());
  EXPECT_EQ(ask(HostVerb::kStatus).processes[0].state, HostProcessState::kStopped);
  EXPECT_FALSE(ask(HostVerb::kStop).processes[0].fresh);
}

TEST_F(HostAgentTest, TheKeyIsReadableByItsOwnerOnly) {
  ASSERT_TRUE(ask(HostVerb::kStart).status.ok());
  struct stat status = {};
  ASSERT_EQ(stat((folder_ + "/cluster.key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(*ReadTextFile(folder_ + "/cluster.key", 100), "secret");
}

TEST_F(HostAgentTest, OneThatEndsAtOnceIsToldWithItsLog) {
  const HostReply reply = ask(HostVerb::kStart, "end", "127.0.0.1:1");
  ASSERT_TRUE(reply.status.ok());
  EXPECT_THAT(reply.processes[0].error, HasSubstr("exit code 3"));
  EXPECT_THAT(reply.processes[0].log_tail, ElementsAre("end --model-root /home/me/m a b"));
  EXPECT_EQ(ask(HostVerb::kStatus).processes[0].state, HostProcessState::kDied);
}

TEST_F(HostAgentTest, AProcessThatTookThePidIsLeftAlone) {
  std::filesystem::create_directories(folder_ + "/run");
  auto self = IdentifyProcess(getpid());
  ASSERT_TRUE(self.ok());
  self->start_ticks -= 1;
  ASSERT_TRUE(WritePidFile(pid_file(), *self).ok());
  const HostReply before = ask(HostVerb::kStatus);
  EXPECT_EQ(before.processes[0].state, HostProcessState::kDied);
  EXPECT_THAT(before.processes[0].note, HasSubstr("left alone"));
  EXPECT_TRUE(ask(HostVerb::kStop).processes[0].error.empty());  // We are still here.
  EXPECT_FALSE(std::filesystem::exists(pid_file()));
  ASSERT_TRUE(WritePidFile(pid_file(), *self).ok());
  EXPECT_TRUE(ask(HostVerb::kStart).processes[0].fresh);
}

TEST_F(HostAgentTest, APidFileThatIsNoneStopsNothingAndStartsNothing) {
  std::filesystem::create_directories(folder_ + "/run");
  ASSERT_TRUE(WriteTextFile(pid_file(), "12").ok());
  for (const HostVerb verb : {HostVerb::kStatus, HostVerb::kStart, HostVerb::kStop}) {
    EXPECT_THAT(ask(verb).processes[0].error, HasSubstr(pid_file()));
  }
  std::filesystem::remove(pid_file());
}

TEST_F(HostAgentTest, APortInUseIsNotTakenForOurs) {
  const FileHandle listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(listener.fd(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener.fd(), 1), 0);
  ASSERT_EQ(getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string probe = HostPort{"127.0.0.1", ntohs(address.sin_port)}.to_string();
  const HostReply reply = ask(HostVerb::kStart, "run", probe);
  EXPECT_THAT(reply.processes[0].error, HasSubstr(probe + " is in use"));
  EXPECT_FALSE(reply.processes[0].fresh);
}

TEST_F(HostAgentTest, LogsAreTheLastLines) {
  std::filesystem::create_directories(folder_ + "/logs");
  ASSERT_TRUE(WriteTextFile(folder_ + "/logs/mini2_server.log", "a\nb\n\nc").ok());
  HostOrder order{.verb = HostVerb::kLogs, .workdir = folder_, .lines = 3};
  order.processes = {{.id = "mini2", .rank = 1}, {.id = "gone", .rank = 2}};
  ASSERT_TRUE(agent().run(order).status.ok());
  EXPECT_THAT(lines_, ElementsAre("b", "", "c"));
}

TEST_F(HostAgentTest, WhatIsFollowedBeginsWhereTheLastLinesEnded) {
  std::filesystem::create_directories(folder_ + "/logs");
  const auto append = [&](const std::string& name, const std::string& text) {
    std::ofstream(fmt::format("{}/logs/{}_server.log", folder_, name), std::ios::app) << text;
  };
  append("mini2", "a\nb\nbeg");
  HostOrder order{.verb = HostVerb::kLogs, .workdir = folder_, .lines = 2};
  order.processes = {{.id = "mini2", .rank = 1}, {.id = "gone", .rank = 2}};
  const HostReply tail = agent().run(order);
  ASSERT_EQ(tail.processes.size(), 2u);
  EXPECT_EQ(tail.processes[0].log_end, 4);
  EXPECT_EQ(tail.processes[1].log_end, 0);
  // Written before anybody follows.
  append("mini2", "un\nc\n");
  append("gone", "here\n");
  lines_.clear();
  order.lines = 0;
  order.follow = true;
  for (size_t i = 0; i < 2; ++i) order.processes[i].log_from = tail.processes[i].log_end;
  const auto sent = ParseOrder(FormatOrder(order));
  ASSERT_TRUE(sent.ok());
  ASSERT_TRUE(agent().run(*sent).status.ok());
  EXPECT_THAT(lines_, ElementsAre("begun", "c", "here"));
}

TEST_F(HostAgentTest, AFollowerSeesWhatIsAppendedReplacedAndCut) {
  const std::string path = folder_ + "/log";
  const auto append = [&](const std::string& text) {
    FILE* file = std::fopen(path.c_str(), "a");
    std::fputs(text.c_str(), file);
    std::fclose(file);
  };
  append("old\n");
  LogFollower follower(path);
  std::vector<std::string> lines;
  const auto look = [&] {
    lines.clear();
    follower.poll([&](std::string_view line) { lines.emplace_back(line); });
    return lines;
  };
  EXPECT_THAT(look(), IsEmpty());
  append("one\ntw");
  EXPECT_THAT(look(), ElementsAre("one"));
  append("o\n");
  EXPECT_THAT(look(), ElementsAre("two"));
  std::filesystem::rename(path, path + ".old");
  append("fresh\n");
  EXPECT_THAT(look(), ElementsAre("fresh"));
  std::filesystem::resize_file(path, 0);
  EXPECT_THAT(look(), IsEmpty());
  append("x\n");
  EXPECT_THAT(look(), ElementsAre("x"));
}

TEST_F(HostAgentTest, NothingIsStartedWhereThereIsNoBinary) {
  std::filesystem::remove(folder_ + "/bin/shoal");
  EXPECT_TRUE(absl::IsNotFound(ask(HostVerb::kStart).status));
}

}  // namespace
}  // namespace shoal
