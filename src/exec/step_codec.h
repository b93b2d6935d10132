// Steps as frames, and the masks of their sampled rows. A step frame carries the step header, what earlier
// stages have to report (result_codec.h) and the rows; docs/wire.md has the layout.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "exec/result_codec.h"
#include "exec/step.h"
#include "numeric/row_format.h"
#include "numeric/view.h"
#include "wire/frame.h"

namespace shoal {

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

/// Masks of sampled rows of `step`. Each travels in the smallest of three forms: its words, the ids that it allows,
/// or those that it forbids.
Frame EncodeMasks(Epoch epoch, StepId step, std::span<const TokenMask> masks);
/// A mask has a bit for each of `vocabulary` ids at most: what a sparse form may unfold to. InvalidArgument names
/// the field.
absl::StatusOr<std::vector<TokenMask>> DecodeMasks(const Frame& frame, int64_t vocabulary);

}  // namespace shoal
