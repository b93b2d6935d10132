#include "models/blocks/moe.h"

#include <atomic>

#include "base/status.h"
#include "models/blocks/experts.h"
#include "models/step_profile.h"

namespace shoal {

absl::StatusOr<Moe> Moe::Load(const WeightReader& reader, const MoeSpec& spec, ThreadPool& pool) {
  Moe moe;
  moe.top_k_ = spec.top_k;
  moe.weighting_ = spec.router.renormalize ? RouteWeights::kRenormalized : RouteWeights::kAsIs;
  ASSIGN_OR_RETURN(moe.group_, ExpertInputGroup(reader, spec, ActivationMode::kInt8));
  ASSIGN_OR_RETURN(moe.router_,
                   Linear::Load(reader, {.weight = spec.router.weight, .bias = std::nullopt}, pool));
  return moe;
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
    const RouteArgs args{
        .logits = logits, .k = top_k_, .weighting = weighting_, .ids = ids, .weights = weights, .rows = rows};
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
  return experts.combine(ticket, y);
}

}  // namespace shoal
