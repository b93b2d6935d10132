// The report of `shoal plan`: a plan and its costs, for people and for scripts.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/text.h"
#include "plan/compare.h"
#include "plan/cost.h"
#include "plan/id_list.h"
#include "plan/rounding.h"
#include "plan/text_table.h"

namespace shoal {
namespace {

std::string LayersText(Range layers) {
  return layers.empty() ? "-" : fmt::format("[{}, {})", layers.begin, layers.end);
}

/// "0-63 of 48 layers"; only the number if the list is long or layers differ; "-" for none.
std::string ExpertsText(const Plan& plan, NodeId node) {
  std::set<std::string> lists;
  int64_t pairs = 0;
  int64_t layers = 0;
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    std::vector<int32_t> ids;
    for (const ExpertId id : plan.experts_held(node, LayerId{layer})) ids.push_back(id.value);
    if (ids.empty()) continue;
    pairs += std::ssize(ids);
    ++layers;
    lists.insert(FormatIdList(ids));
  }
  if (lists.empty()) return "-";
  constexpr size_t kListMax = 20;
  if (lists.size() == 1 && lists.begin()->size() > kListMax) {
    return fmt::format("{} of each of {} layers", pairs / layers, layers);
  }
  if (lists.size() == 1) return fmt::format("{} of {} layers", *lists.begin(), layers);
  return fmt::format("{} in {} layers", pairs, layers);
}

/// "12 of 16 of 80 layers"; "-" for none.
std::string SegmentsText(const Plan& plan, NodeId node) {
  int64_t layers = 0;
  std::set<std::string> counts;
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    const size_t held = plan.segments_held(node, LayerId{layer}).size();
    if (held == 0) continue;
    ++layers;
    counts.insert(fmt::format("{} of {}", held, plan.segment_owners(LayerId{layer}).size()));
  }
  if (layers == 0) return "-";
  return counts.size() == 1 ? fmt::format("{} of {} layers", *counts.begin(), layers)
                            : fmt::format("some of {} layers", layers);
}

using Json = nlohmann::ordered_json;

Json MemoryJson(const std::vector<ComparedPlan::Memory>& memory) {
  Json nodes = Json::array();
  for (const ComparedPlan::Memory& node : memory) {
    nodes.push_back(
        {{"name", node.node},
         {"weight_bytes", node.weight_bytes},
         {"memory_bytes", node.memory_bytes},
         {"headroom_bytes", node.memory_bytes > 0 ? Json(node.headroom_bytes()) : Json(nullptr)}});
  }
  return nodes;
}

Json StrategyJson(const ComparedPlan& plan) {
  if (!plan.error.empty()) return {{"name", plan.name}, {"error", plan.error}};
  Json json = {{"name", plan.name},
               {"chosen", plan.chosen},
               {"layers", plan.layers},
               {"experts", plan.experts},
               {"sequences_2k", plan.sequences_2k.has_value() ? Json(*plan.sequences_2k) : Json(nullptr)},
               {"bytes_max", plan.per_token.bytes},
               {"messages_max", plan.per_token.messages()},
               {"nodes", MemoryJson(plan.memory)},
               {"predicted", nullptr}};
  if (plan.predicted.has_value()) json["predicted"] = PredictedJson(*plan.predicted);
  return json;
}

Json ExpertsJson(const ComparedExperts& experts) {
  Json json = {{"name", experts.name}};
  if (!experts.error.empty()) json["error"] = experts.error;
  if (!experts.traffic.has_value()) return json;
  json["messages_per_token"] = experts.traffic->messages_per_token;
  json["local_share"] = experts.traffic->local_share;
  json["imbalance"] = experts.traffic->imbalance;
  json["copies"] = experts.traffic->copies;
  return json;
}

/// What a token would send at most if rows were exact.
int64_t ExactBytes(Plan plan, const ModelFacts& model) {
  plan.wire_dtype = Plan::WireDtype::kExact;
  return DecodeCost(plan, model).bytes;
}

}  // namespace

