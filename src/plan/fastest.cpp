#include "plan/fastest.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "base/text.h"
#include "plan/cost.h"
#include "plan/expert_placement.h"
#include "plan/fastest_split.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

/// Gains below this are not worth a note, or another placement: predictions are not better.
constexpr double kWorthwhile = 1.03;
/// Up to so many nodes the search is exact, whichever nodes it may leave out; for more it would take too long.
constexpr size_t kCountedMax = 8;

bool HoldsLayers(const std::vector<NodeFacts>& nodes, const PlanRequest& request, size_t i) {
  return nodes[i].may_hold_layers && (i != 0 || request.coordinator_holds_layers);
}

/// One way to place experts, with everything that a split of layers costs under it.
class Candidate {
 public:
  /// Errors of PlaceExperts.
  static absl::StatusOr<Candidate> Make(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                        const PlanRequest& request) {
    Candidate candidate(model, nodes, request);
    if (request.experts.strategy == ExpertStrategy::kWithLayer) return candidate;
    ASSIGN_OR_RETURN(candidate.placement_, PlaceExperts(model, nodes, request.experts, {}));
    for (const auto& row : candidate.placement_.experts) {
      std::vector<double>& shares = candidate.shares_.emplace_back();
      if (row.empty()) continue;
      shares.assign(nodes.size(), 0);
      for (const ExpertHolders& holders : row)
        shares[static_cast<size_t>(holders.owner.value)] += 1.0 / static_cast<double>(row.size());
    }
    return candidate;
  }

  const PlanRequest& request() const { return request_; }
  /// stages: how many steps' states a layer keeps (more stages than that may not fit).
  SplitTimes times(const Machines& machines, const PlanLoad& load, int64_t stages) const;
  /// The numbers of stages that times() is worth asking for. all: of every node that may hold layers.
  std::vector<int64_t> stage_counts(bool all) const;

 private:
  Candidate(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request)
      : model_(&model), nodes_(&nodes), request_(request) {}

  void add_memory(int64_t stages, SplitTimes& times) const;
  void add_layer(const Machines& machines, const PlanLoad& load, size_t layer, SplitTimes& times) const;

  const ModelFacts* model_;
  const std::vector<NodeFacts>* nodes_;
  PlanRequest request_;
  ExpertPlacement placement_;                ///< Empty where experts stay with their layers.
  std::vector<std::vector<double>> shares_;  ///< [L][nodes], likewise.
};

std::vector<int64_t> Candidate::stage_counts(bool all) const {
  int64_t holders = 0;
  for (size_t i = 0; i < nodes_->size(); ++i) holders += HoldsLayers(*nodes_, request_, i) ? 1 : 0;
  if (all || request_.sequences == 0 || model_->state_bytes() == 0) return {holders};
  std::vector<int64_t> counts;
  for (int64_t count = 1; count < holders; ++count) {
    if (count == 1 || nodes_->size() <= kCountedMax) counts.push_back(count);
  }
  counts.push_back(holders);
  return counts;
}

