#include "plan/planner.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "plan/cost.h"
#include "plan/expert_placement.h"
#include "plan/fastest.h"
#include "plan/layer_split.h"
#include "plan/placed_by_use.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

constexpr int64_t kKvPositionsMax = int64_t{1} << 32;  // Keeps every sum of bytes within int64.
constexpr int64_t kSequencesMax = 1 << 16;
constexpr double kComputeMin = 1e-6;
constexpr double kComputeMax = 1e12;
constexpr double kProportionsTolerance = 1e-3;

/// The inputs and the unfinished plan of one MakePlan. Until DropIdleNodes(), a NodeId is an index into the
/// facts.
class Planner {
 public:
  Planner(const ModelFacts& model, const std::vector<NodeFacts>& nodes, const PlanRequest& request)
      : model_(model), nodes_(nodes), request_(request) {}

  absl::Status check_inputs() const;

  absl::StatusOr<Plan> make() {
    RETURN_IF_ERROR(check_inputs());
    start_plan();
    RETURN_IF_ERROR(place_segments());
    const bool experts_first = request_.experts.strategy != ExpertStrategy::kWithLayer;
    if (experts_first) RETURN_IF_ERROR(place_experts());
    ASSIGN_OR_RETURN(const std::vector<int64_t> counts, apportion_layers());
    set_stages(counts);
    if (!experts_first) RETURN_IF_ERROR(place_experts());
    RETURN_IF_ERROR(Validate(plan_, model_));
    RETURN_IF_ERROR(check_fit());
    DropIdleNodes(plan_);
    return std::move(plan_);
  }

