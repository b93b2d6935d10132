#include "launch/ring.h"

#include <gmock/gmock.h>

#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Map = std::map<std::string, std::string>;

const Map kGood = {{"RANK", "1"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "127.0.0.1"}, {"SHOAL_MODEL", "/tmp"}};

absl::StatusOr<Ring> Read(const Map& flags, const Map& environment, const Map& file, bool insecure = false) {
  const RingValues values(
      flags,
      [&](const std::string& name) {
        const auto found = environment.find(name);
        return found == environment.end() ? std::nullopt : std::optional<std::string>(found->second);
      },
      file, ".env");
  return ReadRing(values, insecure, [](const std::string& host) { return host.starts_with("127."); });
}

std::string ErrorOf(const Map& changes) {
  Map all = kGood;
  for (const auto& [name, value] : changes) all[name] = value;
  const absl::Status status = Read({}, all, {}).status();
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status));
  return Message(status);
}

TEST(Ring, FlagsComeBeforeTheEnvironmentAndThatBeforeTheFile) {
  const auto ring =
      Read({{"RANK", "2"}, {"API_PORT", ""}}, {{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"API_HOST", ""}},
           {{"RANK", "0"},
            {"WORLD_SIZE", "3"},
            {"MASTER_ADDR", "127.0.0.1"},
            {"API_PORT", "8100"},
            {"API_HOST", "::"},
            {"SHOAL_MODEL", "/tmp/"}});
  ASSERT_TRUE(ring.ok()) << ToString(ring.status());
  EXPECT_EQ(ring->rank, 2);
  EXPECT_EQ(ring->world_size, 4);
  EXPECT_EQ(ring->api_port, 8100);
  EXPECT_EQ(ring->api_host, "::");
  EXPECT_EQ(ring->model, "/tmp");
}

TEST(Ring, WhatLacksOrDoesNotFitIsNamedWithItsOrigin) {
  EXPECT_THAT(ErrorOf({{"RANK", "3"}}),
              AllOf(HasSubstr("RANK='3', from the environment"), HasSubstr("WORLD_SIZE=3")));
  EXPECT_THAT(ErrorOf({{"RANK", "-1"}}), HasSubstr("RANK='-1'"));
  EXPECT_THAT(ErrorOf({{"RANK", "one"}}), HasSubstr("RANK='one'"));
  EXPECT_THAT(ErrorOf({{"RANK", "1 "}}), HasSubstr("RANK='1 '"));
  EXPECT_THAT(ErrorOf({{"RANK", ""}}), HasSubstr("RANK is not set"));
  EXPECT_THAT(ErrorOf({{"WORLD_SIZE", "0"}}), HasSubstr("WORLD_SIZE='0'"));
  EXPECT_THAT(ErrorOf({{"WORLD_SIZE", "99999999999999"}}), HasSubstr("WORLD_SIZE"));
  EXPECT_THAT(ErrorOf({{"MASTER_ADDR", ""}}), HasSubstr("MASTER_ADDR is not set"));
  EXPECT_THAT(ErrorOf({{"MASTER_ADDR", "-x"}}), HasSubstr("MASTER_ADDR='-x'"));
  EXPECT_THAT(ErrorOf({{"MASTER_ADDR", "http://mini1"}}), HasSubstr("MASTER_ADDR"));
  EXPECT_THAT(ErrorOf({{"MASTER_PORT", "70000"}}), HasSubstr("MASTER_PORT"));
  EXPECT_THAT(ErrorOf({{"RANK", "0"}, {"API_PORT", "29500"}}), HasSubstr("two ports"));
  EXPECT_THAT(ErrorOf({{"SHOAL_MODEL", "/no/such/model"}}), HasSubstr("SHOAL_MODEL='/no/such/model'"));
  EXPECT_THAT(ErrorOf({{"MASTER_ADDR", "mini1.local"}}), HasSubstr("--key-file"));
  EXPECT_EQ(ErrorOf({{"MASTER_ADDR", "mini1.local"}, {"SHOAL_KEY_FILE", "key"}}), "");
  EXPECT_EQ(ErrorOf({{"MASTER_ADDR", "mini1.local"}, {"SHOAL_TLS_DIR", "certs"}}), "");
}

TEST(Ring, RankZeroServesAndTheOthersJoin) {
  Ring ring{.rank = 0,
            .world_size = 3,
            .master_addr = "mini1.local",
            .api_host = "0.0.0.0",
            .api_port = 8100,
            .model = "/m/demo",
            .key_file = "key"};
  EXPECT_THAT(
      RingCommand(ring, {"--threads", "2"}),
      ElementsAre("serve", "--model", "/m/demo", "--port", "8100", "--host", "0.0.0.0", "--join-listen",
                  "[::]:29500", "--await-ranks", "2", "--key-file", "key", "--threads", "2"));
  ring.rank = 2;
  EXPECT_THAT(RingCommand(ring, {}),
              ElementsAre("worker", "--join", "mini1.local:29500", "--rank", "2", "--name", "rank-2",
                          "--model-root", "/m", "--key-file", "key"));
  ring.key_file.clear();
  ring.tls_dir = "certs";
  EXPECT_THAT(RingCommand(ring, {}),
              ElementsAre("worker", "--join", "mini1.local:29500", "--rank", "2", "--name", "rank-2",
                          "--model-root", "/m", "--tls-dir", "certs"));
}

TEST(Ring, OneMachineOnlyServes) {
  const auto ring = Read({}, {}, {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"SHOAL_MODEL", "/tmp"}});
  ASSERT_TRUE(ring.ok()) << ToString(ring.status());
  EXPECT_THAT(RingCommand(*ring, {}), ElementsAre("serve", "--model", "/tmp", "--port", "8000"));
}

}  // namespace
}  // namespace shoal
