// Makes a plan from facts. Pure functions: the same facts give the same plan on every machine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "plan/facts.h"
#include "plan/plan.h"
#include "plan/segment_placement.h"

namespace shoal {

struct ExpertStats;

/// How layers are divided among nodes. Stages follow the order of the nodes, so the coordinator comes first.
enum class LayerStrategy : uint8_t {
  kUniform,  ///< The same number for each node.
  kMemory,   ///< In proportion to memory_bytes.
  kCompute,  ///< In proportion to compute.
  /// Minimizes the time of the slowest stage (bytes read per token / compute), within the memory of every
  /// node.
  kBalanced,
  kCustom,  ///< In proportion to PlanRequest::proportions.
  kSplit,   ///< Exactly PlanRequest::split.
  /// The best predicted objective (predict.h), where the rates of every node that may hold something are measured;
  /// otherwise as kBalanced. Chooses the placement of experts, too, where none was asked for.
  kFastest,
};

/// What kFastest makes as good as it can.
enum class Objective : uint8_t {
  kThroughput,  ///< Tokens per second of 16 streams together.
  kLatency,     ///< Tokens per second of a single stream.
  kTtft,        ///< The time to the first token of a prompt of 2048 tokens.
};

/// Which nodes kFastest gives work. A node that is left out is dropped from the plan.
enum class NodeUse : uint8_t {
  kAll,  ///< Every node that may hold layers gets one at least, as far as memory and layers suffice: they were asked for.
  kBest,  ///< Only those that the objective gains by.
};

/// How routed experts are divided among nodes.
enum class ExpertStrategy : uint8_t {
  kWithLayer,   ///< On the node that runs their layer.
  kContiguous,  ///< Node i of n owns the i-th of n ranges of nearly equal size.
  kRoundRobin,  ///< Node e mod n owns expert e.
  kExplicit,    ///< As in ExpertRequest::lists.
  kRandom,      ///< By seed, independently for each (layer, expert): for tests of placements.
  kByLoad,  ///< So that measured rows x bytes are divided by the rates of the nodes; unmeasured: kRoundRobin.
  /// As kByLoad, but those that were used together on one node, the layer's first; unmeasured: kWithLayer, or kRoundRobin
  /// where that does not fit.
  kByLocality,
};

struct ExpertRequest {
  bool asked = false;  ///< Whether somebody chose what follows; else kFastest may choose.
  ExpertStrategy strategy = ExpertStrategy::kWithLayer;
  /// How many of the nodes that may hold experts get some, in order; 0: all.
  int32_t over_nodes = 0;
  /// kExplicit: one list of expert ids per node, in order, for every layer. The first node that lists an
  /// expert owns it; others that list it hold replicas.
  std::vector<std::vector<int32_t>> lists;
  uint64_t seed = 0;  ///< For kRandom.
  /// Replicas of every expert, on the nodes that follow the owner (kRandom: on any).
  int32_t replicas = 0;
  /// Instead of `replicas`: memory of each node, at most, for copies of the experts that were used most; 0: none.
  int64_t hot_bytes = 0;
  std::shared_ptr<const ExpertStats>
      stats;  ///< What was measured; nullptr: nothing. Of the model that is planned for.
};

struct PlanRequest {
  LayerStrategy strategy = LayerStrategy::kBalanced;
  std::vector<double> proportions;  ///< kCustom: one per node, >= 0, with a sum of 1 within 1e-3.
  std::vector<int64_t> split;       ///< kSplit: layers per node, with a sum of L.
  Objective objective = Objective::kThroughput;  ///< kFastest.
  NodeUse node_use = NodeUse::kAll;              ///< kFastest.
  std::vector<LinkFacts> links;                  ///< Those that were measured; for predictions.
  ExpertRequest experts;
  SegmentRequest segments;
  bool coordinator_holds_layers = true;
  int64_t kv_positions = 0;   ///< Cache positions that every node must have room for, in each of its layers.
  int64_t sequences = 0;      ///< Sequences whose states every node must have room for.
  int64_t reserve_bytes = 0;  ///< Memory that each node keeps free for everything else.

  Epoch epoch{1};
  Plan::WireDtype wire_dtype = Plan::WireDtype::kExact;
  Plan::Activations activations = Plan::Activations::kInt8;
  Plan::KvDtype kv_dtype = Plan::KvDtype::kF16;
  bool mtp = false;  ///< Plan::mtp, of a model that has such a head.

  bool uses_mtp(const ModelFacts& model) const { return mtp && model.mtp.has_value(); }
};

/// Weights and cache that multi-token prediction adds to the last layer's node.
int64_t MtpBytes(const MtpFacts& mtp, const PlanRequest& request);

/// A valid plan (Validate(plan, model) is OK) that fits every node whose memory is known. nodes[0] is the
/// coordinator and always in the plan; another node with neither layers nor experts is dropped. Plan::notes
/// explains each decision. A head for multi-token prediction for which there is no room is left out.
/// Returns InvalidArgument, which names the number, if the request does not fit the nodes or the model;
/// ResourceExhausted if the memory is too small: it says how many bytes which node lacks, and what to do.
absl::StatusOr<Plan> MakePlan(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                              const PlanRequest& request);

/// "uniform", "memory" (or "memory_proportional"), "compute" (or "compute_proportional"), "balanced",
/// "custom", "split", "fastest".
absl::StatusOr<LayerStrategy> ParseLayerStrategy(std::string_view text);
std::string_view Name(LayerStrategy strategy);

/// "with_layer", "contiguous" (or "even"), "round_robin", "explicit", "random", "by_load", "by_locality".
absl::StatusOr<ExpertStrategy> ParseExpertStrategy(std::string_view text);
std::string_view Name(ExpertStrategy strategy);

/// "throughput", "latency", "ttft".
absl::StatusOr<Objective> ParseObjective(std::string_view text);
std::string_view Name(Objective objective);

/// "all", "best".
absl::StatusOr<NodeUse> ParseNodeUse(std::string_view text);
std::string_view Name(NodeUse use);

/// The value of --experts, a strategy with an optional argument:
///   "with_layer"
///   "contiguous:3", "round_robin:3"   over 3 nodes
///   "random:SEED"
///   "explicit:0-3;4-7"                ids of node 0; of node 1; ...
///   "by_load:3", "by_locality:3"      over 3 nodes
absl::StatusOr<ExpertRequest> ParseExpertRequest(std::string_view text);

/// The value of --expert-replicas: a number of replicas of every expert, or "hot:SIZE", such as hot:2GiB. Writes
/// ExpertRequest::replicas and hot_bytes.
absl::Status ParseExpertReplicas(std::string_view text, ExpertRequest& request);

/// "3,2,1" -> {3, 2, 1}: the value of --split.
absl::StatusOr<std::vector<int64_t>> ParseSplit(std::string_view text);

}  // namespace shoal
