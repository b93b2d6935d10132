// The costs of a plan: memory per node, messages and bytes per token. `shoal plan` prints them; the planner
// checks with them that a plan fits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

struct Comparison;

struct NodeCost {
  int64_t layer_bytes = 0;           ///< Weights of its layers, without routed experts and what has segments.
  int64_t segment_bytes = 0;         ///< Segments of feed-forwards and shared experts that it holds.
  int64_t expert_bytes = 0;          ///< Routed experts that it has in memory, including replicas,
  int64_t expert_disk_bytes = 0;     ///< and those that it reads when they are wanted (NodeFacts).
  int64_t embedding_head_bytes = 0;  ///< Embedding (first stage); head, and that of MTP (last stage).
  int64_t kv_bytes = 0;              ///< Keys and values of its layers, and of MTP.
  int64_t state_bytes = 0;           ///< States of sequences in its layers.
  int64_t weight_bytes() const { return layer_bytes + segment_bytes + expert_bytes + embedding_head_bytes; }
  int64_t cache_bytes() const { return kv_bytes + state_bytes; }
  int64_t total_bytes() const { return weight_bytes() + cache_bytes(); }
};

/// What a process needs beside weights and cache.
inline constexpr int64_t kProcessBytes = int64_t{200} << 20;

/// Bytes per position of the cache of a layer (LayerFacts) or of multi-token prediction (MtpFacts).
template <typename Cached>
int64_t KvBytesPerPosition(const Cached& facts, Plan::KvDtype dtype) {
  if (dtype == Plan::KvDtype::kQ8) return facts.kv_q8_bytes_per_position;
  return facts.kv_values_per_position * (dtype == Plan::KvDtype::kF32 ? 4 : 2);
}

/// The size of the cache on every node.
struct CacheSize {
  int64_t positions = 0;  ///< Per layer: blocks x positions per block.
  int64_t sequences = 0;  ///< Sequences whose states fit at once; for models that keep states.
};

/// Slots for the states of one sequence: one for each step in flight, and one more, so that the slot a step
/// reads is overwritten only after the step has ended. At least three: a step that verifies drafts reads one state, and
/// writes that behind what the sequence has for certain and that behind all drafts.
constexpr int64_t StateSlotsPerSequence(int64_t steps_in_flight) {
  return steps_in_flight < 2 ? 3 : steps_in_flight + 1;
}

/// The costs of each node of the plan, with one step in flight per stage. nodes: those whose memory for experts is
/// limited, by name; others have all in memory. CHECKs that the plan is valid for the model.
std::vector<NodeCost> NodeCosts(const Plan& plan, const ModelFacts& model, const CacheSize& cache,
                                std::span<const NodeFacts> nodes = {});

/// What a decode step of one token reads from the node's disk, where its experts are picked evenly, in bytes.
double DiskBytesPerToken(const Plan& plan, const ModelFacts& model, NodeId node, const NodeCost& cost);

/// What a decode step of one token sends between nodes.
struct TokenCost {
  int64_t hops = 0;  ///< Step messages: coordinator to the first stage (if another node), and stage to stage.
  /// One per (MoE layer, remote owner), at most top_k per layer. Request and reply count as one.
  int64_t expert_calls = 0;
  int64_t segment_calls = 0;  ///< Two per (layer with segments, other holder), likewise.
  int64_t results = 0;        ///< Sampled ids back to the coordinator: 1 if the last stage is another node.
  int64_t bytes = 0;  ///< The most bytes of rows, ids and weights in these messages, without frame headers.
  int64_t messages() const { return hops + expert_calls + segment_calls + results; }
};

/// The maximum cost of a token: in each layer it asks as many remote owners as top_k allows. CHECKs that the
/// plan is valid for the model.
TokenCost DecodeCost(const Plan& plan, const ModelFacts& model);

/// The report of `shoal plan` for people: a table of nodes (layers, experts, bytes), the cost per token, and
/// notes. nodes: as for NodeCosts.
std::string PlanReport(const Plan& plan, const ModelFacts& model, const CacheSize& cache,
                       std::span<const NodeFacts> nodes = {});

/// The report for scripts:
///   {"plan": ..., "nodes": [{"name", "layers", "expert_copies", "weight_bytes", ...}], "per_token": {...},
///    "strategies": [{"name", "chosen", "layers", "predicted": {"tokens_per_s_1", ...}, ...}], "conclusions": [...]}
std::string PlanReportJson(const Plan& plan, const ModelFacts& model, const CacheSize& cache,
                           const Comparison& comparison, std::span<const NodeFacts> facts = {});

}  // namespace shoal