 private:
  template <typename... Args>
  void note(fmt::format_string<Args...> format, Args&&... args) {
    plan_.notes.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  int64_t layers() const { return std::ssize(model_.layers); }
  bool holds_layers(size_t i) const {
    return nodes_[i].may_hold_layers && (i != 0 || request_.coordinator_holds_layers);
  }

  absl::Status check_counts() const;
  void start_plan();
  absl::Status place_experts();
  absl::Status place_segments();
  absl::StatusOr<std::vector<int64_t>> apportion_layers();
  absl::StatusOr<std::vector<double>> known(double (*fact)(const NodeFacts&), std::string_view what,
                                            std::string_view flag) const;
  absl::StatusOr<std::vector<int64_t>> balanced_split();
  SplitProblem split_problem(bool compute_known) const;
  absl::Status no_split_fits(const SplitProblem& problem) const;
  void set_stages(const std::vector<int64_t>& counts);
  absl::Status check_fit();
  void note_disk(size_t node, const NodeCost& cost);
  std::string or_from_disk() const;

  const ModelFacts& model_;
  const std::vector<NodeFacts>& nodes_;
  const PlanRequest& request_;
  Plan plan_;
};

absl::Status Planner::check_inputs() const {
  if (model_.layers.empty()) return InvalidArgument("planner: the model '{}' has no layers", model_.name);
  if (nodes_.empty()) return InvalidArgument("planner: no nodes; node 0 is the coordinator");
  for (const NodeFacts& node : nodes_) {
    const bool compute_ok = node.compute == 0 || (node.compute >= kComputeMin && node.compute <= kComputeMax);
    if (node.memory_bytes < 0 || node.expert_memory_bytes < 0 || !compute_ok) {
      return InvalidArgument(
          "planner: node '{}' has memory {} B and compute {}: expected bytes >= 0, and 0 or {} to {}",
          node.name, node.memory_bytes, node.compute, kComputeMin, kComputeMax);
    }
  }
  if (request_.kv_positions < 0 || request_.kv_positions > kKvPositionsMax || request_.reserve_bytes < 0 ||
      request_.sequences < 0 || request_.sequences > kSequencesMax) {
    return InvalidArgument(
        "planner: cache for {} positions, states of {} sequences, {} B kept free: expected 0 to {} "
        "positions, 0 to {} sequences and bytes >= 0",
        request_.kv_positions, request_.sequences, request_.reserve_bytes, kKvPositionsMax, kSequencesMax);
  }
  bool any = false;
  for (size_t i = 0; i < nodes_.size(); ++i) any |= holds_layers(i);
  if (!any)
    return InvalidArgument(
        "planner: no node may hold layers; let the coordinator hold some, or add a worker");
  return check_counts();
}

/// Checks the lists of the request: one entry per node, and sensible numbers.
absl::Status Planner::check_counts() const {
  const auto check = [&](const auto& list, std::string_view what) -> absl::Status {
    if (list.size() != nodes_.size()) {
      return InvalidArgument(
          "planner: {} has {} entries for {} nodes; expected one per node, the coordinator's first", what,
          list.size(), nodes_.size());
    }
    for (size_t i = 0; i < list.size(); ++i) {
      if (!(list[i] >= 0))
        return InvalidArgument("planner: {}: {} for node '{}' is below 0", what, list[i], nodes_[i].name);
      if (list[i] > 0 && !holds_layers(i)) {
        return InvalidArgument("planner: {}: {} for node '{}', which may hold no layers; expected 0", what,
                               list[i], nodes_[i].name);
      }
    }
    return absl::OkStatus();
  };
  if (request_.strategy == LayerStrategy::kCustom) {
    RETURN_IF_ERROR(check(request_.proportions, "custom proportions"));
    const double sum = std::accumulate(request_.proportions.begin(), request_.proportions.end(), 0.0);
    if (!(std::abs(sum - 1) <= kProportionsTolerance)) {
      return InvalidArgument("planner: the custom proportions sum to {:.6g}; expected 1", sum);
    }
  }
  if (request_.strategy == LayerStrategy::kSplit) {
    RETURN_IF_ERROR(check(request_.split, "split"));
    int64_t left = layers();
    for (const int64_t count : request_.split) left -= std::min(count, left + 1);
    if (left != 0) {
      return InvalidArgument("planner: the split {} does not sum to the {} layers of '{}'",
                             fmt::join(request_.split, ","), layers(), model_.name);
    }
  }
  return absl::OkStatus();
}

void Planner::start_plan() {
  plan_.epoch = request_.epoch;
  plan_.model_name = model_.name;
  plan_.model_hash = model_.hash;
  plan_.wire_dtype = request_.wire_dtype;
  plan_.activations = request_.activations;
  plan_.kv_dtype = request_.kv_dtype;
  plan_.mtp = request_.uses_mtp(model_);
  for (const NodeFacts& node : nodes_) plan_.nodes.push_back({node.name, node.address});
  plan_.experts.resize(model_.layers.size());
  if (!holds_layers(0)) note("the coordinator '{}' holds no layers, as asked", nodes_[0].name);
}

absl::Status Planner::place_experts() {
  ASSIGN_OR_RETURN(ExpertPlacement placement, PlaceExperts(model_, nodes_, request_.experts, plan_.stages));
  plan_.experts = std::move(placement.experts);
  plan_.notes.push_back(std::move(placement.note));
  return absl::OkStatus();
}

absl::Status Planner::place_segments() {
  if (!request_.segments.asked()) return absl::OkStatus();
  std::vector<bool> may_hold(nodes_.size());
  for (size_t i = 0; i < nodes_.size(); ++i) may_hold[i] = holds_layers(i);
  ASSIGN_OR_RETURN(plan_.segments, PlaceSegments(model_, nodes_, request_.segments, may_hold));
  const auto row = std::ranges::find_if(plan_.segments, [](const auto& owners) { return !owners.empty(); });
  std::vector<std::string> shares;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const auto count = std::ranges::count(*row, NodeId{static_cast<int32_t>(i)});
    if (count > 0) shares.push_back(fmt::format("'{}' {}", nodes_[i].name, count));
  }
  note("{} have {} segments each, of which {}: two messages to each other holder in each such layer",
       SharedParts(plan_, model_), row->size(), Join(shares, ", "));
  return absl::OkStatus();
}

