#include "plan/compare.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/status.h"
#include "base/text.h"
#include "plan/expert_stats.h"
#include "plan/fastest.h"
#include "plan/predict.h"
#include "plan/text_table.h"

namespace shoal {
namespace {

constexpr int64_t kShortPrompt = 2048;
constexpr int64_t kLongPrompt = 16384;

/// The largest part of a step's time.
std::string BoundOf(const Plan& plan, const Machines& machines, const ModelFacts& model, const StepTime& step,
                    double rows) {
  std::string name;
  double most_s = 0;
  const auto consider = [&](double seconds, std::string text) {
    if (seconds <= most_s) return;
    most_s = seconds;
    name = std::move(text);
  };
  const std::string_view parts = plan.segments.empty() ? "experts" : "experts and segments";
  size_t at = 0;
  for (const PlanStage& stage : plan.stages) {
    const auto node = static_cast<size_t>(stage.node.value);
    const StepTime::Stage& own = step.nodes[node];
    consider(own.work.seconds(), fmt::format("node '{}': {}", plan.nodes[node].name, Name(own.work.bound())));
    consider(own.wait_s, fmt::format("node '{}': waiting for others' {}", plan.nodes[node].name, parts));
    consider(own.serve_s, fmt::format("node '{}': {} for others", plan.nodes[node].name, parts));
    if (at != node) {
      consider(machines.message_s(at, node, rows * static_cast<double>(model.row_width()) * sizeof(float)),
               fmt::format("link '{}' - '{}'", plan.nodes[at].name, plan.nodes[node].name));
    }
    at = node;
  }
  return name;
}

std::string SegmentsText(const Plan& plan) {
  std::set<NodeId> holders;
  for (const std::vector<NodeId>& row : plan.segments) holders.insert(row.begin(), row.end());
  return holders.empty() ? "" : fmt::format("feed-forwards over {} nodes", holders.size());
}

std::string ExpertsText(const Plan& plan) {
  std::vector<bool> owners(plan.nodes.size());
  bool any = false;
  bool remote = false;
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    for (const ExpertHolders& holders : plan.experts[static_cast<size_t>(layer)]) {
      owners[static_cast<size_t>(holders.owner.value)] = true;
      any = true;
    }
    remote |= !plan.remote_owners(LayerId{layer}).empty();
  }
  if (!any) return SegmentsText(plan);
  return remote ? fmt::format("over {} nodes", std::ranges::count(owners, true)) : "with layer";
}

ComparedPlan Describe(std::string name, const Plan& plan, const ModelFacts& model,
                      const std::vector<NodeFacts>& nodes, const PlanRequest& request) {
  ComparedPlan out{
      .name = std::move(name), .experts = ExpertsText(plan), .per_token = DecodeCost(plan, model)};
  for (const PlanStage& stage : plan.stages) out.layers.push_back(stage.layers.size());
  const std::vector<NodeCost> costs = NodeCosts(plan, model, {kShortPrompt, 1}, nodes);
  std::optional<int64_t> sequences = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const auto facts = std::ranges::find(nodes, plan.nodes[i].name, &NodeFacts::name);
    const int64_t memory = facts == nodes.end() ? 0 : facts->memory_bytes;
    out.memory.push_back({plan.nodes[i].name, costs[i].weight_bytes(), memory});
    if (costs[i].cache_bytes() == 0) continue;
    if (memory == 0) sequences.reset();
    if (!sequences.has_value()) continue;
    const int64_t room = std::max<int64_t>(0, memory - costs[i].weight_bytes() - kProcessBytes);
    sequences = std::min(*sequences, room / costs[i].cache_bytes());
  }
  if (sequences != std::numeric_limits<int64_t>::max()) out.sequences_2k = sequences;
  absl::StatusOr<Predicted> predicted = PredictPlan(plan, model, nodes, request.links);
  if (predicted.ok()) out.predicted = *std::move(predicted);
  return out;
}

