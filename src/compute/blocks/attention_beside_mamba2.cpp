#include "compute/blocks/attention_beside_mamba2.h"

#include "base/status.h"
#include "compute/row_ops.h"

namespace shoal {

absl::StatusOr<AttentionBesideMamba2> AttentionBesideMamba2::Load(const WeightLoader& loader,
                                                                  const AttentionBesideMamba2Spec& spec,
                                                                  ThreadPool& pool) {
  AttentionBesideMamba2 both;
  ASSIGN_OR_RETURN(both.attention_, Attention::Load(loader, spec.attention, pool));
  ASSIGN_OR_RETURN(both.mamba_, Mamba2::Load(loader, spec.mamba, pool));
  both.attention_scale_ = spec.attention_scale;
  both.mamba_scale_ = spec.mamba_scale;
  return both;
}

absl::Status AttentionBesideMamba2::forward(const ComputeContext& context, LinearInput& input,
                                            const MixerStep& step, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> out = context.arena->allocate_rows<float>(y.rows, y.cols);
  // A copy, as codes of another group that attention asks for are gone when it returns.
  LinearInput of_attention = input;
  RETURN_IF_ERROR(attention_.forward(context, of_attention, step, y));
  RETURN_IF_ERROR(mamba_.forward(context, input, step, out));
  context.for_rows(y.rows, 3 * y.cols, [&](Range rows) {
    if (attention_scale_ != 1) Multiply(y, attention_scale_, rows);
    if (mamba_scale_ != 1) Multiply(out, mamba_scale_, rows);
    context.kernels->add_rows({.x = out, .y = y, .rows = rows});
  });
  return absl::OkStatus();
}

}  // namespace shoal