void Candidate::add_memory(int64_t stages, SplitTimes& times) const {
  const bool with_layer = shares_.empty();
  for (size_t l = 0; l < model_->layers.size(); ++l) {
    const LayerFacts& layer = model_->layers[l];
    int64_t bytes = layer.bytes + KvBytesPerPosition(layer, request_.kv_dtype) * request_.kv_positions +
                    layer.state_bytes * StateSlotsPerSequence(stages) * request_.sequences;
    times.held_bytes.push_back(bytes);
    times.expert_bytes.push_back(with_layer ? layer.experts * layer.expert_bytes : 0);
  }
  if (request_.uses_mtp(*model_)) {
    times.held_bytes.back() += MtpBytes(*model_->mtp, request_);
    times.apart_bytes = model_->mtp_embed_bytes();
  }
  for (size_t i = 0; i < nodes_->size(); ++i) {
    if ((*nodes_)[i].memory_bytes > 0)
      times.nodes[i].room_bytes = (*nodes_)[i].memory_bytes - request_.reserve_bytes;
    if ((*nodes_)[i].expert_memory_bytes > 0)
      times.nodes[i].expert_bytes_max = (*nodes_)[i].expert_memory_bytes;
  }
  std::vector<int64_t> spread(nodes_->size(), 0);
  for (size_t l = 0; l < placement_.experts.size(); ++l) {
    const auto take = [&](NodeId node) {
      spread[static_cast<size_t>(node.value)] += model_->layers[l].expert_bytes;
    };
    for (const ExpertHolders& holders : placement_.experts[l]) {
      take(holders.owner);
      for (const NodeId replica : holders.replicas) take(replica);
    }
  }
  for (size_t i = 0; i < spread.size(); ++i) {
    SplitTimes::Node& node = times.nodes[i];
    if (node.room_bytes != std::numeric_limits<int64_t>::max())
      node.room_bytes -= std::min(spread[i], node.expert_bytes_max);
  }
}

void Candidate::add_layer(const Machines& machines, const PlanLoad& load, size_t layer,
                          SplitTimes& times) const {
  const PlanTypes types{request_.activations == Plan::Activations::kInt8, request_.kv_dtype,
                        request_.wire_dtype};
  const bool moe = model_->layers[layer].experts > 0;
  for (size_t i = 0; i < nodes_->size(); ++i) {
    SplitTimes::Node& node = times.nodes[i];
    double seconds = LayerTime(*model_, layer, machines.rates(i), load, types).seconds();
    double serve_s = 0;
    if (moe && shares_.empty()) {
      seconds += (*nodes_)[i].may_hold_experts
                     ? ExpertTime(*model_, layer, machines.rates(i), load.rows, 1, types).seconds()
                     : std::numeric_limits<double>::infinity();
    } else if (moe) {
      const ExchangeTime exchange =
          ExchangeOf(*model_, machines, {layer, i, load.rows}, shares_[layer], types);
      seconds += exchange.own.seconds() + exchange.wait_s;
      // Whoever runs the layer, its experts take this node as long: only for itself nothing.
      const size_t other = i == 0 ? 1 : 0;
      if (nodes_->size() > 1) {
        serve_s = ExchangeOf(*model_, machines, {layer, other, load.rows}, shares_[layer], types).serve_s[i];
      }
    }
    node.layer_s.push_back(seconds);
    node.serve_s.push_back(serve_s);
  }
}

SplitTimes Candidate::times(const Machines& machines, const PlanLoad& load, int64_t stages) const {
  const size_t count = nodes_->size();
  const PlanTypes types{request_.activations == Plan::Activations::kInt8, request_.kv_dtype,
                        request_.wire_dtype};
  const double row_bytes = load.rows * StageRowBytes(*model_, request_.wire_dtype);
  SplitTimes times;
  times.nodes.resize(count);
  times.embed_bytes = model_->embed_bytes;
  times.head_bytes = model_->head_bytes;
  times.tied_head = model_->tied_head;
  for (size_t i = 0; i < count; ++i) {
    SplitTimes::Node& node = times.nodes[i];
    node.may_hold_layers = HoldsLayers(*nodes_, request_, i);
    node.stage_s = StageOverhead().seconds();
    node.head_s = HeadTime(*model_, machines.rates(i), load, types).seconds();
    times.begin_s.push_back(machines.message_s(0, i, load.rows * sizeof(float)) +
                            SchedulerTurnS(machines.rates(0)));
    times.end_s.push_back(machines.message_s(i, 0, load.sampled * sizeof(float)));
    std::vector<double>& hops = times.hop_s.emplace_back();
    for (size_t to = 0; to < count; ++to) hops.push_back(machines.message_s(i, to, row_bytes));
  }
  add_memory(stages, times);
  for (size_t l = 0; l < model_->layers.size(); ++l) add_layer(machines, load, l, times);
  return times;
}