struct Variant {
  std::string name;
  PlanRequest request;
};

std::vector<Variant> Variants(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                              const PlanRequest& request) {
  std::vector<Variant> variants;
  const auto add = [&](std::string name, LayerStrategy strategy, Objective objective) {
    PlanRequest other = request;
    other.strategy = strategy;
    other.objective = objective;
    variants.push_back({std::move(name), std::move(other)});
  };
  if (!NodeWithoutRates(nodes).has_value()) {
    for (const Objective objective : {Objective::kThroughput, Objective::kLatency, Objective::kTtft}) {
      add(fmt::format("fastest ({})", Name(objective)), LayerStrategy::kFastest, objective);
    }
  }
  for (const LayerStrategy strategy :
       {LayerStrategy::kBalanced, LayerStrategy::kUniform, LayerStrategy::kMemory, LayerStrategy::kCompute}) {
    const bool known = std::ranges::all_of(nodes, [&](const NodeFacts& node) {
      return strategy == LayerStrategy::kMemory    ? node.memory_bytes > 0
             : strategy == LayerStrategy::kCompute ? node.compute > 0
                                                   : true;
    });
    if (known) add(std::string(Name(strategy)), strategy, request.objective);
  }
  const bool may_share = request.segments.kind == SegmentRequest::Kind::kWherePays &&
                         request.wire_dtype == Plan::WireDtype::kExact;
  if (may_share && CanHaveSegments(model, nodes.size())) {
    add("balanced, --split-ffn all", LayerStrategy::kBalanced, request.objective);
    variants.back().request.segments.kind = SegmentRequest::Kind::kAll;
  }
  return variants;
}

bool SamePlacement(const Plan& a, const Plan& b) {
  return a.nodes == b.nodes && a.stages == b.stages && a.experts == b.experts && a.segments == b.segments;
}

/// Each machine that can hold the whole model.
void AddAlone(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request,
              Comparison& comparison) {
  for (const NodeFacts& node : nodes) {
    NodeFacts alone = node;
    alone.address.clear();
    PlanRequest plain = request;
    plain.strategy = LayerStrategy::kUniform;
    plain.experts = {};
    plain.segments = {.kind = SegmentRequest::Kind::kOff};
    plain.coordinator_holds_layers = true;
    if (!node.may_hold_layers || !node.may_hold_experts) continue;
    const absl::StatusOr<Plan> plan = MakePlan(model, {alone}, plain);
    if (!plan.ok()) continue;
    comparison.plans.push_back(Describe(fmt::format("'{}' alone", node.name), *plan, model, {alone}, plain));
  }
}

/// What each way to place experts is expected to send.
void AddExperts(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request,
                const Plan& chosen, Comparison& comparison) {
  const ExpertStats* const stats = request.experts.stats.get();
  if (stats == nullptr || stats->empty()) return;
  comparison.experts.push_back({.name = "this plan", .traffic = ExpectedTraffic(chosen, nodes, *stats)});
  for (const bool hot : {false, true}) {
    if (hot && request.experts.hot_bytes == 0) continue;
    for (const ExpertStrategy strategy :
         {ExpertStrategy::kWithLayer, ExpertStrategy::kContiguous, ExpertStrategy::kRoundRobin,
          ExpertStrategy::kByLoad, ExpertStrategy::kByLocality}) {
      PlanRequest other = request;
      other.experts = {.asked = true, .strategy = strategy, .stats = request.experts.stats};
      if (strategy != ExpertStrategy::kWithLayer) other.experts.over_nodes = request.experts.over_nodes;
      if (hot) other.experts.hot_bytes = request.experts.hot_bytes;
      ComparedExperts& compared = comparison.experts.emplace_back();
      compared.name = Name(strategy);
      if (hot) compared.name += fmt::format(", hot:{}", FormatBytes(other.experts.hot_bytes));
      const absl::StatusOr<Plan> plan = MakePlan(model, nodes, other);
      if (plan.ok())
        compared.traffic = ExpectedTraffic(*plan, nodes, *stats);
      else
        compared.error = Message(plan.status());
    }
  }
}

