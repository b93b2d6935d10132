#include "plan/cluster_file.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "base/file.h"
#include "base/text.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kJson = R"({
  "devices": [
    {"device_id": "mini1", "hostname": "mini1.local", "port": 50051, "role": "coordinator",
     "capabilities": {"memory_gb": 16, "gpu_cores": 10}},
    {"device_id": "mini2", "hostname": "mini2.local", "port": 50051, "role": "worker",
     "capabilities": {"memory_gb": 8, "gpu_cores": 10}}],
  "model": {"name": "Qwen3-1.7B-8bit", "provider": "mlx-community"},
  "sharding": {"strategy": "custom", "custom_proportions": [0.7, 0.3]}
})";

constexpr std::string_view kYaml = R"(# The coordinator need not come first.
devices:
  - device_id: mini2
    hostname: mini2.local
    port: 50051
    role: worker
    capabilities: {memory_gb: 8, gpu_cores: 10}
  - device_id: mini1
    role: coordinator
    capabilities:
      memory_gb: 16
      cpu_cores: 8
      device: "Mac mini M4"
    holds_experts: false
sharding:
  layers: [5, 2]
  experts:
    strategy: explicit
    lists: {mini2: 0-7}
)";

std::string JsonError(std::string_view part, std::string_view replacement) {
  std::string text(kJson);
  const size_t at = text.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  text.replace(at, part.size(), replacement);
  return ToString(ParseClusterFile(text, ConfigSyntax::kJson).status());
}

std::string YamlError(std::string_view part, std::string_view replacement) {
  std::string text(kYaml);
  const size_t at = text.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  text.replace(at, part.size(), replacement);
  return ToString(ParseClusterFile(text, ConfigSyntax::kYaml).status());
}

TEST(ClusterFile, JsonGivesNodesModelAndRequest) {
  const auto file = ParseClusterFile(kJson, ConfigSyntax::kJson);
  ASSERT_TRUE(file.ok()) << ToString(file.status());
  ASSERT_EQ(file->nodes.size(), 2u);
  EXPECT_EQ(file->nodes[0].name, "mini1");
  EXPECT_EQ(file->nodes[1].address, "mini2.local:50051");
  EXPECT_EQ(file->nodes[0].memory_bytes, int64_t{16} << 30);
  EXPECT_EQ(file->nodes[1].compute, 10);
  EXPECT_EQ(file->model_name, "Qwen3-1.7B-8bit");
  EXPECT_EQ(file->model_provider, "mlx-community");
  EXPECT_EQ(file->request.strategy, LayerStrategy::kCustom);
  EXPECT_THAT(file->request.proportions, ElementsAre(0.7, 0.3));
}

TEST(ClusterFile, TheCoordinatorAndItsNumbersComeFirst) {
  const auto file = ParseClusterFile(kYaml, ConfigSyntax::kYaml);
  ASSERT_TRUE(file.ok()) << ToString(file.status());
  EXPECT_EQ(file->nodes[0].name, "mini1");
  EXPECT_EQ(file->nodes[0].address, "");
  EXPECT_EQ(file->nodes[0].compute, 8);
  EXPECT_EQ(file->nodes[0].device, "Mac mini M4");
  EXPECT_FALSE(file->nodes[0].may_hold_experts);
  EXPECT_EQ(file->nodes[1].name, "mini2");
  EXPECT_EQ(file->request.strategy, LayerStrategy::kSplit);
  EXPECT_THAT(file->request.split, ElementsAre(2, 5));
  EXPECT_EQ(file->request.experts.lists[1].size(), 8u);
  EXPECT_TRUE(file->request.experts.lists[0].empty());
}

