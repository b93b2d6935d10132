// What of the caches of one session goes on in the next, and who keeps copies of them.
#include <algorithm>
#include <set>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/remote_cluster.h"

namespace shoal {
namespace {

constexpr int64_t kFollowMs = 2500;  // A worker's wait for its turn, and a bit.

}  // namespace

std::vector<uint64_t> RemoteCluster::instances_of(const Plan& plan) const {
  std::vector<uint64_t> instances;
  for (const PlanNode& node : plan.nodes) {
    const std::shared_ptr<Member> member = members_.find(node.name);
    const auto facts = member == nullptr ? std::nullopt : member->status().facts;
    instances.push_back(member != nullptr && member->is_self() ? instance_
                        : facts.has_value()                    ? facts->instance
                                                               : 0);
  }
  return instances;
}

// Those of the next plan have answered just now.
std::vector<bool> RemoteCluster::still_there(const Plan& next) const {
  const std::vector<uint64_t> instances = instances_of(last_.plan);
  std::vector<bool> there;
  for (size_t i = 0; i < instances.size(); ++i) {
    const std::string& name = last_.plan.nodes[i].name;
    const std::shared_ptr<Member> member = members_.find(name);
    const bool answers = member != nullptr &&
                         (next.find_node(name).has_value() || member->status().state != MemberState::kLost);
    there.push_back(answers && instances[i] == last_.instances[i]);
  }
  return there;
}

RemoteCluster::CachePlan RemoteCluster::plan_caches(const Session& next, PipelineEngine& engine) const {
  if (last_.id == 0) return {};
  std::vector<NodeId> buddies(last_.plan.nodes.size(), NodeId{-1});
  for (const KvBuddy& buddy : last_.buddies) buddies[static_cast<size_t>(buddy.of.value)] = buddy.keeper;
  const auto supplies = LayerSupplies(last_.plan, next.plan, still_there(next.plan), buddies);
  if (!supplies.has_value()) return {};
  CachePlan caches{.keeps = KeptCaches::kAll,
                   .sources = std::vector<std::vector<OpenOrder::Source>>(next.members.size())};
  for (const LayerSupply& supply : *supplies) {
    const bool copies = supply.buddy.value >= 0;
    const PlanNode& from = last_.plan.node(supply.from);
    const PlanNode& giver = last_.plan.node(copies ? supply.buddy : supply.from);
    const std::shared_ptr<Member> member = members_.find(giver.name);  // It is still there.
    const std::string address = member->is_self() ? next.plan.nodes[0].address : member->address();
    caches.sources[static_cast<size_t>(supply.to.value)].push_back(
        {giver.name, address, supply.layers, copies ? from.name : ""});
    if (!copies || std::ranges::count(caches.lost, from.name) > 0) continue;
    caches.lost.push_back(from.name);
    caches.buddies.push_back(giver.name);
  }
  if (supplies->empty()) return caches;
  std::optional<PipelineEngine::Wanted> wanted = engine.wanted(Deadline::after(kWantedMax));
  if (!wanted.has_value() || wanted->places.empty()) return {};
  caches.keeps = KeptCaches::kWanted;
  caches.places = std::move(wanted->places);
  caches.move_max = wanted->worth;
  return caches;
}

OpenOrder RemoteCluster::order_for(const Session& session, size_t node, const CachePlan& caches) const {
  OpenOrder order{
      session.id, session.plan, NodeId{static_cast<int32_t>(node)}, session.limits, options_.expert_timeout,
      giver()};
  order_copies(session, node, order);
  if (caches.keeps == KeptCaches::kNone) return order;
  order.keep_from = last_.id;
  if (caches.keeps == KeptCaches::kAll) return order;
  order.places = caches.places;
  order.sources = caches.sources[node];
  order.move_max = caches.move_max;
  order.gives = true;
  return order;
}

void RemoteCluster::order_copies(const Session& session, size_t node, OpenOrder& order) {
  for (const KvBuddy& buddy : session.buddies) {
    const auto of = static_cast<size_t>(buddy.of.value);
    if (of == node) order.copied = true;
    if (static_cast<size_t>(buddy.keeper.value) != node) continue;
    order.follows.push_back(
        {session.plan.node(buddy.of).name, session.plan.node(buddy.of).address, buddy.bytes_max});
  }
}

std::vector<uint64_t> RemoteCluster::note_kept(const CachePlan& caches, std::span<const OpenAnswer> answers) {
  std::set<uint64_t> lacking;
  for (const OpenAnswer& answer : answers) {
    for (const int32_t index : answer.missing)
      lacking.insert(caches.places[static_cast<size_t>(index)].entry);
  }
  if (caches.lost.empty()) return {lacking.begin(), lacking.end()};
  const auto all = std::ssize(caches.places);
  const auto came = all - std::ssize(lacking);
  restored_ += came;
  LogInfo("{} of {} blocks and states that node {} had cached come from its buddy {}", came, all,
          Join(caches.lost, ", "), Join(caches.buddies, ", "));
  return {lacking.begin(), lacking.end()};
}

void RemoteCluster::note_buddies(const Session& session) {
  last_.buddies = session.buddies;
  const std::lock_guard lock(mutex_);
  buddies_.clear();
  for (const KvBuddy& buddy : session.buddies) {
    buddies_[session.plan.node(buddy.of).name] = {session.plan.node(buddy.keeper).name, buddy.bytes_max};
  }
}

absl::Status RemoteCluster::order_copies_of(const Session& session, const KvBuddy& buddy) {
  const PlanNode& of = session.plan.node(buddy.of);
  const std::string& hash = options_.weights->checkpoint().hash();
  if (buddy.keeper == Plan::kCoordinator) {
    std::vector<FollowedNode> follows;
    follows.push_back({of.name, buddy.bytes_max,
                       FollowCopies(RemoteCache{of.name, of.address, options_.key, hash}, session.id)});
    return host_->follow(own_node(), session.id, std::move(follows));
  }
  const Member& keeper = *session.members[static_cast<size_t>(buddy.keeper.value)];
  return keeper.client()->follow({hash, session.id, {{of.name, of.address, buddy.bytes_max}}},
                                 Deadline::after_ms(kFollowMs));
}

// Copies start again with those that are made from now on: what the lost buddy had taken is not kept by anybody.
bool RemoteCluster::replace_buddies(Session& session) {
  const auto is_lost = [&](NodeId node) { return session.lost[static_cast<size_t>(node.value)]; };
  std::vector<KvBuddy> buddies;
  std::vector<NodeId> without;
  for (const KvBuddy& buddy : session.buddies) {
    if (!is_lost(buddy.keeper)) {
      buddies.push_back(buddy);
    } else if (!is_lost(buddy.of)) {
      without.push_back(buddy.of);
    }
  }
  if (without.empty()) return false;
  bool any = false;
  for (const KvBuddy& buddy : options_.buddies(session.plan, session.limits, session.lost)) {
    if (std::ranges::count(without, buddy.of) == 0) continue;
    const absl::Status ordered = order_copies_of(session, buddy);
    const std::string& keeper = session.plan.node(buddy.keeper).name;
    const std::string& of = session.plan.node(buddy.of).name;
    if (!ordered.ok()) {
      LogWarning("kv buddy: node '{}' keeps no copies of node '{}': {}", keeper, of, Message(ordered));
      continue;
    }
    LogInfo("kv buddy: node '{}' keeps copies of node '{}', whose buddy was lost", keeper, of);
    buddies.push_back(buddy);
    any = true;
  }
  session.buddies = std::move(buddies);
  note_buddies(session);
  return any;
}

std::map<std::string, RemoteCluster::Buddy> RemoteCluster::buddies() const {
  const std::lock_guard lock(mutex_);
  return buddies_;
}

absl::Status RemoteCluster::give_copies(const std::string& /*model_hash*/, uint64_t session, uint64_t after,
                                        Deadline deadline, TakeCopies take) {
  return host_->give_copies(own_node(), session, after, deadline, take);
}

absl::Status RemoteCluster::give_cached(const std::string& /*model_hash*/, const CacheRequest& request,
                                        Deadline deadline, TakeImages take) {
  return host_->give_cached(own_node(), request, deadline, take);
}

}  // namespace shoal