std::string ExpertsTable(const std::vector<ComparedExperts>& experts) {
  if (experts.empty()) return "";
  std::vector<std::vector<std::string>> rows = {
      {"experts", "messages/token", "rows local", "copies", "busiest node"}};
  std::string errors;
  for (const ComparedExperts& one : experts) {
    if (!one.error.empty()) errors += fmt::format("- {}: {}\n", one.name, one.error);
    if (!one.traffic.has_value()) continue;
    rows.push_back({one.name, fmt::format("{:.2f}", one.traffic->messages_per_token),
                    fmt::format("{:.1f} %", 100 * one.traffic->local_share),
                    std::to_string(one.traffic->copies), fmt::format("{:.2f}", one.traffic->imbalance)});
  }
  return "\nexperts compared, by the use that was measured (rows local: all experts of a layer on its node; "
         "busiest node: "
         "its work over an even share):\n\n" +
         TextTable(rows) + errors;
}

std::string Seconds(double seconds) {
  return seconds < 1 ? fmt::format("{:.0f} ms", 1e3 * seconds) : fmt::format("{:.1f} s", seconds);
}

}  // namespace

absl::StatusOr<Predicted> PredictPlan(const Plan& plan, const ModelFacts& model,
                                      const std::vector<NodeFacts>& nodes,
                                      const std::vector<LinkFacts>& links) {
  ASSIGN_OR_RETURN(const Machines machines, Machines::Of(plan, nodes, links));
  const Predictor predictor(plan, model, machines);
  const Predictor::Decode one = predictor.decode(1, kPlanContext);
  const Predictor::Decode many = predictor.decode(kThroughputStreams, kPlanContext);
  return Predicted{.tokens_per_s_1 = one.tokens_per_s,
                   .tokens_per_s_16 = many.tokens_per_s,
                   .ttft_2k_s = predictor.ttft_s(kShortPrompt),
                   .ttft_16k_s = predictor.ttft_s(kLongPrompt),
                   .bound_1 = BoundOf(plan, machines, model, one.step, 1),
                   .bound_16 = BoundOf(plan, machines, model, many.step, kThroughputStreams / many.steps)};
}

nlohmann::ordered_json PredictedJson(const Predicted& predicted) {
  return {{"tokens_per_s_1", predicted.tokens_per_s_1},
          {"tokens_per_s_16", predicted.tokens_per_s_16},
          {"ttft_2k_s", predicted.ttft_2k_s},
          {"ttft_16k_s", predicted.ttft_16k_s},
          {"bound_1", predicted.bound_1},
          {"bound_16", predicted.bound_16}};
}

nlohmann::ordered_json PredictedJson(const absl::StatusOr<Predicted>& predicted) {
  return predicted.ok() ? PredictedJson(*predicted)
                        : nlohmann::ordered_json{{"error", Message(predicted.status())}};
}

nlohmann::ordered_json LinksJson(const std::vector<LinkFacts>& links) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const LinkFacts& link : links)
    list.push_back({{"a", link.a}, {"b", link.b}, {"rtt_us", link.rtt_us}, {"mbs", link.mbs}});
  return list;
}