TEST(ClusterFile, WithoutASectionThePlannerChoosesAndRatesMayBeDeclared) {
  const auto file = ParseClusterFile(R"({"devices": [
      {"device_id": "a", "role": "coordinator", "capabilities": {"read_gbs": 30.5, "int8_gops": 400}},
      {"device_id": "b", "role": "worker", "hostname": "b", "port": 1}]})",
                                     ConfigSyntax::kJson);
  ASSERT_TRUE(file.ok()) << ToString(file.status());
  EXPECT_EQ(file->request.strategy, LayerStrategy::kFastest);
  EXPECT_FALSE(file->request.experts.asked);
  EXPECT_EQ(file->nodes[0].rates->read_gbs, 30.5);
  EXPECT_EQ(file->nodes[0].rates->f32_gflops, 0);  // Left to be measured.
  EXPECT_FALSE(file->nodes[1].rates.has_value());

  const auto with = [](const std::string& sharding) {
    return ParseClusterFile(
        R"({"devices": [{"device_id": "a", "role": "coordinator"}], "sharding": )" + sharding + "}",
        ConfigSyntax::kJson);
  };
  const auto asked =
      with(R"({"objective": "ttft", "use_nodes": "best", "experts": "round_robin", "wire": "q8"})");
  ASSERT_TRUE(asked.ok()) << ToString(asked.status());
  EXPECT_EQ(asked->request.objective, Objective::kTtft);
  EXPECT_EQ(asked->request.node_use, NodeUse::kBest);
  EXPECT_TRUE(asked->request.experts.asked);
  EXPECT_EQ(asked->request.wire_dtype, Plan::WireDtype::kQ8);
  EXPECT_THAT(Message(with(R"({"objective": "latencies"})").status()),
              HasSubstr("sharding.objective: objective 'latencies' is unknown; did you mean latency?"));
  EXPECT_THAT(Message(with(R"({"use_nodes": "some"})").status()), HasSubstr("sharding.use_nodes"));
  EXPECT_THAT(Message(with(R"({"wire": "q9"})").status()),
              HasSubstr("sharding.wire: wire format 'q9': expected exact or f16 or q8"));
}

TEST(ClusterFile, JsonAndYamlGiveTheSameNodesAndRequest) {
  const auto json = ParseClusterFile(kJson, ConfigSyntax::kJson);
  const auto yaml = ParseClusterFile(kJson, ConfigSyntax::kYaml);  // JSON is YAML.
  ASSERT_TRUE(json.ok() && yaml.ok()) << ToString(yaml.status());
  EXPECT_EQ(json->nodes[1].address, yaml->nodes[1].address);
  EXPECT_EQ(json->nodes[1].memory_bytes, yaml->nodes[1].memory_bytes);
  EXPECT_EQ(json->request.proportions, yaml->request.proportions);
}

TEST(ClusterFile, ExpertsMayBeATextOrAMap) {
  const auto with = [](std::string_view experts) {
    const std::string text = fmt::format(
        R"({{"devices": [{{"device_id": "a", "role": "coordinator"}}], "sharding": {{"experts": {}}}}})",
        experts);
    const auto file = ParseClusterFile(text, ConfigSyntax::kJson);
    EXPECT_TRUE(file.ok()) << ToString(file.status());
    return file.ok() ? file->request.experts : ExpertRequest{};
  };
  EXPECT_EQ(with("\"round_robin\"").strategy, ExpertStrategy::kRoundRobin);
  EXPECT_EQ(with("\"random:9\"").seed, 9u);
  EXPECT_EQ(with(R"({"strategy": "even", "over_nodes": 1})").over_nodes, 1);
  EXPECT_THAT(with(R"({"strategy": "explicit", "lists": {"a": [2, 0, 1]}})").lists,
              ElementsAre(ElementsAre(2, 0, 1)));
}

TEST(ClusterFile, ErrorsNameThePlaceOfAnUnknownKeyAndTheNearestKnownOne) {
  EXPECT_THAT(JsonError("\"memory_gb\": 8", "\"memory_g\": 8"),
              HasSubstr("devices[1].capabilities.memory_g: unknown key; did you mean memory_gb?"));
  EXPECT_THAT(JsonError("\"sharding\"", "\"shardin\""),
              HasSubstr("shardin: unknown key; did you mean sharding?"));
  EXPECT_THAT(JsonError("\"provider\"", "\"zzzzzzzzzzzzzzzz\""),
              HasSubstr("model.zzzzzzzzzzzzzzzz: unknown key; known here: name, provider"));
  EXPECT_THAT(YamlError("hostname:", "hostnam:"),
              HasSubstr("devices[0].hostnam (line 4): unknown key; did you mean hostname?"));
}