/// A fact of all nodes that may hold layers, 0 for the others. InvalidArgument if it is unknown for one of
/// them.
absl::StatusOr<std::vector<double>> Planner::known(double (*fact)(const NodeFacts&), std::string_view what,
                                                   std::string_view flag) const {
  std::vector<double> values(nodes_.size(), 0.0);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!holds_layers(i)) continue;
    values[i] = fact(nodes_[i]);
    if (values[i] <= 0) {
      return InvalidArgument(
          "planner: the strategy '{}' needs the {} of every node, node '{}' gives none; set {}, or choose "
          "another strategy",
          Name(request_.strategy), what, nodes_[i].name, flag);
    }
  }
  return values;
}

absl::StatusOr<std::vector<int64_t>> Planner::apportion_layers() {
  std::vector<double> weights(nodes_.size(), 0.0);
  std::string why;
  switch (request_.strategy) {
    case LayerStrategy::kUniform:
      for (size_t i = 0; i < nodes_.size(); ++i) weights[i] = holds_layers(i) ? 1.0 : 0.0;
      why = "the same number for each node";
      break;
    case LayerStrategy::kMemory: {
      const auto memory = [](const NodeFacts& node) { return static_cast<double>(node.memory_bytes); };
      ASSIGN_OR_RETURN(weights,
                       known(memory, "memory", "capabilities.memory_gb (or --memory of the worker)"));
      why = "in proportion to memory";
      break;
    }
    case LayerStrategy::kCompute: {
      const auto compute = [](const NodeFacts& node) { return node.compute; };
      ASSIGN_OR_RETURN(weights, known(compute, "compute", "capabilities.gpu_cores, cpu_cores or compute"));
      why = "in proportion to compute";
      break;
    }
    case LayerStrategy::kCustom:
      weights = request_.proportions;
      why = fmt::format("in the proportions {}", fmt::join(weights, ", "));
      break;
    case LayerStrategy::kSplit:
      note("layers (split): {}, as requested", fmt::join(request_.split, ", "));
      return request_.split;
    case LayerStrategy::kBalanced:
    case LayerStrategy::kFastest:  // MakePlan has turned it into a split, or there are no rates.
      return balanced_split();
  }
  std::vector<int64_t> counts = Apportion(layers(), weights);
  note("layers ({}): {}, which gives {}", Name(request_.strategy), why, fmt::join(counts, ", "));
  return counts;
}

SplitProblem Planner::split_problem(bool compute_known) const {
  const bool with_layer = request_.experts.strategy == ExpertStrategy::kWithLayer;
  SplitProblem problem{
      .embed_bytes = model_.embed_bytes, .head_bytes = model_.head_bytes, .tied_head = model_.tied_head};
  for (size_t i = 0; i < nodes_.size(); ++i) {
    problem.nodes.push_back(
        {.compute = compute_known ? nodes_[i].compute : 1.0, .may_hold_layers = holds_layers(i)});
    if (nodes_[i].memory_bytes > 0) {
      problem.nodes[i].room_bytes = nodes_[i].memory_bytes - request_.reserve_bytes;
    }
    if (nodes_[i].expert_memory_bytes > 0) problem.nodes[i].expert_bytes_max = nodes_[i].expert_memory_bytes;
  }
  // An upper bound: nodes that get no layers are not stages.
  const auto stages = std::ranges::count_if(problem.nodes, &SplitProblem::Node::may_hold_layers);
  const int64_t slots = StateSlotsPerSequence(stages) * request_.sequences;
  if (plan_.mtp) problem.apart_bytes = model_.mtp_embed_bytes();
  std::vector<int64_t> spread(nodes_.size(), 0);  // Bytes of experts, where they are not with their layers.
  for (size_t l = 0; l < model_.layers.size(); ++l) {
    const std::span<const NodeId> segments = plan_.segment_owners(LayerId{static_cast<int32_t>(l)});
    const LayerFacts layer = segments.empty() ? model_.layers[l] : WithoutFeedForward(model_.layers[l]);
    for (const NodeId holder : segments) {
      problem.nodes[static_cast<size_t>(holder.value)].busy_bytes +=
          static_cast<double>(layer.feed_forward_bytes) / static_cast<double>(segments.size());
    }
    const int64_t kv =
        KvBytesPerPosition(layer, request_.kv_dtype) * request_.kv_positions + layer.state_bytes * slots;
    const int64_t active = std::min(model_.top_k, layer.experts) * layer.expert_bytes;
    problem.layers.push_back({.held_bytes = layer.bytes + kv,
                              .expert_bytes = with_layer ? layer.experts * layer.expert_bytes : 0,
                              .read_bytes = layer.bytes + (with_layer ? active : 0)});
    if (plan_.mtp && l + 1 == model_.layers.size())
      problem.layers.back().held_bytes += MtpBytes(*model_.mtp, request_);
    for (const ExpertHolders& holders : plan_.experts[l]) {
      const auto owner = static_cast<size_t>(holders.owner.value);
      problem.nodes[owner].busy_bytes += static_cast<double>(active) / layer.experts;
      spread[owner] += layer.expert_bytes;
      for (const NodeId replica : holders.replicas)
        spread[static_cast<size_t>(replica.value)] += layer.expert_bytes;
    }
  }
  const std::vector<int64_t> segments = SegmentBytesOf(plan_, model_);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    SplitProblem::Node& node = problem.nodes[i];
    if (node.room_bytes != SplitProblem::kUnlimited)
      node.room_bytes -= segments[i] + std::min(spread[i], node.expert_bytes_max);
  }
  return problem;
}

