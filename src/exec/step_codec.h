// Steps and results as frames. A step frame carries the step header, what earlier stages have to report
// (timings, traces) and the rows; docs/wire.md has the layout.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "exec/step.h"
#include "numeric/row_format.h"
#include "numeric/view.h"
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

/// A step on its way to a stage. rows is empty for the first stage, which embeds the tokens itself.
struct StepMessage {
  Step step;
  StepReport report;
  std::vector<float> rows;  ///< [step.rows(), cols], or empty.
  int64_t cols = 0;
};

/// rows: [step.rows(), D] f32, or no data for the first stage. Another format than exact needs RowsFit(rows).
Frame EncodeStep(Epoch epoch, const Step& step, const StepReport& report, MatView<const float> rows,
                 RowFormat format = RowFormat::kExact);

/// How the rows of a step must come.
struct RowsExpected {
  RowFormat format = RowFormat::kExact;
  int64_t cols = 0;  ///< 0: any.
};
/// InvalidArgument says which field is wrong. Counts are bounded by the payload's size before anything is
/// allocated; that the step makes sense for this node is ValidateStep's matter (stage_runner.h).
absl::StatusOr<StepMessage> DecodeStep(const Frame& frame, const RowsExpected& expected = {});

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

/// Masks of sampled rows of `step`. Each travels in the smallest of three forms: its words, the ids that it allows,
/// or those that it forbids.
Frame EncodeMasks(Epoch epoch, StepId step, std::span<const TokenMask> masks);
/// A mask has a bit for each of `vocabulary` ids at most: what a sparse form may unfold to. InvalidArgument names
/// the field.
absl::StatusOr<std::vector<TokenMask>> DecodeMasks(const Frame& frame, int64_t vocabulary);

/// A code as gRPC numbers them, 0 for OK, then the message of an error.
void WriteStatus(PayloadWriter& out, const absl::Status& status);
absl::Status ReadStatus(PayloadReader& in, std::string_view field, absl::Status& status);

}  // namespace shoal
