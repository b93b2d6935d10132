#include "models/blocks/moe.h"

#include <atomic>

#include "base/status.h"
#include "models/blocks/experts.h"
#include "models/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {

absl::StatusOr<Moe> Moe::Load(const WeightReader& reader, const MoeSpec& spec, ThreadPool& pool) {
  Moe moe;
  moe.top_k_ = spec.top_k;
  moe.route_ = {.k = spec.top_k,
                .scores = spec.router.scores,
                .groups = spec.router.groups,
                .weighting = spec.router.weighting,
                .factor = spec.router.factor};
  ASSIGN_OR_RETURN(moe.group_, ExpertInputGroup(reader, spec, ActivationMode::kInt8));
  ASSIGN_OR_RETURN(moe.router_, Linear::Load(reader, spec.router.linear, pool));
  if (spec.router.correction) {
    ASSIGN_OR_RETURN(moe.correction_, reader.read_vector(*spec.router.correction));
  }
  if (spec.shared) {
    ASSIGN_OR_RETURN(moe.shared_, Mlp::Load(reader, *spec.shared, pool));
  }
  if (spec.shared_gate) {
    ASSIGN_OR_RETURN(moe.shared_gate_,
                     Linear::Load(reader, {.weight = *spec.shared_gate, .bias = std::nullopt}, pool));
  }
  return moe;
}

absl::Status Moe::add_shared(const ComputeContext& context, LinearInput& input, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> out = context.arena->allocate_rows<float>(y.rows, y.cols);
  RETURN_IF_ERROR(shared_->forward(context, input, out));
  const float* scales = nullptr;
  if (shared_gate_) {
    const MatView<float> gates = context.arena->allocate_rows<float>(y.rows, 1);
    RunExactLinear(context, input.x(), *shared_gate_, gates);
    for (int64_t t = 0; t < gates.rows; ++t) {
      gates.at(t, 0) = static_cast<float>(1.0 / (1.0 + Exp(-static_cast<double>(gates.at(t, 0)))));
    }
    scales = gates.data;
  }
  context.for_rows(y.rows, y.cols, [&](Range rows) {
    context.kernels->add_rows({.x = out, .scales = scales, .y = y, .rows = rows});
  });
  return absl::OkStatus();
}

absl::Status Moe::forward(const ComputeContext& context, LayerId layer, LinearInput& input,
                          ExpertExchange& experts,
                          const std::function<void(LayerId, const Routing&)>& on_routing,
                          MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  PartTimer timer(context, StepPart::kRouter);
  const MatView<const float> x = input.x();
  const MatView<float> logits = context.arena->allocate_rows<float>(x.rows, router_.rows());
  RunExactLinear(context, x, router_, logits);
  const MatView<int32_t> ids = context.arena->allocate_rows<int32_t>(x.rows, top_k_);
  const MatView<float> weights = context.arena->allocate_rows<float>(x.rows, top_k_);
  std::atomic<bool> finite = true;
  context.for_rows(x.rows, logits.cols, [&](Range rows) {
    RouteArgs args = route_;
    args.logits = logits;
    args.correction = correction_.empty() ? nullptr : correction_.data();
    args.ids = ids;
    args.weights = weights;
    args.rows = rows;
    if (!context.kernels->route(args)) finite.store(false, std::memory_order_relaxed);
  });
  if (!finite) return OutOfRange("a router logit is not finite (NaN or infinity)");
  const Routing routing{ids, weights};
  if (on_routing) on_routing(layer, routing);

  ExpertRows rows{.x = x};
  QuantizedRows codes;
  if (const int group = input_group(context.activations); group != 0) {
    ASSIGN_OR_RETURN(codes, input.quantized(context, group));
    rows.quantized = &codes;
  }
  timer.next(StepPart::kExchange);
  ASSIGN_OR_RETURN(const ExpertExchange::Ticket ticket, experts.dispatch(layer, rows, routing));
  // While the rows are with the owners of experts. What was sent is collected whatever becomes of it.
  const absl::Status shared = shared_ ? add_shared(context, input, y) : absl::OkStatus();
  RETURN_IF_ERROR(experts.combine(ticket, y));
  return shared;
}

}  // namespace shoal