Comparison CompareStrategies(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                             const PlanRequest& request, const Plan& chosen) {
  Comparison comparison;
  if (const auto missing = NodeWithoutRates(nodes)) {
    comparison.not_predicted = fmt::format(
        "the rates of node '{}' are not measured (it is not up, or runs with --profile off), so no times are "
        "predicted",
        *missing);
  }
  std::vector<Plan> plans;
  for (const Variant& variant : Variants(model, nodes, request)) {
    const absl::StatusOr<Plan> plan = MakePlan(model, nodes, variant.request);
    if (!plan.ok()) {
      comparison.plans.push_back({.name = variant.name, .error = Message(plan.status())});
      plans.emplace_back();
      continue;
    }
    const auto same =
        std::ranges::find_if(plans, [&](const Plan& other) { return SamePlacement(other, *plan); });
    if (same != plans.end()) {
      comparison.plans[static_cast<size_t>(same - plans.begin())].name += ", " + variant.name;
      continue;
    }
    comparison.plans.push_back(Describe(variant.name, *plan, model, nodes, variant.request));
    plans.push_back(*plan);
  }
  const auto own = std::ranges::find_if(plans, [&](const Plan& plan) { return SamePlacement(plan, chosen); });
  if (own != plans.end()) {
    comparison.plans[static_cast<size_t>(own - plans.begin())].chosen = true;
  } else {
    comparison.plans.insert(comparison.plans.begin(), Describe("as asked", chosen, model, nodes, request));
    comparison.plans.front().chosen = true;
  }
  const absl::StatusOr<Machines> machines = Machines::Of(chosen, nodes, request.links);
  comparison.links_assumed = machines.ok() && !machines->all_links_known();
  if (nodes.size() > 1) AddAlone(model, nodes, request, comparison);
  if (nodes.size() > 1) AddExperts(model, nodes, request, chosen, comparison);
  for (std::string& note : AlternativeNotes(model, nodes, request, chosen)) {
    if (std::ranges::find(chosen.notes, note) == chosen.notes.end())
      comparison.notes.push_back(std::move(note));
  }
  return comparison;
}

std::string ComparisonText(const Comparison& comparison) {
  std::vector<std::vector<std::string>> rows = {{"", "strategy", "layers", "experts", "tok/s x1", "tok/s x16",
                                                 "TTFT 2k", "TTFT 16k", "2k seqs", "B/token", "messages",
                                                 "least headroom", "bound at 16 streams"}};
  std::string errors;
  for (const ComparedPlan& plan : comparison.plans) {
    if (!plan.error.empty()) {
      errors += fmt::format("- {}: {}\n", plan.name, plan.error);
      continue;
    }
    const auto least = std::ranges::min_element(plan.memory, {}, &ComparedPlan::Memory::headroom_bytes);
    const bool known = std::ranges::all_of(plan.memory, [](const auto& m) { return m.memory_bytes > 0; });
    const auto of = [&](auto text) {
      return plan.predicted.has_value() ? text(*plan.predicted) : std::string("-");
    };
    rows.push_back({plan.chosen ? "*" : "", plan.name, fmt::format("{}", fmt::join(plan.layers, ",")),
                    plan.experts.empty() ? "-" : plan.experts,
                    of([](const Predicted& p) { return fmt::format("{:.1f}", p.tokens_per_s_1); }),
                    of([](const Predicted& p) { return fmt::format("{:.1f}", p.tokens_per_s_16); }),
                    of([](const Predicted& p) { return Seconds(p.ttft_2k_s); }),
                    of([](const Predicted& p) { return Seconds(p.ttft_16k_s); }),
                    plan.sequences_2k.has_value() ? std::to_string(*plan.sequences_2k) : "-",
                    std::to_string(plan.per_token.bytes), std::to_string(plan.per_token.messages()),
                    known ? fmt::format("{} on {}", FormatBytes(least->headroom_bytes()), least->node) : "-",
                    of([](const Predicted& p) { return p.bound_16; })});
  }
  std::string text = "\nstrategies compared (* this plan; times are predicted):\n\n" + TextTable(rows);
  if (!comparison.not_predicted.empty()) text += fmt::format("- {}\n", comparison.not_predicted);
  if (comparison.links_assumed) {
    text += fmt::format("- links that were not measured are taken for {:.1f} ms and {:.0f} MB/s\n",
                        1e-3 * kAssumedLink.rtt_us, kAssumedLink.mbs);
  }
  for (const std::string& note : comparison.notes) text += fmt::format("- {}\n", note);
  return text + errors + ExpertsTable(comparison.experts);
}

}  // namespace shoal