absl::StatusOr<std::vector<int64_t>> Planner::balanced_split() {
  bool compute_known = true;
  for (size_t i = 0; i < nodes_.size(); ++i) compute_known &= !holds_layers(i) || nodes_[i].compute > 0;
  SplitProblem problem = split_problem(compute_known);
  for (SplitProblem::Node& node : problem.nodes) {
    if (!node.may_hold_layers) node = {.compute = 1, .busy_bytes = 0, .may_hold_layers = false};
  }
  if (const std::optional<std::vector<int64_t>> counts = BalancedSplit(problem)) {
    note(
        "layers (balanced): the slowest node reads as few bytes per token and compute as possible, which "
        "gives {}",
        fmt::join(*counts, ", "));
    if (!compute_known) note("not every node gives its compute: all are assumed equally fast");
    return *counts;
  }
  return no_split_fits(problem);
}

absl::Status Planner::no_split_fits(const SplitProblem& problem) const {
  const std::vector<int64_t> counts = GreedySplit(problem);
  size_t last = nodes_.size() - 1;
  while (!holds_layers(last)) --last;
  const int64_t placed = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t lack =
      problem.held_bytes({placed - counts[last], layers()}, problem.nodes[last].expert_bytes_max) -
      problem.nodes[last].room_bytes;
  std::vector<std::string> rooms;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!holds_layers(i)) continue;
    rooms.push_back(fmt::format("'{}' {}", nodes_[i].name,
                                FormatBytes(std::max<int64_t>(0, problem.nodes[i].room_bytes))));
  }
  return ResourceExhausted(
      "planner: '{}' needs {} for layers and a cache of {} positions, and no split fits into {}. If each "
      "node "
      "in order takes as many layers as fit, layers [{}, {}) remain: node '{}' lacks {} ({} B). Add a node "
      "or "
      "memory, spread the experts, use fewer cache positions, or choose a model of fewer bits{}",
      model_.name, FormatBytes(problem.held_bytes({0, layers()})), request_.kv_positions, Join(rooms, ", "),
      placed, layers(), nodes_[last].name, FormatBytes(lack), lack, or_from_disk());
}

void Planner::set_stages(const std::vector<int64_t>& counts) {
  int64_t begin = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    plan_.stages.push_back({NodeId{static_cast<int32_t>(i)}, {begin, begin + counts[i]}});
    begin += counts[i];
  }
  SHOAL_CHECK_EQ(begin, layers());
}

/// What else a model with experts may do that does not fit.
std::string Planner::or_from_disk() const {
  if (model_.top_k == 0) return "";
  return ". Or let a node keep part of its experts on its disk: --expert-memory SIZE of serve and worker "
         "says how "
         "much of them is in memory";
}

