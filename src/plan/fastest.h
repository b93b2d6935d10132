// Plans by prediction: the strategy "fastest", and what other plans would do. Private to plan/, but for tests.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"
#include "plan/plan.h"
#include "plan/planner.h"
#include "plan/predict.h"

namespace shoal {

/// The value of an objective: tokens per second, or for kTtft the negative time, so that more is better.
double ValueOf(const Predictor& predictor, Objective objective);

/// ValueOf a plan for the request's objective and links. InvalidArgument: the rates of a node are missing.
absl::StatusOr<double> PredictedValue(const Plan& plan, const ModelFacts& model,
                                      const std::vector<NodeFacts>& nodes, const PlanRequest& request);

/// "31.2 tokens/s with 16 streams".
std::string ValueText(double value, Objective objective);

/// The name of the first node that may hold something and has no rates; nothing if all have.
std::optional<std::string> NodeWithoutRates(const std::vector<NodeFacts>& nodes);

/// MakePlan for LayerStrategy::kFastest. HasRates for every node that may hold something.
absl::StatusOr<Plan> MakeFastestPlan(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                     const PlanRequest& request);

/// What `node` does alone with the whole model, as if the others were not there; nothing if it may not hold everything, has
/// no rates or too little memory.
struct Alone {
  double tokens_per_s_1 = 0;   ///< Of one stream.
  double tokens_per_s_16 = 0;  ///< Of 16 together.
};
std::optional<Alone> PredictAlone(const ModelFacts& model, const NodeFacts& node, const PlanRequest& request);

/// What people should know who have a plan over several machines: that one of them is faster, or that replicas of the whole
/// model serve more. Empty where rates are missing.
std::vector<std::string> AlternativeNotes(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                          const PlanRequest& request, const Plan& plan);

}  // namespace shoal
