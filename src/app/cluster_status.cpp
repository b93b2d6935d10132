#include "app/cluster_status.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/profile_store.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "cpu/topology.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kStatusMs = 700;  // A status page waits no longer for a node that is away.

void AddExpertTier(const std::optional<ExpertTierStats>& tier, Json& node) {
  if (!tier.has_value()) return;
  node["expert_tier"] = {{"resident_bytes", tier->resident_bytes},
                         {"total_bytes", tier->total_bytes},
                         {"hits", tier->hits},
                         {"misses", tier->misses},
                         {"bytes_read", tier->bytes_read},
                         {"packed_again", tier->packed_again},
                         {"read_ahead", tier->ahead},
                         {"read_ahead_used", tier->ahead_used},
                         {"read_ahead_wasted", tier->ahead_wasted},
                         {"wait_s", static_cast<double>(tier->wait_ns) * 1e-9}};
}

/// What a plan gives the member; nulls where no plan was made so far, or not for it.
void AddPart(const Plan* plan, const std::string& name, Json& out) {
  const std::optional<NodeId> id = plan == nullptr ? std::nullopt : plan->find_node(name);
  out["rank"] = id.has_value() ? Json(id->value) : Json(nullptr);
  const Range layers = id.has_value() ? plan->layers_of(*id) : Range{};
  out["layers"] = layers.empty() ? Json(nullptr) : Json{layers.begin, layers.end};
  int64_t experts = 0;
  int64_t segments = 0;
  for (int32_t layer = 0; id.has_value() && layer < plan->layers(); ++layer) {
    experts += static_cast<int64_t>(plan->experts_held(*id, LayerId{layer}).size());
    segments += static_cast<int64_t>(plan->segments_held(*id, LayerId{layer}).size());
  }
  out["experts"] = experts;
  if (segments > 0) out["segments"] = segments;
}

void AddAbsence(const std::vector<LeftOutMember>& left_out, Json& node) {
  const auto out = std::ranges::find(left_out, node["name"].get<std::string>(), &LeftOutMember::name);
  if (out == left_out.end()) return;
  const auto seconds = std::chrono::floor<std::chrono::seconds>(Clock::now() - out->since).count();
  node["out"] = {
      {"since", UnixSeconds() - seconds}, {"for_s", seconds}, {"why", out->why}, {"drained", out->drained}};
}

/// Of other nodes' caches, that it keeps as their buddy.
void AddCopies(int64_t copies, int64_t bytes, Json& node) {
  if (copies > 0) node["kv_copies"] = {{"blocks", copies}, {"bytes", bytes}};
}

Json NodeJson(const Plan* plan, const MemberStatus& status, const std::vector<NodeFacts>& facts) {
  Json out = {{"name", status.name},
              {"address", status.address},
              {"role", status.address.empty() ? "coordinator" : "worker"},
              {"state", Name(status.state)}};
  if (status.joined) out["joined"] = true;
  if (!status.error.empty()) out["error"] = status.error;
  if (status.state == MemberState::kLoading)
    out["loading"] = {{"bytes", status.load_done}, {"total_bytes", status.load_total}};
  AddPart(plan, status.name, out);
  const auto declared = std::find_if(facts.begin(), facts.end(),
                                     [&](const NodeFacts& fact) { return fact.name == status.name; });
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
  out["weights_sent_bytes"] = said.weights_sent_bytes;
  if (said.fetch_total_bytes > 0)
    out["fetching"] = {{"bytes", said.fetched_bytes}, {"total_bytes", said.fetch_total_bytes}};
  AddCopies(said.copies, said.copies_bytes, out);
  out["steps"] = said.steps;
  out["expert_calls_served"] = said.expert_calls;
  AddExpertTier(said.expert_tier, out);
  return out;
}

/// Measured rates, where nothing was declared: each number by itself.
void FillRates(const std::optional<ThreadRates>& measured, NodeFacts& node) {
  if (!measured.has_value()) return;
  const ThreadRates declared = node.rates.value_or(ThreadRates{});
  node.rates = measured;
  if (declared.read_gbs > 0) node.rates->read_gbs = declared.read_gbs;
  if (declared.int8_gops > 0) {
    node.rates->int8_few_gops *= declared.int8_gops / node.rates->int8_gops;
    node.rates->int8_gops = declared.int8_gops;
  }
  if (declared.f32_gflops > 0) node.rates->f32_gflops = declared.f32_gflops;
}

}  // namespace

