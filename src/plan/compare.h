// What every strategy would come to for the same nodes and model, side by side: the table of `shoal plan`. Pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "plan/cost.h"
#include "plan/facts.h"
#include "plan/placed_by_use.h"
#include "plan/plan.h"
#include "plan/planner.h"

namespace shoal {

/// What is predicted of a plan. docs/planning.md says how.
struct Predicted {
  double tokens_per_s_1 = 0;   ///< One stream, 1024 positions in the cache.
  double tokens_per_s_16 = 0;  ///< 16 such streams together.
  double ttft_2k_s = 0;        ///< To the first token of a prompt of 2048 tokens.
  double ttft_16k_s = 0;       ///< Of 16384.
  std::string bound_1;  ///< What most of a token's time goes to: "node 'a': reading", "link 'a' - 'b'".
  std::string bound_16;
};

struct ComparedPlan {
  std::string name;             ///< Of the strategy, or of several that come to the same plan.
  std::string error;            ///< Why there is no such plan; then the rest is empty.
  bool chosen = false;          ///< It is the plan in question.
  std::vector<int64_t> layers;  ///< Of each stage.
  std::string experts;          ///< "with layer", "over 3 nodes"; of a dense model "", or who has segments.
  std::optional<Predicted> predicted;  ///< Nothing where rates are missing.
  struct Memory {
    std::string node;
    int64_t weight_bytes = 0;
    int64_t memory_bytes = 0;  ///< 0: unknown.
    int64_t headroom_bytes() const { return memory_bytes - weight_bytes; }
  };
  std::vector<Memory> memory;           ///< Of its nodes.
  std::optional<int64_t> sequences_2k;  ///< Of 2048 positions that fit at once; nothing: memory is unknown.
  TokenCost per_token;
};

/// Experts placed otherwise, with the layers as the request says.
struct ComparedExperts {
  std::string name;   ///< "round_robin", "by_load, hot:1.0 GiB"; "this plan".
  std::string error;  ///< Why there is no such plan; then there is no traffic.
  std::optional<ExpertTraffic> traffic;
};

struct Comparison {
  std::vector<ComparedPlan> plans;
  std::vector<ComparedExperts>
      experts;                     ///< The plan in question first; empty where no use of experts is known.
  std::string not_predicted;       ///< Why there are no predictions; empty: there are.
  bool links_assumed = false;      ///< Some links were not measured.
  std::vector<std::string> notes;  ///< "one machine is faster ...", "two replicas serve more ...".
};

/// InvalidArgument names the node whose rates are missing. Links that are not known are assumed (Machines).
absl::StatusOr<Predicted> PredictPlan(const Plan& plan, const ModelFacts& model,
                                      const std::vector<NodeFacts>& nodes,
                                      const std::vector<LinkFacts>& links);
/// {"tokens_per_s_1", "tokens_per_s_16", "ttft_2k_s", "ttft_16k_s", "bound_1", "bound_16"}, as `shoal plan --json` and
/// /cluster/status show it.
nlohmann::ordered_json PredictedJson(const Predicted& predicted);
/// The same, or {"error"} where nothing could be predicted.
nlohmann::ordered_json PredictedJson(const absl::StatusOr<Predicted>& predicted);
/// [{"a", "b", "rtt_us", "mbs"}]
nlohmann::ordered_json LinksJson(const std::vector<LinkFacts>& links);

/// All strategies that the facts permit, the three objectives of "fastest", `chosen` itself where none of them gives it, and
/// each node that can hold the whole model alone. context: cache sizes of `request` count as asked.
Comparison CompareStrategies(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                             const PlanRequest& request, const Plan& chosen);

/// A table, and what to conclude.
std::string ComparisonText(const Comparison& comparison);

}  // namespace shoal
