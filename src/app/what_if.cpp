#include "app/what_if.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "plan/compare.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

absl::Status AddMachine(const PlanQuestion::Machine& machine, PlanGround& ground) {
  if (std::ranges::find(ground.nodes, machine.name, &NodeFacts::name) != ground.nodes.end())
    return InvalidArgument("add: there is a node '{}' already", machine.name);
  NodeFacts node{.name = machine.name,
                 .address = fmt::format("added-{}:1", ground.nodes.size()),  // Nobody dials it.
                 .memory_bytes = machine.memory_bytes,
                 .compute = machine.read_gbs,
                 .device = "what if"};
  if (machine.read_gbs > 0 || machine.int8_gops > 0 || machine.f32_gflops > 0) {
    node.rates = ThreadRates{
        .read_gbs = machine.read_gbs, .int8_gops = machine.int8_gops, .f32_gflops = machine.f32_gflops};
  }
  for (const NodeFacts& other : ground.nodes) {
    if (machine.rtt_us > 0)
      ground.request.links.push_back({other.name, machine.name, machine.rtt_us, machine.mbs});
  }
  ground.nodes.push_back(std::move(node));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> SplitOf(const PlanQuestion& question,
                                             const std::vector<NodeFacts>& nodes) {
  std::vector<int64_t> split(nodes.size());
  for (const auto& [name, count] : question.layers) {
    const auto found = std::ranges::find(nodes, name, &NodeFacts::name);
    if (found == nodes.end()) {
      std::vector<std::string> names;
      for (const NodeFacts& node : nodes) names.push_back(node.name);
      return NotFound("layers: no node '{}' that plans count on; there are {}", name, Join(names, ", "));
    }
    split[static_cast<size_t>(found - nodes.begin())] = count;
  }
  return split;
}

/// The plan that is asked about; `ground` becomes what it was made from.
absl::StatusOr<Plan> PlanAsked(const PlanQuestion& question, const Plan* in_force, const ModelFacts& model,
                               PlanGround& ground) {
  if (question.layers.empty() && question.experts.empty() && question.add.empty()) {
    if (in_force == nullptr) return FailedPrecondition("no plan was made so far");
    return *in_force;
  }
  for (const PlanQuestion::Machine& machine : question.add) RETURN_IF_ERROR(AddMachine(machine, ground));
  if (!question.experts.empty()) {
    ASSIGN_OR_RETURN(ExpertRequest experts, ParseExpertRequest(question.experts));
    experts.asked = true;
    experts.stats = std::move(ground.request.experts.stats);
    experts.hot_bytes = ground.request.experts.hot_bytes;
    ground.request.experts = std::move(experts);
  }
  ground.request.strategy = LayerStrategy::kFastest;
  if (!question.layers.empty()) {
    ground.request.strategy = LayerStrategy::kSplit;
    ASSIGN_OR_RETURN(ground.request.split, SplitOf(question, ground.nodes));
  } else if (question.add.empty() && in_force != nullptr) {
    ground.request.strategy = LayerStrategy::kSplit;
    ground.request.split.clear();
    for (const NodeFacts& node : ground.nodes) {
      const auto id = in_force->find_node(node.name);
      ground.request.split.push_back(id.has_value() ? in_force->layers_of(*id).size() : 0);
    }
  }
  return MakePlan(model, ground.nodes, ground.request);
}

Json RatesJson(const std::optional<ThreadRates>& rates) {
  if (!rates.has_value()) return nullptr;
  return {{"read_gbs", rates->read_gbs}, {"int8_gops", rates->int8_gops}, {"f32_gflops", rates->f32_gflops}};
}

}  // namespace

absl::StatusOr<std::string> AnswerPlanQuestion(const PlanQuestion& question, PlanGround ground,
                                               const Plan* in_force, const OpenedModel& model) {
  const size_t there = ground.nodes.size();
  ASSIGN_OR_RETURN(const Plan plan, PlanAsked(question, in_force, model.facts, ground));
  const CacheSize cache = DefaultCacheSize(plan, model.facts, ground.nodes, model.spec.max_positions,
                                           {ground.request.kv_positions, ground.request.sequences});
  Comparison comparison;
  if (question.compare) comparison = CompareStrategies(model.facts, ground.nodes, ground.request, plan);
  Json out = Json::parse(PlanReportJson(plan, model.facts, cache, comparison, ground.nodes));
  out["predicted"] = PredictedJson(PredictPlan(plan, model.facts, ground.nodes, ground.request.links));
  out["facts"] = Json::array();
  for (size_t i = 0; i < ground.nodes.size(); ++i) {
    const NodeFacts& node = ground.nodes[i];
    out["facts"].push_back({{"name", node.name},
                            {"memory_bytes", node.memory_bytes},
                            {"device", node.device},
                            {"rates", RatesJson(node.rates)},
                            {"added", i >= there}});
  }
  out["links"] = LinksJson(ground.request.links);
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
