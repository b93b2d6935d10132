// What stages have to say of a step, as frames: what travels with it from stage to stage, its result, its failure.
// docs/wire.md has the layout.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "exec/step.h"
#include "wire/frame.h"
#include "wire/payload.h"

namespace shoal {

/// What travels with a step from stage to stage and ends in its result.
struct StepReport {
  /// Sequences that failed in earlier stages. Their slices have left the step, and their rows the traces.
  std::vector<SeqFailure> failures;
  std::vector<StageTiming> timings;
  std::vector<RoutingTrace> routing;
  bool operator==(const StepReport&) const = default;
};

void WriteReport(PayloadWriter& out, const StepReport& report);
/// InvalidArgument names the field, as do all below.
absl::StatusOr<StepReport> ReadReport(PayloadReader& in);

Frame EncodeResult(Epoch epoch, const StepResult& result);
absl::StatusOr<StepResult> DecodeResult(const Frame& frame);

/// The failure of a step, told to the coordinator. The message already names node, layer and step.
struct StepError {
  absl::Status status;
  NodeId suspected{-1};  ///< The node at fault; -1: the one that tells of it.
};
Frame EncodeStepError(Epoch epoch, StepId step, LayerId layer, const StepError& error);
/// InvalidArgument where the frame itself is bad. Whether there is such a node is the reader's matter.
absl::StatusOr<StepError> DecodeStepError(const Frame& frame);

/// A code as gRPC numbers them, 0 for OK, then the message of an error.
void WriteStatus(PayloadWriter& out, const absl::Status& status);
absl::Status ReadStatus(PayloadReader& in, std::string_view field, absl::Status& status);

}  // namespace shoal
