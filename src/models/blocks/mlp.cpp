#include "models/blocks/mlp.h"

#include "base/status.h"
#include "models/step_profile.h"

namespace shoal {

absl::StatusOr<Mlp> Mlp::Load(const WeightReader& reader, const DenseSpec& spec, ThreadPool& pool) {
  Mlp mlp;
  ASSIGN_OR_RETURN(mlp.gate_, Linear::Load(reader, spec.gate, pool));
  ASSIGN_OR_RETURN(mlp.up_, Linear::Load(reader, spec.up, pool));
  ASSIGN_OR_RETURN(mlp.down_, Linear::Load(reader, spec.down, pool));
  return mlp;
}

absl::Status Mlp::forward(const ComputeContext& context, LinearInput& input, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> gate = context.arena->allocate_rows<float>(input.rows(), gate_.rows());
  const MatView<float> up = context.arena->allocate_rows<float>(input.rows(), up_.rows());
  PartTimer timer(context, StepPart::kGateUp);
  const LinearTask tasks[] = {{&gate_, gate}, {&up_, up}};
  RETURN_IF_ERROR(RunLinears(context, input, tasks));
  timer.next(StepPart::kActivation);
  context.for_rows(gate.rows, gate.cols, [&](Range rows) {
    context.kernels->silu_mul({.gate = gate, .up = up, .out = gate, .rows = rows});
  });
  timer.next(StepPart::kDown);
  LinearInput hidden(gate);
  const LinearTask down[] = {{&down_, y}};
  return RunLinears(context, hidden, down);
}

}  // namespace shoal
