#include "app/cluster_status.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "cpu/topology.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kAskMs = 2000;
constexpr int64_t kStatusMs = 700;  // A status page waits no longer for a node that is away.

absl::StatusOr<WorkerFacts> AskUntil(WorkerClient& client, Deadline deadline) {
  while (true) {
    absl::StatusOr<WorkerFacts> facts = client.describe(
        Deadline::min(Deadline::after_ms(kAskMs), Deadline{deadline.at + std::chrono::seconds(1)}));
    const bool again = facts.status().code() == absl::StatusCode::kUnavailable ||
                       facts.status().code() == absl::StatusCode::kDeadlineExceeded;
    if (facts.ok() || !again || deadline.expired()) return facts;
    LogInfo("waiting for the worker at {}", client.address());
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
}

Json NodeJson(const Plan& plan, NodeId id, const NodeStatus& status, const std::vector<NodeFacts>& facts) {
  const PlanNode& node = plan.node(id);
  Json out = {{"name", node.name},
              {"rank", id.value},
              {"address", node.address},
              {"role", id == Plan::kCoordinator ? "coordinator" : "worker"},
              {"state", status.state}};
  if (!status.error.empty()) out["error"] = status.error;
  const Range layers = plan.layers_of(id);
  out["layers"] = layers.empty() ? Json(nullptr) : Json{layers.begin, layers.end};
  int64_t experts = 0;
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    experts += static_cast<int64_t>(plan.experts_held(id, LayerId{layer}).size());
  }
  out["experts"] = experts;
  const auto declared =
      std::find_if(facts.begin(), facts.end(), [&](const NodeFacts& fact) { return fact.name == node.name; });
  if (declared != facts.end()) {
    out["memory_bytes"] = declared->memory_bytes;
    out["device"] = declared->device;
  }
  if (!status.facts.has_value()) return out;
  const WorkerFacts& said = *status.facts;
  out["memory_bytes"] = said.memory_bytes;
  out["device"] = said.device;
  out["isa"] = said.isa;
  out["threads"] = said.threads;
  out["weight_bytes"] = said.weight_bytes;
  out["resident_bytes"] = said.resident_bytes;
  out["steps"] = said.steps;
  out["expert_calls_served"] = said.expert_calls;
  return out;
}

}  // namespace

absl::Status DescribeThisNode(Placement& placement, const ComputeFlags& compute, const std::string& memory) {
  const Topology machine = ReadTopology();
  NodeFacts& own = placement.nodes[0];
  if (own.memory_bytes == 0) own.memory_bytes = machine.memory_bytes;
  if (!memory.empty()) {
    ASSIGN_OR_RETURN(own.memory_bytes, ParseBytes(memory));
  }
  if (own.compute == 0) own.compute = compute.chosen_threads();
  if (own.device.empty()) own.device = machine.cpu_name;
  return absl::OkStatus();
}

absl::Status AskWorkers(Placement& placement, const std::optional<KeyAuth>& key, Deadline deadline) {
  const auto taken = [&](const std::string& name) {
    return std::any_of(placement.nodes.begin(), placement.nodes.end(),
                       [&](const NodeFacts& node) { return node.name == name; });
  };
  for (size_t i = 1; i < placement.nodes.size(); ++i) {
    NodeFacts& node = placement.nodes[i];
    if (node.address.empty()) continue;
    WorkerClient client(node.address, key);
    const absl::StatusOr<WorkerFacts> facts = AskUntil(client, deadline);
    RETURN_IF_ERROR(facts.status());
    // A worker named only by its address says its own name; several on one host would share the host's.
    if (node.name == node.address && !facts->name.empty() && !taken(facts->name)) node.name = facts->name;
    if (node.memory_bytes == 0) node.memory_bytes = facts->memory_bytes;
    if (node.compute == 0) node.compute = facts->threads;
    if (node.device.empty()) node.device = facts->device;
  }
  return absl::OkStatus();
}

std::string ClusterStatusJson(RemoteCluster& cluster, const PipelineEngine& engine, const OpenedModel& model,
                              const std::vector<NodeFacts>& facts) {
  const Plan& plan = cluster.plan();
  const Engine::State state = engine.state();
  const EngineLimits& limits = state.limits;
  std::vector<NodeStatus> nodes = cluster.status(Deadline::after_ms(kStatusMs));
  Json out = {{"status", state.status.ok() ? "up" : "down"}};
  if (!state.status.ok()) out["error"] = Message(state.status);
  out["generation"] = state.generation;
  out["model"] = {{"name", model.facts.name},
                  {"hash", model.facts.hash},
                  {"layers", plan.layers()},
                  {"context", model.spec.max_positions},
                  {"activations", Name(plan.activations)}};
  out["cache"] = {{"dtype", Name(plan.kv_dtype)},
                  {"blocks", limits.blocks},
                  {"positions_per_block", kBlockPositions},
                  {"state_slots", limits.state_slots}};
  out["nodes"] = Json::array();
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    Json node = NodeJson(plan, NodeId{static_cast<int32_t>(i)}, nodes[i], facts);
    if (i == 0) {
      node["resident_bytes"] = ResidentBytes();
      if (const NodeModel* own = cluster.own_model()) node["weight_bytes"] = own->bytes();
    }
    out["nodes"].push_back(std::move(node));
  }
  out["plan"] = plan.notes;
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
