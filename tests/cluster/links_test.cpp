// Links between members: which are measured, and which are checked when a session is to open.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/link_table.h"
#include "cluster/remote_cluster.h"
#include "cluster/worker_node.h"
#include "numeric/version.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::unique_ptr<WorkerNode> StartWorker(const std::string& name) {
  WorkerNode::Options options;
  options.name = name;
  options.listen = "127.0.0.1:0";
  auto worker = WorkerNode::Start(std::move(options));
  SHOAL_CHECK(worker.ok());
  return *std::move(worker);
}

TEST(LinkTable, KeepsTheLinksOfThoseWhoAreMembersNow) {
  std::vector<std::unique_ptr<WorkerNode>> workers;
  std::vector<JoinedMember> joined;
  for (const std::string name : {"a", "b", "c"}) {
    workers.push_back(StartWorker(name));
    joined.push_back({.name = name, .address = fmt::format("127.0.0.1:{}", workers.back()->port())});
  }
  Members members({{"coordinator", ""}}, std::nullopt, false, CpuNumericsClass());
  LinkTable table;
  const auto measure = [&] {
    members.follow(joined);
    ASSERT_EQ(members.describe(Deadline::after_ms(20000)), absl::OkStatus());
    table.measure(members, Deadline::after_ms(20000));
  };
  measure();
  EXPECT_EQ(table.size(), 6u);
  // One leaves, another comes: as with a worker that gets a new port with each start.
  joined.erase(joined.begin());
  measure();
  EXPECT_EQ(table.size(), 3u);
  EXPECT_EQ(table.links(members).size(), 3u);
}

TEST(NewLinks, ThoseThatWereCheckedAreNotCheckedAgain) {
  const std::vector<PeerToCheck> peers = {{"coordinator", "h:1", 1}, {"a", "h:2", 2}, {"b", "h:3", 3}};
  const auto names = [&](size_t from, const std::vector<bool>& known) {
    std::vector<std::string> to;
    for (const PeerToCheck& peer : NewLinks(peers, from, known)) to.push_back(peer.name);
    return to;
  };
  EXPECT_THAT(names(1, {false, false, false}), ElementsAre("coordinator", "b"));
  EXPECT_THAT(names(1, {true, true, false}), ElementsAre("b"));
  EXPECT_THAT(names(2, {true, true, false}), ElementsAre("coordinator", "a"));
  EXPECT_THAT(names(1, {true, true, true}), IsEmpty());
}

}  // namespace
}  // namespace shoal