std::string PlanReport(const Plan& plan, const ModelFacts& model, const CacheSize& cache,
                       std::span<const NodeFacts> nodes) {
  const std::vector<NodeCost> costs = NodeCosts(plan, model, cache, nodes);
  std::vector<std::vector<std::string>> rows = {
      {"node", "address", "layers", "experts", "weights", "cache", "total"}};
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const NodeId id{static_cast<int32_t>(i)};
    const PlanNode& node = plan.nodes[i];
    rows.push_back({id == Plan::kCoordinator ? node.name + " (coordinator)" : node.name,
                    node.address.empty() ? "this process" : node.address, LayersText(plan.layers_of(id)),
                    ExpertsText(plan, id), FormatBytes(costs[i].weight_bytes()),
                    FormatBytes(costs[i].cache_bytes()), FormatBytes(costs[i].total_bytes())});
    if (!plan.segments.empty()) rows.back().insert(rows.back().begin() + 4, SegmentsText(plan, id));
  }
  if (!plan.segments.empty()) rows.front().insert(rows.front().begin() + 4, "segments");
  const TokenCost cost = DecodeCost(plan, model);
  std::string text =
      fmt::format("{}: {} layers on {} of {} nodes, epoch {}, activations {}, cache {} x {} positions{}\n\n",
                  plan.model_name, plan.layers(), plan.stages.size(), plan.nodes.size(), plan.epoch,
                  Name(plan.activations), Name(plan.kv_dtype), cache.positions,
                  model.state_bytes() == 0 ? "" : fmt::format(", states of {} sequences", cache.sequences));
  text += TextTable(rows);
  text += fmt::format(
      "\nper token: at most {} messages ({} hops, {} expert calls, {}{} results) and {} between nodes\n",
      cost.messages(), cost.hops, cost.expert_calls,
      plan.segments.empty() ? "" : fmt::format("{} segment calls, ", cost.segment_calls), cost.results,
      FormatBytes(cost.bytes));
  if (!RoundingsOf(plan).empty()) {
    text += fmt::format(
        "rows travel as {}: {} a token at most, {} where they are exact; what that costs in exactness is "
        "measured by "
        "`shoal eval --plan FILE`, with what `shoal plan --json` prints\n",
        Name(plan.wire_dtype), FormatBytes(cost.bytes), FormatBytes(ExactBytes(plan, model)));
  }
  for (const std::string& note : plan.notes) text += fmt::format("- {}\n", note);
  return text;
}

std::string PlanReportJson(const Plan& plan, const ModelFacts& model, const CacheSize& cache,
                           const Comparison& comparison, std::span<const NodeFacts> facts) {
  const std::vector<NodeCost> costs = NodeCosts(plan, model, cache, facts);
  Json nodes = Json::array();
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const NodeId id{static_cast<int32_t>(i)};
    const Range layers = plan.layers_of(id);
    int64_t slots = 0;
    for (int32_t layer = 0; layer < plan.layers(); ++layer)
      slots += std::ssize(plan.experts_held(id, LayerId{layer}));
    nodes.push_back({{"name", plan.nodes[i].name},
                     {"address", plan.nodes[i].address},
                     {"layers", {layers.begin, layers.end}},
                     {"expert_copies", slots},
                     {"layer_bytes", costs[i].layer_bytes},
                     {"segment_bytes", costs[i].segment_bytes},
                     {"expert_bytes", costs[i].expert_bytes},
                     {"expert_disk_bytes", costs[i].expert_disk_bytes},
                     {"ends_bytes", costs[i].embedding_head_bytes},
                     {"weight_bytes", costs[i].weight_bytes()},
                     {"kv_bytes", costs[i].kv_bytes},
                     {"state_bytes", costs[i].state_bytes},
                     {"total_bytes", costs[i].total_bytes()}});
  }
  const TokenCost cost = DecodeCost(plan, model);
  Json report = {{"plan", Json::parse(PlanToJson(plan))},
                 {"kv_positions", cache.positions},
                 {"sequences", cache.sequences},
                 {"nodes", nodes},
                 {"per_token",
                  {{"messages_max", cost.messages()},
                   {"hops", cost.hops},
                   {"expert_calls_max", cost.expert_calls},
                   {"segment_calls", cost.segment_calls},
                   {"results", cost.results},
                   {"bytes_max", cost.bytes}}}};
  if (!RoundingsOf(plan).empty()) {
    report["per_token"]["wire"] = Name(plan.wire_dtype);
    report["per_token"]["bytes_max_exact"] = ExactBytes(plan, model);
  }
  report["strategies"] = Json::array();
  for (const ComparedPlan& other : comparison.plans) report["strategies"].push_back(StrategyJson(other));
  report["experts"] = Json::array();
  for (const ComparedExperts& other : comparison.experts) report["experts"].push_back(ExpertsJson(other));
  report["not_predicted"] = comparison.not_predicted;
  report["links_assumed"] = comparison.links_assumed;
  report["conclusions"] = comparison.notes;
  return report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace shoal