/// Numbers of steps that a batch may be cut into on so many nodes.
std::vector<int> StepCounts(size_t nodes) {
  std::set<int> counts;
  const auto most = static_cast<int>(std::min<double>(kThroughputStreams, static_cast<double>(nodes)));
  constexpr int kEach = 8;
  for (int n = 1; n <= most; n = n < kEach ? n + 1 : n + 4) counts.insert(n);
  counts.insert(most);
  return {counts.begin(), counts.end()};
}

/// The splits worth looking at: the best for each way that steps may flow.
std::vector<std::vector<int64_t>> Splits(const Candidate& candidate, const Machines& machines, bool all) {
  std::set<std::vector<int64_t>> splits;
  // So many steps in flight need as many stages. With `all` they are there.
  const auto add = [&](const PlanLoad& load, const SplitCost& cost, int stages) {
    const SplitRule rule{all, !all && machines.size() <= kCountedMax ? stages : 1};
    for (const int64_t count : candidate.stage_counts(all)) {
      if (auto found = CheapestSplit(candidate.times(machines, load, count), rule, cost))
        splits.insert(found->counts);
    }
  };
  switch (candidate.request().objective) {
    case Objective::kLatency:
      add(DecodeLoad(1, kPlanContext), {SplitCost::Kind::kLonger, 0}, 1);
      break;
    case Objective::kThroughput:
      for (const int steps : StepCounts(machines.size())) {
        // One step alone waits for nobody but the stages in turn.
        add(DecodeLoad(kThroughputStreams / steps, kPlanContext),
            {SplitCost::Kind::kLonger, steps == 1 ? 0.0 : static_cast<double>(steps)}, steps);
      }
      break;
    case Objective::kTtft: {
      std::set<int64_t> seen;
      for (size_t stages = 1; stages <= machines.size(); ++stages) {
        const int64_t rows = PromptChunkRows(kTtftPrompt, static_cast<int64_t>(stages));
        const bool counted = !all && machines.size() <= kCountedMax;
        if (!seen.insert(rows).second && !counted) continue;
        const auto more = static_cast<double>((kTtftPrompt + rows - 1) / rows - 1);
        PlanLoad load = PrefillLoad(static_cast<double>(rows), kTtftPrompt / 2.0, false);
        load.sampled = 1 / (more + 1);  // The head once, in the last of them.
        add(load, {SplitCost::Kind::kSum, more}, static_cast<int>(stages));
      }
      break;
    }
  }
  return {splits.begin(), splits.end()};
}

struct Chosen {
  Plan plan;
  double value = 0;
};

/// The plan of exactly this split, with its value; nothing if it does not fit.
std::optional<Chosen> PlanOf(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                             const PlanRequest& request, const std::vector<int64_t>& counts) {
  PlanRequest exact = request;
  exact.strategy = LayerStrategy::kSplit;
  exact.split = counts;
  absl::StatusOr<Plan> plan = MakePlan(model, nodes, exact);
  if (!plan.ok()) return std::nullopt;
  const absl::StatusOr<double> value = PredictedValue(*plan, model, nodes, request);
  if (!value.ok()) return std::nullopt;
  return Chosen{*std::move(plan), *value};
}

/// Moves single layers from node to node as long as the value gains. `all`: none gives up its last.
void MoveLayers(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request,
                bool all, std::vector<int64_t> counts, Chosen& best) {
  for (bool gained = true; gained;) {
    gained = false;
    const std::vector<int64_t> start = counts;
    for (size_t from = 0; from < nodes.size(); ++from) {
      for (size_t to = 0; to < nodes.size(); ++to) {
        if (from == to || start[from] < (all ? 2 : 1) || !HoldsLayers(nodes, request, to)) continue;
        std::vector<int64_t> moved = start;
        --moved[from];
        ++moved[to];
        std::optional<Chosen> chosen = PlanOf(model, nodes, request, moved);
        if (!chosen.has_value() || chosen->value <= best.value) continue;
        best = *std::move(chosen);
        counts = std::move(moved);
        gained = true;
      }
    }
  }
}

