#include "compute/blocks/short_conv.h"

#include <utility>

#include "base/status.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"

namespace shoal {

absl::StatusOr<ShortConv> ShortConv::Load(const WeightLoader& loader, const ShortConvSpec& spec,
                                          ThreadPool& pool) {
  ShortConv conv;
  ASSIGN_OR_RETURN(conv.in_, Linear::Load(loader, spec.in, pool));
  ASSIGN_OR_RETURN(conv.o_, Linear::Load(loader, spec.o, pool));
  ASSIGN_OR_RETURN(conv.conv_, StateConvolution::Load(loader, {.taps = {&spec.conv, 1}, .bias = spec.bias},
                                                      spec.channels, ConvActivation::kNone));
  return conv;
}

absl::Status ShortConv::forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                                MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const int64_t tokens = input.rows();
  const int64_t channels = conv_.channels();
  const MatView<float> in = arena.allocate_rows<float>(tokens, 3 * channels);
  const MatView<float> x = in.cols_between(2 * channels, 3 * channels);
  const MatView<float> out = arena.allocate_rows<float>(tokens, channels);
  PhaseTimer timer(context, StepPhase::kQkv);
  const LinearTask projection[] = {{&in_, in, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, projection));

  timer.next(StepPhase::kAttention);
  // Channels are independent, spans of a sequence are not: threads share out the channels.
  context.for_ranges(channels, tokens * channels * (conv_.before_rows() + 3), [&](Range cols) {
    const Range all = input.all_rows();
    MultiplyRows(in.cols_between(cols.begin, cols.end), x.cols_between(cols.begin, cols.end), all);
    conv_.run_spans(*context.kernels, step, x, out, cols);
    MultiplyRows(in.cols_between(channels + cols.begin, channels + cols.end),
                 out.cols_between(cols.begin, cols.end), all);
  });
  timer.next(StepPhase::kAttentionOut);
  LinearInput mixed(out);
  const LinearTask output[] = {{&o_, y, mixed.all_rows()}};
  return RunLinears(context, mixed, output);
}

}  // namespace shoal
