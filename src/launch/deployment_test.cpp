#include "launch/deployment.h"

#include <gmock/gmock.h>

#include "base/status.h"
#include "launch/host_link.h"
#include "launch/launcher.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr std::string_view kFile = R"(
devices:
  - {device_id: mini2, hostname: mini2.local, port: 50051, role: worker, flags: ["--threads", 2]}
  - {device_id: mini1, hostname: mini1.local, port: 50050, role: coordinator, env: {SHOAL_ISA: avx2}}
  - device_id: mini3
    hostname: 10.0.0.3
    port: 50052
    role: worker
    workdir: /srv/shoal dir
    model_root: [/a, ~/b]
    ssh: {host: 192.168.1.3, user: root, port: 2222}
model: {name: demo}
launch:
  model_root: /models
  env: {SHOAL_PACKED_CACHE: "off"}
  ssh: {user: me, identity: keys/id, known_hosts: /etc/known}
)";

absl::StatusOr<Deployment> Planned(const std::string& text, const std::string& own = "mini1.local") {
  const auto file = ParseClusterFile(text, ConfigSyntax::kYaml);
  if (!file.ok()) return file.status();
  LaunchContext context{
      .path = "/etc/shoal/my home.yaml", .text = text, .home = "/home/me", .binary = "/usr/bin/shoal"};
  context.is_this_machine = [own](const std::string& host) {
    return host == own || host.starts_with("127.");
  };
  return PlanDeployment(*file, context);
}

std::string Replaced(std::string_view part, std::string_view replacement) {
  std::string text(kFile);
  const size_t at = text.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  return text.replace(at, part.size(), replacement);
}

TEST(Deployment, TheCoordinatorComesFirstAndRanksFollowTheFile) {
  const auto deployment = Planned(std::string(kFile));
  ASSERT_TRUE(deployment.ok()) << ToString(deployment.status());
  EXPECT_EQ(deployment->name, "my_home");
  EXPECT_EQ(deployment->key_file, "/home/me/.shoal/my_home/cluster.key");
  EXPECT_EQ(deployment->api, "127.0.0.1:8000");
  ASSERT_EQ(deployment->hosts.size(), 3u);
  const HostPlan& first = deployment->hosts[0];
  EXPECT_FALSE(first.ssh.has_value());
  EXPECT_EQ(first.workdir, "~/.shoal/my_home");
  EXPECT_EQ(first.processes[0].log_name(), "api_server.log");
  EXPECT_THAT(first.processes[0].args, ElementsAre("serve", "--cluster", "cluster.yaml", "--port", "8000",
                                                   "--key-file", "cluster.key"));
  EXPECT_EQ(first.processes[0].env.size(), 2u);
  const HostPlan& second = deployment->hosts[1];
  EXPECT_EQ(second.ssh, (SshKeys{.host = "mini2.local",
                                 .user = "me",
                                 .identity = "/etc/shoal/keys/id",
                                 .known_hosts = "/etc/known"}));
  EXPECT_EQ(second.processes[0].log_name(), "mini2_server.log");
  EXPECT_THAT(second.processes[0].args,
              ElementsAre("worker", "--listen", "[::]:50051", "--name", "mini2", "--rank", "1", "--key-file",
                          "cluster.key", "--threads", "2"));
  EXPECT_EQ(second.processes[0].probe, "127.0.0.1:50051");
  const HostPlan& third = deployment->hosts[2];
  EXPECT_EQ(third.ssh->host, "192.168.1.3");
  EXPECT_EQ(third.ssh->user, "root");
  EXPECT_EQ(third.ssh->identity, "/etc/shoal/keys/id");
  EXPECT_EQ(third.workdir, "/srv/shoal dir");
  EXPECT_EQ(third.processes[0].rank, 2);
  EXPECT_EQ(third.processes[0].probe, "10.0.0.3:50052");
  EXPECT_THAT(third.processes[0].model_roots, ElementsAre("/a", "~/b"));
}

TEST(Deployment, WithCertificatesNoKeyIsMadeAndEachNodeFindsItsOwn) {
  auto deployment = Planned(Replaced("launch:\n", "launch:\n  tls_dir: certs\n"));
  ASSERT_TRUE(deployment.ok()) << ToString(deployment.status());
  EXPECT_EQ(deployment->key_file, "");
  EXPECT_EQ(deployment->tls_dir, "/etc/shoal/certs");
  for (const HostPlan& host : deployment->hosts)
    EXPECT_THAT(host.processes[0].args, testing::Contains("--tls-dir"));
  SetFingerprints(*deployment, "", {{"mini2", "one"}});
  const std::string before[] = {deployment->hosts[0].processes[0].fingerprint,
                                deployment->hosts[1].processes[0].fingerprint};
  SetFingerprints(*deployment, "", {{"mini2", "another"}});
  EXPECT_EQ(deployment->hosts[0].processes[0].fingerprint, before[0]);
  EXPECT_NE(deployment->hosts[1].processes[0].fingerprint, before[1]);
}

