// From facts to a Plan. Pure functions: the same facts give the same plan on every machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

/// How layers are shared out. Stages follow the order of the nodes, so the coordinator comes first.
enum class LayerStrategy : uint8_t {
  kUniform,   ///< As many layers each.
  kMemory,    ///< In proportion to memory_bytes.
  kCompute,   ///< In proportion to compute.
  kBalanced,  ///< The smallest slowest stage (bytes read per token over compute) that fits every node's
              ///< memory.
  kCustom,    ///< In proportion to PlanRequest::proportions.
  kSplit,     ///< PlanRequest::split, exactly.
};

/// How routed experts are shared out.
enum class ExpertStrategy : uint8_t {
  kWithLayer,   ///< On the node that runs their layer.
  kContiguous,  ///< Node i of n owns the i-th of n equal ranges.
  kRoundRobin,  ///< Expert e is on node e mod n.
  kExplicit,    ///< ExpertRequest::lists.
  kRandom,      ///< By seed, each (layer, expert) by itself: for tests of placements.
};

struct ExpertRequest {
  ExpertStrategy strategy = ExpertStrategy::kWithLayer;
  /// Spread over the first so many nodes that may hold experts; 0 = all of them.
  int32_t over_nodes = 0;
  /// kExplicit: expert ids per node (one list per node, in order), the same in every layer. The first node
  /// that lists an expert owns it, others that do hold replicas.
  std::vector<std::vector<int32_t>> lists;
  uint64_t seed = 0;  ///< kRandom.
  /// Copies of every expert beside the owner's, on the nodes that follow it (kRandom: on any).
  int32_t replicas = 0;
};

struct PlanRequest {
  LayerStrategy strategy = LayerStrategy::kBalanced;
  std::vector<double> proportions;  ///< kCustom: one per node, >= 0, sum 1 within 1e-3.
  std::vector<int64_t> split;       ///< kSplit: layers per node, sum L.
  ExpertRequest experts;
  bool coordinator_holds_layers = true;
  int64_t kv_positions = 0;   ///< Cache positions that every node must have room for, in each of its layers.
  int64_t sequences = 0;      ///< Sequences whose states every node must have room for.
  int64_t reserve_bytes = 0;  ///< Memory that each node keeps free for all else.

  Epoch epoch{1};
  Plan::WireDtype wire_dtype = Plan::WireDtype::kF32;
  Plan::Activations activations = Plan::Activations::kInt8;
  Plan::KvDtype kv_dtype = Plan::KvDtype::kF16;
};

/// A valid plan (Validate(plan, model) is OK) that fits the memory of every node that says its memory.
/// nodes[0] is the coordinator and always part of the plan; another node that gets neither layers nor experts
/// is left out. Every decision is explained in Plan::notes. InvalidArgument: the request does not suit the
/// nodes or the model (says which number). ResourceExhausted: it does not fit (says which node lacks how many
/// bytes, and what to do).
absl::StatusOr<Plan> MakePlan(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                              const PlanRequest& request);

/// "uniform", "memory" (or "memory_proportional"), "compute" (or "compute_proportional"), "balanced",
/// "custom", "split".
absl::StatusOr<LayerStrategy> ParseLayerStrategy(std::string_view text);
std::string_view Name(LayerStrategy strategy);

/// "with_layer", "contiguous" (or "even"), "round_robin", "explicit", "random".
absl::StatusOr<ExpertStrategy> ParseExpertStrategy(std::string_view text);
std::string_view Name(ExpertStrategy strategy);

/// The words of --experts: a strategy name, with an argument where it takes one: "contiguous:3" and
/// "round_robin:3" (over 3 nodes), "random:SEED", "explicit:0-3;4-7" (ids of node 0; of node 1; ...).
absl::StatusOr<ExpertRequest> ParseExpertRequest(std::string_view text);

/// "3,2,1" -> {3, 2, 1}, the words of --split.
absl::StatusOr<std::vector<int64_t>> ParseSplit(std::string_view text);

}  // namespace shoal
