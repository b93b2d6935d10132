// What another plan of the members would come to: POST /cluster/plan.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan_question.h"
#include "app/command.h"

namespace shoal {

/// What a question starts from.
struct PlanGround {
  /// Those that plans count on, this process first, with what other models leave them.
  std::vector<NodeFacts> nodes;
  /// As the server was asked, with the size of the cache (zeros: by memory); its links are those that were measured.
  PlanRequest request;
};

/// The report of `shoal plan --json` for the plan that the question is about, and beside it "predicted" (as PredictedJson, or
/// {"error"}), "facts": [{"name", "memory_bytes", "device", "rates", "added"}], "links": [{"a", "b", "rtt_us", "mbs"}].
/// in_force: nullptr where no plan was made so far. Errors as MakePlan; NotFound: a node that is not there;
/// FailedPrecondition: nothing is asked, and no plan was made so far.
absl::StatusOr<std::string> AnswerPlanQuestion(const PlanQuestion& question, PlanGround ground,
                                               const Plan* in_force, const OpenedModel& model);

}  // namespace shoal