TEST(ClusterFile, ErrorsNameThePlaceOfAWrongTypeOrValue) {
  EXPECT_THAT(JsonError("\"port\": 50051", "\"port\": \"50051\""),
              HasSubstr("devices[0].port: expected a whole number from 1 to 65535, got the text '50051'"));
  EXPECT_THAT(JsonError("\"port\": 50051", "\"port\": 70000"), HasSubstr("devices[0].port"));
  EXPECT_THAT(JsonError("\"port\": 50051", "\"port\": 0"), HasSubstr("devices[0].port"));
  EXPECT_THAT(JsonError("\"memory_gb\": 16", "\"memory_gb\": -16"),
              HasSubstr("devices[0].capabilities.memory_gb: expected a number"));
  EXPECT_THAT(JsonError("\"memory_gb\": 16", "\"memory_gb\": \"16GB\""), HasSubstr("got the text '16GB'"));
  EXPECT_THAT(JsonError("\"gpu_cores\": 10", "\"gpu_cores\": true"),
              HasSubstr("devices[0].capabilities.gpu_cores"));
  EXPECT_THAT(JsonError("\"role\": \"worker\"", "\"role\": \"wroker\""),
              HasSubstr("devices[1].role: expected coordinator or worker"));
  EXPECT_THAT(JsonError("\"strategy\": \"custom\"", "\"strategy\": \"costum\""),
              HasSubstr("sharding.strategy: strategy 'costum' is unknown; did you mean custom?"));
  EXPECT_THAT(JsonError("[0.7, 0.3]", "[0.7]"),
              HasSubstr("sharding.custom_proportions: expected one number per device (2), got 1"));
  EXPECT_THAT(JsonError("[0.7, 0.3]", "[0.7, \"0.3\"]"),
              HasSubstr("sharding.custom_proportions[1]: expected a number"));
  EXPECT_THAT(JsonError("\"strategy\": \"custom\"", "\"strategy\": \"uniform\""),
              HasSubstr("belong together"));
  EXPECT_THAT(JsonError("\"hostname\": \"mini2.local\", ", ""),
              HasSubstr("devices[1]: the key hostname is missing"));
  EXPECT_THAT(JsonError("\"mini2.local\"", "\"mini2.local:1\""),
              HasSubstr("devices[1].hostname: expected a host name"));
  EXPECT_THAT(YamlError("port: 50051", "port: fifty"),
              HasSubstr("devices[0].port (line 5): expected a whole number"));
  EXPECT_THAT(YamlError("device_id: mini2", "device_id: 2"),
              HasSubstr("expected a text (put it in quotes), got the number 2"));
  EXPECT_THAT(YamlError("device_id: mini2", "device_id:"),
              HasSubstr("devices[0].device_id (line 3): expected a text, got nothing"));
  EXPECT_THAT(YamlError("mini2: 0-7", "mini3: 0-7"),
              HasSubstr("no device has this device_id; did you mean mini2?"));
  EXPECT_THAT(YamlError("mini2: 0-7", "mini2: 7-0"),
              HasSubstr("sharding.experts.lists.mini2 (line 19): ids '7-0'"));
}

TEST(ClusterFile, DevicesMustBeDistinctWithOneCoordinator) {
  EXPECT_THAT(JsonError("\"mini2\"", "\"mini1\""),
              HasSubstr("devices[1]: two devices have the device_id 'mini1'"));
  EXPECT_THAT(JsonError("\"mini2.local\"", "\"mini1.local\""),
              HasSubstr("'mini1' and 'mini2' both listen at mini1.local:50051"));
  EXPECT_THAT(JsonError("\"worker\"", "\"coordinator\""), HasSubstr("devices[1]: a second coordinator"));
  EXPECT_THAT(JsonError("\"coordinator\"", "\"worker\""),
              HasSubstr("devices: no device has the role coordinator"));
}