/// The best plan with the experts of `request`; nothing if no split fits.
std::optional<Chosen> BestWith(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                               const PlanRequest& request, bool all) {
  const absl::StatusOr<Candidate> candidate = Candidate::Make(model, nodes, request);
  if (!candidate.ok()) return std::nullopt;
  const Machines machines(nodes, request.links);
  std::optional<Chosen> best;
  for (const std::vector<int64_t>& counts : Splits(*candidate, machines, all)) {
    std::optional<Chosen> chosen = PlanOf(model, nodes, request, counts);
    if (!chosen.has_value()) continue;
    // The search takes all chunks for alike, which they are not.
    if (request.objective == Objective::kTtft && nodes.size() <= kCountedMax)
      MoveLayers(model, nodes, request, all, counts, *chosen);
    if (!best.has_value() || chosen->value > best->value) best = std::move(chosen);
  }
  return best;
}

/// The ways to place experts that kFastest chooses from.
std::vector<PlanRequest> ExpertChoices(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                       const PlanRequest& request) {
  std::vector<PlanRequest> choices = {request};
  const auto owners = std::ranges::count_if(nodes, &NodeFacts::may_hold_experts);
  if (request.experts.asked || !model.has_experts() || owners < 2) return choices;
  choices.push_back(request);
  choices.back().experts.strategy = ExpertStrategy::kRoundRobin;
  return choices;
}

}  // namespace

std::vector<std::string> AlternativeNotes(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                          const PlanRequest& request, const Plan& plan) {
  std::vector<std::string> notes;
  if (plan.nodes.size() < 2) return notes;
  const absl::StatusOr<Machines> machines = Machines::Of(plan, nodes, request.links);
  if (!machines.ok()) return notes;
  const Predictor predictor(plan, model, *machines);
  const double one = predictor.decode(1, kPlanContext).tokens_per_s;
  const double many = predictor.decode(kThroughputStreams, kPlanContext).tokens_per_s;
  const NodeFacts* fastest = nullptr;
  Alone best;
  double replicas = 0;
  int whole = 0;
  for (const NodeFacts& node : nodes) {
    const std::optional<Alone> alone = PredictAlone(model, node, request);
    if (!alone.has_value()) continue;
    ++whole;
    replicas += alone->tokens_per_s_16;
    if (fastest != nullptr && alone->tokens_per_s_1 <= best.tokens_per_s_1) continue;
    fastest = &node;
    best = *alone;
  }
  if (fastest != nullptr && best.tokens_per_s_1 > kWorthwhile * one) {
    notes.push_back(fmt::format(
        "one machine is faster for one stream: '{}' alone would decode {:.1f} tokens/s, this plan {:.1f}",
        fastest->name, best.tokens_per_s_1, one));
  }
  if (fastest != nullptr && best.tokens_per_s_16 > kWorthwhile * many) {
    notes.push_back(
        fmt::format("one machine serves more: '{}' alone would give 16 streams {:.1f} tokens/s, this plan "
                    "{:.1f}",
                    fastest->name, best.tokens_per_s_16, many));
  } else if (whole >= 2 && replicas > kWorthwhile * many) {
    notes.push_back(
        fmt::format("{} replicas serve more: the whole model on each of {} machines would give 16 streams "
                    "each {:.1f} tokens/s together, this plan {:.1f} to 16",
                    whole == 2 ? "two" : std::to_string(whole), whole, replicas, many));
  }
  return notes;
}

