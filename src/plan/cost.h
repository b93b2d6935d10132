// What a plan costs: memory per node, messages and bytes per token. Printed by `shoal plan`, used by the
// planner's fit check.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

struct NodeCost {
  int64_t layer_bytes = 0;   ///< Weights of its layers without routed experts.
  int64_t expert_bytes = 0;  ///< Routed experts that it holds, replicas too.
  int64_t ends_bytes = 0;    ///< Embedding (first stage) and head (last stage).
  int64_t kv_bytes = 0;      ///< Cache of its layers.
  int64_t weight_bytes() const { return layer_bytes + expert_bytes + ends_bytes; }
  int64_t total_bytes() const { return weight_bytes() + kv_bytes; }
};

/// One entry per node of the plan. kv_positions: cache positions in each layer (blocks x positions per
/// block). The plan is valid for the model (CHECKed).
std::vector<NodeCost> NodeCosts(const Plan& plan, const ModelFacts& model, int64_t kv_positions);

/// What one token of one sequence sends between nodes in a decode step.
struct TokenCost {
  int64_t hops = 0;  ///< Step messages: coordinator to the first stage (if another node), and stage to stage.
  int64_t expert_calls =
      0;  ///< One per (MoE layer, remote owner), at most top_k a layer. Request and reply count as one.
  int64_t results = 0;  ///< Sampled ids back to the coordinator: 1 if the last stage is another node.
  int64_t bytes = 0;    ///< Rows, ids and weights of all of these at most; without frame headers.
  int64_t messages() const { return hops + expert_calls + results; }
};

/// The most that a token can cost: every remote owner is asked wherever top_k allows it. The plan is valid
/// for the model (CHECKed).
TokenCost DecodeCost(const Plan& plan, const ModelFacts& model);

/// The report of `shoal plan` for people: a table of nodes (layers, experts, bytes), cost per token, notes.
std::string PlanReport(const Plan& plan, const ModelFacts& model, int64_t kv_positions);

/// The same for scripts: {"plan": ..., "nodes": [{"name", "layers", "expert_slots", "weight_bytes", ...}],
/// "per_token": {...}}.
std::string PlanReportJson(const Plan& plan, const ModelFacts& model, int64_t kv_positions);

}  // namespace shoal
