#include "compute/blocks/mlp.h"

#include <cmath>
#include <limits>
#include <utility>

#include "base/status.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {

absl::StatusOr<Mlp> Mlp::Load(const WeightLoader& loader, const DenseSpec& spec, ThreadPool& pool) {
  ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadTogether(loader, spec.inputs(), pool));
  ASSIGN_OR_RETURN(linears.emplace_back(), Linear::Load(loader, spec.down, pool));
  ASSIGN_OR_RETURN(std::vector<Mlp> one, Join(loader, {&spec}, std::move(linears)));
  return std::move(one[0]);
}

namespace {

std::vector<const LinearSpec*> PartsOf(const std::vector<const DenseSpec*>& specs) {
  std::vector<const LinearSpec*> parts;
  for (const DenseSpec* spec : specs) {
    for (const LinearSpec* input : spec->inputs()) parts.push_back(input);
    parts.push_back(&spec->down);
  }
  return parts;
}

}  // namespace

absl::StatusOr<std::vector<Mlp>> Mlp::Join(const WeightLoader& loader,
                                           const std::vector<const DenseSpec*>& specs,
                                           std::vector<Linear> linears) {
  std::vector<Mlp> mlps;
  auto next = linears.begin();
  for (const DenseSpec* spec : specs) {
    Mlp& mlp = mlps.emplace_back();
    ASSIGN_OR_RETURN(mlp.gating_, GatingRule::Load(loader, *spec));
    if (mlp.gating_.has_gate()) mlp.gate_ = std::move(*next++);
    mlp.up_ = std::move(*next++);
    mlp.down_ = std::move(*next++);
  }
  return mlps;
}

absl::StatusOr<std::vector<Mlp>> Mlp::LoadExperts(const WeightLoader& loader,
                                                  const std::vector<const DenseSpec*>& specs,
                                                  ThreadPool& pool) {
  ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadTogether(loader, PartsOf(specs), pool));
  return Join(loader, specs, std::move(linears));
}

absl::StatusOr<std::vector<Mlp>> Mlp::LoadWithoutWeights(const WeightLoader& loader,
                                                         const std::vector<const DenseSpec*>& specs) {
  ASSIGN_OR_RETURN(std::vector<Linear> linears, Linear::LoadWithoutWeights(loader, PartsOf(specs)));
  return Join(loader, specs, std::move(linears));
}

void Mlp::place(const std::shared_ptr<std::byte>& memory, const std::array<int64_t, 3>& offsets) {
  Linear* const parts[] = {&gate_, &up_, &down_};
  for (size_t i = gating_.has_gate() ? 0 : 1; i < 3; ++i) {
    parts[i]->place(std::shared_ptr<std::byte>(memory, memory.get() + offsets[i]));
  }
}

absl::StatusOr<GatingRule> GatingRule::Load(const WeightLoader& loader, const DenseSpec& spec) {
  GatingRule rule{.gating = spec.gating,
                  .limit = spec.limit,
                  .gate_scale = spec.gate_scale,
                  .gate_cutoff = spec.gate_cutoff,
                  .activation = spec.activation};
  if (!spec.xielu) return rule;
  const auto read = [&](const WeightRef& ref) -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const std::vector<float> value, loader.read_vector(ref));
    return value[0];
  };
  const auto softplus = [](double x) { return x > 30 ? x : Log(1 + Exp(x)); };
  ASSIGN_OR_RETURN(const double alpha_p, read(spec.xielu->alpha_p));
  ASSIGN_OR_RETURN(const double alpha_n, read(spec.xielu->alpha_n));
  ASSIGN_OR_RETURN(const double beta, read(spec.xielu->beta));
  ASSIGN_OR_RETURN(const double eps, read(spec.xielu->eps));
  rule.xielu = {.positive = static_cast<float>(softplus(alpha_p)),
                .negative = static_cast<float>(beta + softplus(alpha_n)),
                .slope = static_cast<float>(beta),
                .top = static_cast<float>(eps)};
  return rule;
}

namespace {

/// x = max(0, x - (mean + cutoff * standard deviation of the row)); sums are one chain over ascending columns.
void CutOff(MatView<float> x, float cutoff, Range rows) {
  const auto size = static_cast<double>(x.cols);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* const row = x.row(r);
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < x.cols; ++c) sum += double{row[c]};
    const double mean = sum / size;
    for (int64_t c = 0; c < x.cols; ++c) squares += (row[c] - mean) * (row[c] - mean);
    const auto least = static_cast<float>(mean + std::sqrt(squares / size) * double{cutoff});
    for (int64_t c = 0; c < x.cols; ++c) row[c] = row[c] > least ? row[c] - least : 0.0f;
  }
}

}  // namespace

void GatingRule::apply(const ComputeContext& context, MatView<float> hidden, MatView<float> up,
                       Range rows) const {
  const Kernels& kernels = *context.kernels;
  if (activation) {
    return kernels.activate(
        {.x = hidden, .activation = *activation, .xielu = xielu, .out = hidden, .rows = rows});
  }
  if (gate_scale != 1) Multiply(hidden, gate_scale, rows);
  if (gate_cutoff > 0) CutOff(hidden, gate_cutoff, rows);
  switch (gating) {
    case Gating::kSilu:
      return kernels.silu_mul({.gate = hidden, .up = up, .out = hidden, .rows = rows});
    case Gating::kGelu:
      return kernels.gelu_mul({.gate = hidden, .up = up, .out = hidden, .rows = rows});
    case Gating::kClampedSwiglu:
      return kernels.clamped_swiglu({.gate = hidden, .up = up, .limit = limit, .out = hidden, .rows = rows});
    case Gating::kClampedSilu:
      return kernels.clamped_silu_mul(
          {.gate = hidden, .up = up, .limit = limit, .out = hidden, .rows = rows});
    case Gating::kSiluOfClamped:
      Clamp(hidden, -std::numeric_limits<float>::infinity(), limit, rows);
      Clamp(up, -limit, limit, rows);
      return kernels.silu_mul({.gate = hidden, .up = up, .out = hidden, .rows = rows});
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
  const GatingRule& gating = tasks[0].mlp->gating_;
  const MatView<float> up = arena.allocate_rows<float>(input.rows(), hidden_width);
  const MatView<float> hidden =
      gating.has_gate() ? arena.allocate_rows<float>(input.rows(), hidden_width) : up;
  const std::span<LinearTask> in = arena.allocate<LinearTask>(gating.has_gate() ? 2 * count : count);
  const std::span<LinearTask> out = arena.allocate<LinearTask>(count);
  auto next = in.begin();
  for (size_t i = 0; i < tasks.size(); ++i) {
    const auto& [mlp, rows] = tasks[i];
    if (gating.has_gate()) *next++ = {&mlp->gate_, hidden.rows_between(rows.begin, rows.end), rows};
    *next++ = {&mlp->up_, up.rows_between(rows.begin, rows.end), rows};
    out[i] = {&mlp->down_, y.rows_between(rows.begin, rows.end), rows};
  }
  PhaseTimer timer(context, StepPhase::kGateUp);
  RETURN_IF_ERROR(RunLinears(context, input, in));

  timer.next(StepPhase::kActivation);
  LinearInput mixed(hidden);
  const int group = tasks[0].mlp->down_.activation_group(context.activations);
  RETURN_IF_ERROR(mixed.fill(context, group, [&](Range rows) { gating.apply(context, hidden, up, rows); }));
  timer.next(StepPhase::kDown);
  return RunLinears(context, mixed, out);
}

}  // namespace shoal