void Planner::note_disk(size_t node, const NodeCost& cost) {
  if (cost.expert_disk_bytes == 0) return;
  const double bytes = DiskBytesPerToken(plan_, model_, NodeId{static_cast<int32_t>(node)}, cost);
  const double resident = static_cast<double>(cost.expert_bytes) /
                          static_cast<double>(cost.expert_bytes + cost.expert_disk_bytes);
  std::string time = "its disk was not measured (shoal profile)";
  if (nodes_[node].disk_mbs > 0) {
    time = fmt::format("{:.2f} s a token from its disk alone, at {:.0f} MB/s; predictions leave that out",
                       bytes / (nodes_[node].disk_mbs * 1e6), nodes_[node].disk_mbs);
  }
  note(
      "node '{}' has {} of {} of its experts in memory and reads the others when they are wanted: at a hit "
      "rate of "
      "{:.0f} %, as if all were picked alike, {} a token; {}",
      nodes_[node].name, FormatBytes(cost.expert_bytes),
      FormatBytes(cost.expert_bytes + cost.expert_disk_bytes), 100 * resident,
      FormatBytes(static_cast<int64_t>(bytes)), time);
}

absl::Status Planner::check_fit() {
  const std::vector<NodeCost> costs =
      NodeCosts(plan_, model_, {request_.kv_positions, request_.sequences}, nodes_);
  std::vector<std::string> unknown;
  std::vector<std::string> lacking;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const int64_t need = costs[i].total_bytes() + request_.reserve_bytes;
    if (costs[i].total_bytes() == 0) continue;
    if (nodes_[i].memory_bytes == 0) unknown.push_back(nodes_[i].name);
    if (nodes_[i].memory_bytes == 0 || need <= nodes_[i].memory_bytes) continue;
    const int64_t lack = need - nodes_[i].memory_bytes;
    const Range range = plan_.layers_of(NodeId{static_cast<int32_t>(i)});
    lacking.push_back(fmt::format(
        "node '{}' lacks {} ({} B): layers [{}, {}) and its experts take {}, the cache for {} positions {}, "
        "{} "
        "stay free, and it has {}",
        nodes_[i].name, FormatBytes(lack), lack, range.begin, range.end, FormatBytes(costs[i].weight_bytes()),
        request_.kv_positions, FormatBytes(costs[i].cache_bytes()), FormatBytes(request_.reserve_bytes),
        FormatBytes(nodes_[i].memory_bytes)));
  }
  if (!lacking.empty()) {
    return ResourceExhausted(
        "planner: {}. Use the strategy 'balanced', give it fewer layers or experts, use fewer cache "
        "positions, "
        "add a node, or choose a model of fewer bits{}",
        Join(lacking, "; "), or_from_disk());
  }
  for (size_t i = 0; i < nodes_.size(); ++i) note_disk(i, costs[i]);
  if (!unknown.empty()) note("memory unknown, assumed unlimited: {}", Join(unknown, ", "));
  return absl::OkStatus();
}

}  // namespace

int64_t MtpBytes(const MtpFacts& mtp, const PlanRequest& request) {
  return mtp.bytes + KvBytesPerPosition(mtp, request.kv_dtype) * request.kv_positions;
}

