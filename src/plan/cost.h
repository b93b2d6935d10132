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
  int64_t layer_bytes = 0;           ///< Weights of its layers without routed experts.
  int64_t expert_bytes = 0;          ///< Routed experts that it holds, replicas too.
  int64_t embedding_head_bytes = 0;  ///< Embedding (first stage) and head (last stage).
  int64_t kv_bytes = 0;              ///< Keys and values of its layers.
  int64_t state_bytes = 0;           ///< States of sequences, of its layers.
  int64_t weight_bytes() const { return layer_bytes + expert_bytes + embedding_head_bytes; }
  int64_t cache_bytes() const { return kv_bytes + state_bytes; }
  int64_t total_bytes() const { return weight_bytes() + cache_bytes(); }
};

/// What a cache is to hold.
struct CacheSize {
  int64_t positions = 0;  ///< In each layer (blocks x positions per block).
  int64_t sequences = 0;  ///< Whose states it has room for at once; matters to models that keep states.
};

/// Slots for the states of one sequence: one for each step that may be in flight, and one more, so that what
/// a step reads is overwritten only when it has come back.
constexpr int64_t StateSlotsPerSequence(int64_t steps_in_flight) { return steps_in_flight + 1; }

/// One entry per node of the plan, of which each stage may have a step in flight. The plan is valid for the
/// model (CHECKed).
std::vector<NodeCost> NodeCosts(const Plan& plan, const ModelFacts& model, const CacheSize& cache);

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
std::string PlanReport(const Plan& plan, const ModelFacts& model, const CacheSize& cache);

/// The same for scripts: {"plan": ..., "nodes": [{"name", "layers", "expert_slots", "weight_bytes", ...}],
/// "per_token": {...}}.
std::string PlanReportJson(const Plan& plan, const ModelFacts& model, const CacheSize& cache);

}  // namespace shoal