absl::Status DescribeThisNode(Placement& placement, const ComputeFlags& compute, const std::string& memory,
                              const ProfileFlags* profile) {
  Topology machine = ReadTopology();
  // What it holds already is its own: another model is planned for, or the same again.
  machine.memory_available_bytes =
      std::min(machine.memory_bytes, machine.memory_available_bytes + ResidentBytes());
  NodeFacts& own = placement.nodes[0];
  if (own.memory_bytes == 0) own.memory_bytes = UsableMemory(machine);
  if (profile != nullptr) FillRates(RatesOfThisMachine(compute, *profile), own);
  if (!memory.empty()) {
    ASSIGN_OR_RETURN(own.memory_bytes, ParseBytes(memory));
  }
  if (own.compute == 0) own.compute = compute.chosen_threads();
  if (own.device.empty()) own.device = machine.cpu_name;
  return absl::OkStatus();
}

void ApplyFacts(const std::vector<MemberStatus>& members, std::vector<NodeFacts>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!members[i].facts.has_value()) continue;
    NodeFacts& node = nodes[i];
    const WorkerFacts& facts = *members[i].facts;
    node.name = members[i].name;
    if (node.memory_bytes == 0) node.memory_bytes = facts.memory_bytes;
    node.expert_memory_bytes = facts.expert_memory;
    if (node.compute == 0) node.compute = facts.threads;
    if (node.device.empty()) node.device = facts.device;
    FillRates(facts.rates, node);
  }
}

std::string ClusterStatusJson(RemoteCluster& cluster, const PipelineEngine& engine, const Plan* plan,
                              const OpenedModel& model, const PlannedNodes& planned) {
  const Engine::State state = engine.state();
  const EngineLimits& limits = state.limits;
  const std::vector<MemberStatus> members = cluster.status(Deadline::after_ms(kStatusMs));
  Json out = {{"status", state.status.ok() ? "up" : "down"}, {"degraded", !planned.left_out.empty()}};
  if (!state.status.ok()) out["error"] = Message(state.status);
  out["generation"] = state.generation;
  out["model"] = {{"name", model.facts.name},
                  {"hash", model.facts.hash},
                  {"layers", std::ssize(model.facts.layers)},
                  {"context", model.spec.max_positions},
                  {"vocabulary", model.spec.vocabulary}};
  out["cache"] = {{"blocks", limits.blocks},
                  {"positions_per_block", kBlockPositions},
                  {"state_slots", limits.state_slots}};
  if (plan != nullptr) {
    out["model"]["activations"] = Name(plan->activations);
    out["model"]["mtp"] = plan->mtp;
    out["wire"] = {{"rows", Name(plan->wire_dtype)},
                   {"bits_depend_on_placement", !RoundingsOf(*plan).empty()}};
    out["cache"]["dtype"] = Name(plan->kv_dtype);
  }
  const std::map<std::string, RemoteCluster::Buddy> buddies = cluster.buddies();
  out["nodes"] = Json::array();
  for (const MemberStatus& member : members) {
    Json node = NodeJson(plan, member, planned.facts);
    AddAbsence(planned.left_out, node);
    if (const auto buddy = buddies.find(member.name); buddy != buddies.end())
      node["kv_buddy"] = {{"name", buddy->second.name}, {"bytes_max", buddy->second.bytes_max}};
    if (out["nodes"].empty()) {
      node["resident_bytes"] = ResidentBytes();
      int64_t bytes = 0;
      for (const NodeHost::NodeReport& hosted : cluster.host().report()) bytes += hosted.weight_bytes;
      const NodeHost::NodeReport own = cluster.own_report();
      AddCopies(own.copies.places, own.copies.bytes, node);
      node["weight_bytes"] = bytes;
      node["weights_sent_bytes"] = cluster.weights_sent_bytes();
      AddExpertTier(own.expert_tier, node);
    }
    out["nodes"].push_back(std::move(node));
  }
  if (planned.move.has_value()) {
    out["move"] = {{"why", planned.move->why}};
    if (!planned.move->failed.ok()) out["move"]["error"] = Message(planned.move->failed);
  }
  out["predicted"] = PredictedJson(planned.predicted);
  out["links"] = LinksJson(planned.links);
  out["plan"] = plan == nullptr ? std::vector<std::string>() : plan->notes;
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