namespace {

absl::StatusOr<Plan> PlanAsAsked(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                 const PlanRequest& request);

/// The first error, if all beginnings have one.
absl::StatusOr<Plan> PlanByUse(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                               const PlanRequest& request) {
  absl::Status first;
  for (const PlanRequest& begin : BeginningsByUse(request)) {
    absl::StatusOr<Plan> plan = PlanAsAsked(model, nodes, begin);
    if (plan.ok()) {
      ASSIGN_OR_RETURN(*plan, PlaceByUse(model, nodes, request, *std::move(plan)));
      DropIdleNodes(*plan);
      return plan;
    }
    first.Update(plan.status());
  }
  return first;
}

absl::StatusOr<Plan> PlanAsAsked(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                 const PlanRequest& request) {
  if (PlacesByUse(request.experts)) return PlanByUse(model, nodes, request);
  Planner planner(model, nodes, request);
  if (request.strategy != LayerStrategy::kFastest) return planner.make();
  RETURN_IF_ERROR(planner.check_inputs());
  // The search for the fastest split of layers knows whole layers only.
  if (!request.segments.asked() && !NodeWithoutRates(nodes).has_value())
    return MakeFastestPlan(model, nodes, request);
  PlanRequest balanced = request;
  balanced.strategy = LayerStrategy::kBalanced;
  return Planner(model, nodes, balanced).make();
}

// A head that only drafts keeps no model from being served.
absl::StatusOr<Plan> PlanWithOrWithoutMtp(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                          const PlanRequest& request) {
  absl::StatusOr<Plan> plan = PlanAsAsked(model, nodes, request);
  if (!absl::IsResourceExhausted(plan.status()) || !request.uses_mtp(model)) return plan;
  PlanRequest without = request;
  without.mtp = false;
  absl::StatusOr<Plan> smaller = PlanAsAsked(model, nodes, without);
  if (!smaller.ok()) return plan;
  smaller->notes.push_back("the head for multi-token prediction is left out: there is no room for it");
  return smaller;
}

/// Of the plans that share feed-forwards, where nobody said whether they are to: the best prediction, or the first that
/// fits where there are no rates.
absl::StatusOr<Plan> PlanWithSegments(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                      const PlanRequest& request) {
  absl::StatusOr<Plan> best = NotFound("planner: no plan that shares feed-forwards fits");
  double best_value = 0;
  for (const SegmentRequest::Kind kind : {SegmentRequest::Kind::kAll, SegmentRequest::Kind::kRates}) {
    PlanRequest shared = request;
    shared.strategy = LayerStrategy::kBalanced;
    shared.segments.kind = kind;
    absl::StatusOr<Plan> plan = PlanWithOrWithoutMtp(model, nodes, shared);
    if (!plan.ok()) continue;
    const absl::StatusOr<double> value = PredictedValue(*plan, model, nodes, request);
    if (best.ok() && (!value.ok() || *value <= best_value)) continue;
    best_value = value.value_or(0);
    best = std::move(plan);
  }
  return best;
}

/// What is worth two more messages in each layer.
constexpr double kSegmentsWorthwhile = 1.1;

/// `plan`, or one that shares feed-forwards: where it is clearly faster, or where no other fits.
absl::StatusOr<Plan> WithSegmentsWherePays(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                           const PlanRequest& request, absl::StatusOr<Plan> plan) {
  const bool may_choose = request.segments.kind == SegmentRequest::Kind::kWherePays &&
                          request.wire_dtype == Plan::WireDtype::kExact;
  const bool fastest = request.strategy == LayerStrategy::kFastest;
  if (!may_choose || (!fastest && request.strategy != LayerStrategy::kBalanced)) return plan;
  if (!CanHaveSegments(model, nodes.size())) return plan;
  if (plan.ok() ? !fastest || !plan->segments.empty() : !absl::IsResourceExhausted(plan.status()))
    return plan;
  absl::StatusOr<Plan> shared = PlanWithSegments(model, nodes, request);
  if (!shared.ok()) return plan;
  if (!plan.ok()) {
    shared->notes.push_back(fmt::format(
        "{} are shared since no plan with whole layers fits; --split-ffn off has that said instead",
        SharedParts(*shared, model)));
    return shared;
  }
  const absl::StatusOr<double> whole = PredictedValue(*plan, model, nodes, request);
  const absl::StatusOr<double> divided = PredictedValue(*shared, model, nodes, request);
  if (!whole.ok() || !divided.ok()) return plan;
  const double margin = *whole < 0 ? 1 / kSegmentsWorthwhile : kSegmentsWorthwhile;
  if (*divided <= *whole * margin) return plan;
  shared->notes.push_back(fmt::format(
      "{} are shared since that is faster: {} are predicted, with whole layers {}; --split-ffn off "
      "keeps them whole",
      SharedParts(*shared, model), ValueText(*divided, request.objective),
      ValueText(*whole, request.objective)));
  for (std::string& note : AlternativeNotes(model, nodes, request, *shared))
    shared->notes.push_back(std::move(note));
  return shared;
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                              const PlanRequest& request) {
  ASSIGN_OR_RETURN(Plan plan,
                   WithSegmentsWherePays(model, nodes, request, PlanWithOrWithoutMtp(model, nodes, request)));
  NoteRounding(plan);
  return plan;
}

}  // namespace shoal