double ValueOf(const Predictor& predictor, Objective objective) {
  switch (objective) {
    case Objective::kLatency:
      return predictor.decode(1, kPlanContext).tokens_per_s;
    case Objective::kThroughput:
      return predictor.decode(kThroughputStreams, kPlanContext).tokens_per_s;
    case Objective::kTtft:
      return -predictor.ttft_s(kTtftPrompt);
  }
  return 0;
}

absl::StatusOr<double> PredictedValue(const Plan& plan, const ModelFacts& model,
                                      const std::vector<NodeFacts>& nodes, const PlanRequest& request) {
  ASSIGN_OR_RETURN(const Machines machines, Machines::Of(plan, nodes, request.links));
  return ValueOf(Predictor(plan, model, machines), request.objective);
}

std::string ValueText(double value, Objective objective) {
  switch (objective) {
    case Objective::kLatency:
      return fmt::format("{:.1f} tokens/s for one stream", value);
    case Objective::kThroughput:
      return fmt::format("{:.1f} tokens/s with {:.0f} streams", value, kThroughputStreams);
    case Objective::kTtft:
      return fmt::format("{:.2f} s to the first token of {} positions", -value, kTtftPrompt);
  }
  return "";
}

std::optional<std::string> NodeWithoutRates(const std::vector<NodeFacts>& nodes) {
  for (const NodeFacts& node : nodes) {
    if (!HasRates(node)) return node.name;
  }
  return std::nullopt;
}

absl::StatusOr<Plan> MakeFastestPlan(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                     const PlanRequest& request) {
  std::optional<Chosen> best;
  for (const bool all : {true, false}) {
    if (all && request.node_use == NodeUse::kBest) continue;
    for (const PlanRequest& choice : ExpertChoices(model, nodes, request)) {
      std::optional<Chosen> chosen = BestWith(model, nodes, choice, all);
      if (!chosen.has_value()) continue;
      // Experts stay with their layers unless a spread is clearly better.
      const double margin = best.has_value() && best->value < 0 ? 1 / kWorthwhile : kWorthwhile;
      if (!best.has_value() || chosen->value > best->value * margin) best = std::move(chosen);
    }
    if (best.has_value()) break;
  }
  if (!best.has_value()) {  // The errors of "balanced" say what is missing.
    PlanRequest balanced = request;
    balanced.strategy = LayerStrategy::kBalanced;
    return MakePlan(model, nodes, balanced);
  }
  Plan plan = std::move(best->plan);
  std::vector<int64_t> counts;
  for (const PlanStage& stage : plan.stages) counts.push_back(stage.layers.size());
  for (std::string& note : plan.notes) {
    if (!note.starts_with("layers (split)")) continue;
    note = fmt::format("layers (fastest): {}, of which {} are predicted, the best {} of the measured nodes",
                       fmt::join(counts, ", "), ValueText(best->value, request.objective),
                       Name(request.objective));
  }
  for (std::string& note : AlternativeNotes(model, nodes, request, plan))
    plan.notes.push_back(std::move(note));
  return plan;
}

std::optional<Alone> PredictAlone(const ModelFacts& model, const NodeFacts& node,
                                  const PlanRequest& request) {
  if (!HasRates(node) || !node.may_hold_layers || !node.may_hold_experts) return std::nullopt;
  NodeFacts alone = node;
  alone.address.clear();
  PlanRequest whole = request;
  whole.strategy = LayerStrategy::kUniform;
  whole.segments = {.kind = SegmentRequest::Kind::kOff};
  whole.experts = {};
  whole.coordinator_holds_layers = true;
  const absl::StatusOr<Plan> plan = MakePlan(model, {alone}, whole);
  if (!plan.ok()) return std::nullopt;
  const Machines machines({alone}, {});
  const Predictor predictor(*plan, model, machines);
  return Alone{predictor.decode(1, kPlanContext).tokens_per_s,
               predictor.decode(kThroughputStreams, kPlanContext).tokens_per_s};
}

}  // namespace shoal