TEST(Deployment, OnLoopbackThereIsOneHostAndNoKey) {
  const auto deployment = Planned(R"(
devices:
  - {device_id: a, role: coordinator}
  - {device_id: b, hostname: 127.0.0.1, port: 50051, role: worker}
  - {device_id: c, hostname: 127.0.0.1, port: 50052, role: worker}
model: {name: demo}
launch: {model_root: /models, api_host: 0.0.0.0, api_port: 8100}
)");
  ASSERT_TRUE(deployment.ok()) << ToString(deployment.status());
  EXPECT_EQ(deployment->key_file, "");
  EXPECT_EQ(deployment->url, "http://localhost:8100");
  ASSERT_EQ(deployment->hosts.size(), 1u);
  EXPECT_EQ(deployment->hosts[0].processes.size(), 3u);
  EXPECT_THAT(deployment->hosts[0].processes[1].args, AllOf(Contains("127.0.0.1:50051")));
}

TEST(Deployment, WhatLacksIsNamedWithItsDevice) {
  EXPECT_THAT(Message(Planned(Replaced("  model_root: /models\n", "")).status()),
              AllOf(HasSubstr("device 'mini1'"), HasSubstr("model_root")));
  EXPECT_THAT(Message(Planned(Replaced("model: {name: demo}\n", "")).status()), HasSubstr("names no model"));
  EXPECT_THAT(Message(Planned(Replaced("device_id: mini2", "device_id: mini/2")).status()),
              HasSubstr("device 'mini/2'"));
  const std::string twice =
      Replaced("    ssh: {host: 192.168.1.3, user: root, port: 2222}", "    binary: /other");
  EXPECT_TRUE(Planned(twice).ok());
  EXPECT_THAT(Message(Planned(R"(
devices:
  - {device_id: a, role: coordinator}
  - {device_id: b, hostname: 127.0.0.1, port: 50051, role: worker, binary: /other}
model: {name: demo}
launch: {model_root: /models}
)")
                          .status()),
              HasSubstr("another binary"));
}

TEST(Deployment, FingerprintsFollowWhatAProcessIsStartedWith) {
  const auto prints = [](const std::string& text, std::string_view key) {
    auto deployment = Planned(text);
    EXPECT_TRUE(deployment.ok());
    SetFingerprints(*deployment, key);
    std::vector<std::string> all;
    for (const HostPlan& host : deployment->hosts) all.push_back(host.processes[0].fingerprint);
    return all;
  };
  const auto before = prints(std::string(kFile), "key");
  EXPECT_THAT(prints(std::string(kFile), "key"), ElementsAreArray(before));
  const auto other_key = prints(std::string(kFile), "another");
  for (size_t i = 0; i < before.size(); ++i) EXPECT_NE(before[i], other_key[i]);
  // Another flag of mini2 is news to mini2, and to the coordinator, which reads the file.
  const auto other_flag = prints(Replaced("\"--threads\", 2", "\"--threads\", 3"), "key");
  EXPECT_NE(before[0], other_flag[0]);
  EXPECT_NE(before[1], other_flag[1]);
  EXPECT_EQ(before[2], other_flag[2]);
}

TEST(SshArguments, NothingButTheCommandIsForAShellAndTheHostIsNoFlag) {
  SshTarget target{.keys = {.host = "mini2.local",
                            .user = "me",
                            .port = 2222,
                            .identity = "/a b/100%",
                            .known_hosts = "/k h"},
                   .more_options = {"StrictHostKeyChecking=no"}};
  const std::vector<std::string> argv = SshArguments(target, "exec sh");
  EXPECT_THAT(argv, Contains("UserKnownHostsFile=\"/k h\""));
  EXPECT_THAT(argv, Contains("IdentityFile=\"/a b/100%%\""));
  EXPECT_THAT(argv, Contains("BatchMode=yes"));
  const std::vector<std::string> end(argv.end() - 7, argv.end());
  EXPECT_THAT(end, ElementsAre("-p", "2222", "-l", "me", "--", "mini2.local", "exec sh"));
}

TEST(MissingLibraries, AreReadFromLdd) {
  EXPECT_THAT(
      MissingLibraries("\tlinux-vdso.so.1 (0x00007ffc)\n\tlibgrpc++.so.1.51 => not found\n"
                       "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x1)\n\tlibfmt.so.9 => not found\n"),
      ElementsAre("libgrpc++.so.1.51", "libfmt.so.9"));
}

TEST(MergeByTime, LinesWithoutATimeStayBehindTheirOwn) {
  const auto line = [](const char* device, const std::string& text) {
    return Launcher::LogLine{device, 0, text};
  };
  const auto merged = MergeByTime({{line("a", "2026-01-01 00:00:01.000 I one"), line("a", "more of one"),
                                    line("a", "2026-01-01 00:00:04.000 I four")},
                                   {line("b", "no time"), line("b", "2026-01-01 00:00:02.000 I two"),
                                    line("b", "2026-01-01 00:00:01.500 I the clock was set back")}});
  std::vector<std::string> texts;
  for (const auto& one : merged) texts.push_back(one.text);
  EXPECT_THAT(
      texts,
      ElementsAre("no time", "2026-01-01 00:00:01.000 I one", "more of one", "2026-01-01 00:00:02.000 I two",
                  "2026-01-01 00:00:01.500 I the clock was set back", "2026-01-01 00:00:04.000 I four"));
}

}  // namespace
}  // namespace shoal