TEST(ClusterFile, RefusesTextsThatAreNotATreeWithinTheLimits) {
  const auto yaml = [](std::string_view text) {
    return ToString(ParseClusterFile(text, ConfigSyntax::kYaml).status());
  };
  const auto json = [](std::string_view text) {
    return ToString(ParseClusterFile(text, ConfigSyntax::kJson).status());
  };
  EXPECT_THAT(json("{\"devices\": [}"), HasSubstr("not valid JSON: parse error at line 1, column 14"));
  EXPECT_THAT(json("[]"), HasSubstr("expected a map, got a list of 0"));
  EXPECT_THAT(json("{\"devices\": 1e999}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(json("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(json("{\"model\": 1, \"model\": 2}"), HasSubstr("the key 'model' appears twice"));
  EXPECT_THAT(json(std::string(40, '[')), HasSubstr("nested more than 16 deep"));
  EXPECT_THAT(yaml(std::string(40, '[') + std::string(40, ']')), HasSubstr("nested more than 16 deep"));
  EXPECT_THAT(yaml(std::string(400000, '[')), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(yaml("a: 1\na: 2\n"), HasSubstr("line 2: the key 'a' appears twice"));
  EXPECT_THAT(yaml("a: &x 1\nb: *x\n"), HasSubstr("line 1: anchors"));
  EXPECT_THAT(yaml("a: *x\n"), HasSubstr("not YAML: line 1"));
  EXPECT_THAT(yaml("a: !!binary 1\n"), HasSubstr("the tag"));
  EXPECT_THAT(yaml("a: 1\n--- \nb: 2\n"), HasSubstr("more than one YAML document"));
  EXPECT_THAT(yaml("a: [1, 2\n"), HasSubstr("not YAML: line"));
  EXPECT_THAT(yaml("? [a, b]\n: 1\n"), HasSubstr("line 1: a key must be a text"));
  EXPECT_THAT(yaml(""), HasSubstr("empty"));
  EXPECT_THAT(yaml(std::string((1 << 20) + 1, ' ')), HasSubstr("at most 1.0 MiB"));
  std::string many = "[";
  for (int i = 0; i < 70000; ++i) many += "1,";
  EXPECT_THAT(yaml(many + "1]"), HasSubstr("more than 65536 values"));
}

TEST(ClusterFile, ExamplesOfTheProjectMakePlans) {
  for (const char* name : {"two-minis.json", "three-nodes.yaml"}) {
    const std::string path = fmt::format("{}/deploy/examples/{}", SHOAL_SOURCE_DIR, name);
    const auto file = ReadClusterFile(path);
    ASSERT_TRUE(file.ok()) << ToString(file.status());
    ModelFacts model{.name = file->model_name, .hidden = 64, .top_k = 2};
    model.layers.assign(28, {.bytes = 1000, .experts = 16, .expert_bytes = 10});
    EXPECT_TRUE(MakePlan(model, file->nodes, file->request).ok()) << path;
  }
}

TEST(ClusterFile, IsDistinguishedFromAPlanFile) {
  const std::string path = ::testing::TempDir() + "cluster_file_test.json";
  const auto is = [&](std::string_view text) {
    EXPECT_TRUE(WriteTextFile(path, text).ok());
    return IsClusterFile(path);
  };
  EXPECT_TRUE(is(kJson));
  EXPECT_TRUE(is("{\"devices\": 1, \"devices\": 2}"));  // ReadClusterFile reports the repeated key.
  EXPECT_FALSE(is(PlanToJson({})));
  EXPECT_FALSE(is("[\"devices\"]"));
  EXPECT_FALSE(is("{\"devices\": ["));
  std::filesystem::remove(path);
  EXPECT_FALSE(IsClusterFile(path));
  EXPECT_TRUE(IsClusterFile("/nonexistent/cluster.yml"));
}

TEST(ClusterFile, ErrorsNameTheFile) {
  EXPECT_THAT(ToString(ReadClusterFile("/nonexistent/cluster.yaml").status()),
              HasSubstr("NOT_FOUND: /nonexistent/cluster.yaml"));
  EXPECT_THAT(ToString(ReadClusterFile("cluster.toml").status()),
              HasSubstr("cluster.toml: a cluster file ends with"));
}

constexpr std::string_view kLaunch = R"(
launch:
  name: home
  key_file: ~/key
  api_host: 0.0.0.0
  api_port: 8100
  ssh: {user: me, port: 2222, identity: ~/.ssh/id, known_hosts: hosts}
  workdir: ~/shoal
  model_root: /models
  env: {A: 1, B: "x y", C: true}
  flags: [--threads, 2]
devices:
  - {device_id: b, hostname: b.local, port: 1, role: worker, ssh: {host: 10.0.0.2, user: root}, flags: [--memory, 1GiB],
     env: {A: 2}, model_root: [/a, /b], binary: ./shoal, workdir: /srv/x}
  - {device_id: a, role: coordinator}
)";

std::string LaunchError(std::string_view part, std::string_view replacement) {
  std::string text(kLaunch);
  const size_t at = text.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  text.replace(at, part.size(), replacement);
  return ToString(ParseClusterFile(text, ConfigSyntax::kYaml).status());
}

TEST(ClusterFile, ADeviceSaysWhatDiffersFromTheSectionLaunch) {
  const auto file = ParseClusterFile(kLaunch, ConfigSyntax::kYaml);
  ASSERT_TRUE(file.ok()) << ToString(file.status());
  EXPECT_EQ(file->launch.name, "home");
  EXPECT_EQ(file->launch.api_host, "0.0.0.0");
  EXPECT_EQ(file->launch.api_port, 8100);
  ASSERT_EQ(file->launch.devices.size(), 2u);
  const DeviceLaunch& coordinator = file->launch.devices[0];
  EXPECT_EQ(coordinator.ssh,
            (SshKeys{.user = "me", .port = 2222, .identity = "~/.ssh/id", .known_hosts = "hosts"}));
  EXPECT_EQ(coordinator.workdir, "~/shoal");
  EXPECT_THAT(coordinator.flags, ElementsAre("--threads", "2"));
  EXPECT_EQ(coordinator.env, (std::map<std::string, std::string>{{"A", "1"}, {"B", "x y"}, {"C", "true"}}));
  const DeviceLaunch& worker = file->launch.devices[1];
  EXPECT_EQ(worker.ssh->host, "10.0.0.2");
  EXPECT_EQ(worker.ssh->user, "root");
  EXPECT_EQ(worker.ssh->port, 2222);
  EXPECT_EQ(worker.workdir, "/srv/x");
  EXPECT_EQ(worker.binary, "./shoal");
  EXPECT_THAT(worker.model_roots, ElementsAre("/a", "/b"));
  EXPECT_THAT(worker.flags, ElementsAre("--threads", "2", "--memory", "1GiB"));
  EXPECT_EQ(worker.env.at("A"), "2");
}

TEST(ClusterFile, WhatCouldBeTakenForAFlagOrACommandIsRefused) {
  EXPECT_THAT(LaunchError("user: me", "user: -oProxyCommand=x"), HasSubstr("launch.ssh.user (line 7)"));
  EXPECT_THAT(LaunchError("user: me", "user: 'a b'"), HasSubstr("launch.ssh.user"));
  EXPECT_THAT(LaunchError("host: 10.0.0.2", "host: -v"), HasSubstr("devices[0].ssh.host"));
  EXPECT_THAT(LaunchError("host: 10.0.0.2", "host: 'a;b'"), HasSubstr("devices[0].ssh.host"));
  EXPECT_THAT(LaunchError("b.local", "-b.local"), HasSubstr("devices[0].hostname"));
  EXPECT_THAT(LaunchError("identity: ~/.ssh/id", "identity: 'a\"b'"), HasSubstr("launch.ssh.identity"));
  EXPECT_THAT(LaunchError("name: home", "name: ../home"), HasSubstr("launch.name"));
  EXPECT_THAT(LaunchError("A: 2", "A=B: 2"), HasSubstr("devices[0].env.A=B"));
  EXPECT_THAT(LaunchError("workdir: /srv/x", "workdir: x"), HasSubstr("devices[0].workdir"));
  EXPECT_THAT(LaunchError("workdir: /srv/x", "workdir: /"), HasSubstr("devices[0].workdir"));
  EXPECT_THAT(LaunchError("workdir: ~/shoal", "workdir: \"~/a\\nb\""), HasSubstr("launch.workdir"));
}

TEST(ClusterFile, UnknownLaunchKeysAreNamedWithTheNearest) {
  EXPECT_THAT(LaunchError("identity:", "identiti:"), HasSubstr("did you mean identity?"));
  EXPECT_THAT(LaunchError("api_port:", "api_prot:"), HasSubstr("did you mean api_port?"));
  EXPECT_THAT(LaunchError("binary:", "binry:"), HasSubstr("did you mean binary?"));
}

}  // namespace
}  // namespace shoal
