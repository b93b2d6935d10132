#include "compute/blocks/mlp.h"

#include <utility>

#include "base/status.h"
#include "compute/step_profile.h"

namespace shoal {

Mlp::Mlp(const DenseSpec& spec, Linear gate, Linear up, Linear down)
    : gate_(std::move(gate)), up_(std::move(up)), down_(std::move(down)), gating_{spec.gating, spec.limit} {}

absl::StatusOr<Mlp> Mlp::Load(const WeightLoader& loader, const DenseSpec& spec, ThreadPool& pool) {
  ASSIGN_OR_RETURN(std::vector<Linear> in, Linear::LoadTogether(loader, {&spec.gate, &spec.up}, pool));
  ASSIGN_OR_RETURN(Linear down, Linear::Load(loader, spec.down, pool));
  return Mlp(spec, std::move(in[0]), std::move(in[1]), std::move(down));
}

namespace {

std::vector<const LinearSpec*> PartsOf(const std::vector<const DenseSpec*>& specs) {
  std::vector<const LinearSpec*> parts;
  for (const DenseSpec* spec : specs) parts.insert(parts.end(), {&spec->gate, &spec->up, &spec->down});
  return parts;
}

}  // namespace

std::vector<Mlp> Mlp::Join(const std::vector<const DenseSpec*>& specs, std::vector<Linear> linears) {
  std::vector<Mlp> mlps;
  for (size_t i = 0; i < specs.size(); ++i) {
    Linear* const of = &linears[3 * i];
    mlps.push_back(Mlp(*specs[i], std::move(of[0]), std::move(of[1]), std::move(of[2])));
  }
  return mlps;
}

absl::StatusOr<std::vector<Mlp>> Mlp::LoadExperts(const WeightLoader& loader,
                                                  const std::vector<const DenseSpec*>& specs,
                                                  ThreadPool& pool) {
  ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadTogether(loader, PartsOf(specs), pool));
  return Join(specs, std::move(linears));
}

absl::StatusOr<std::vector<Mlp>> Mlp::LoadWithoutWeights(const WeightLoader& loader,
                                                         const std::vector<const DenseSpec*>& specs) {
  ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadWithoutWeights(loader, PartsOf(specs)));
  return Join(specs, std::move(linears));
}

void Mlp::place(const std::shared_ptr<std::byte>& memory, const std::array<int64_t, 3>& offsets) {
  Linear* const parts[] = {&gate_, &up_, &down_};
  for (size_t i = 0; i < 3; ++i) {
    parts[i]->place(std::shared_ptr<std::byte>(memory, memory.get() + offsets[i]));
  }
}

void GatingRule::apply(const ComputeContext& context, MatView<float> gate, MatView<const float> up,
                       Range rows) const {
  switch (gating) {
    case Gating::kSilu:
      return context.kernels->silu_mul({.gate = gate, .up = up, .out = gate, .rows = rows});
    case Gating::kGelu:
      return context.kernels->gelu_mul({.gate = gate, .up = up, .out = gate, .rows = rows});
    case Gating::kClampedSwiglu:
      return context.kernels->clamped_swiglu(
          {.gate = gate, .up = up, .limit = limit, .out = gate, .rows = rows});
  }
}

absl::Status Mlp::forward(const ComputeContext& context, LinearInput& input, MatView<float> y) const {
  const MlpTask all[] = {{this, input.all_rows()}};
  return RunMlps(context, input, all, y);
}

absl::Status RunMlps(const ComputeContext& context, LinearInput& input, std::span<const MlpTask> tasks,
                     MatView<float> y) {
  if (tasks.empty()) return absl::OkStatus();
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const auto count = static_cast<int64_t>(tasks.size());
  const int64_t hidden_width = tasks[0].mlp->up_.rows();
  const MatView<float> gate = arena.allocate_rows<float>(input.rows(), hidden_width);
  const MatView<float> up = arena.allocate_rows<float>(input.rows(), hidden_width);
  const std::span<LinearTask> in = arena.allocate<LinearTask>(2 * count);
  const std::span<LinearTask> out = arena.allocate<LinearTask>(count);
  for (size_t i = 0; i < tasks.size(); ++i) {
    const auto& [mlp, rows] = tasks[i];
    in[2 * i] = {&mlp->gate_, gate.rows_between(rows.begin, rows.end), rows};
    in[2 * i + 1] = {&mlp->up_, up.rows_between(rows.begin, rows.end), rows};
    out[i] = {&mlp->down_, y.rows_between(rows.begin, rows.end), rows};
  }
  PhaseTimer timer(context, StepPhase::kGateUp);
  RETURN_IF_ERROR(RunLinears(context, input, in));

  timer.next(StepPhase::kActivation);
  LinearInput hidden(gate);
  const int group = tasks[0].mlp->down_.activation_group(context.activations);
  RETURN_IF_ERROR(
      hidden.fill(context, group, [&](Range rows) { tasks[0].mlp->gating_.apply(context, gate, up, rows); }));
  timer.next(StepPhase::kDown);
  return RunLinears(context, hidden, out);
}

}  // namespace shoal
