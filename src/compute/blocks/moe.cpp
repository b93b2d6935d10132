#include "compute/blocks/moe.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/experts.h"
#include "compute/blocks/softplus.h"
#include "compute/row_ops.h"
#include "compute/step_profile.h"
#include "numeric/transcendental.h"

namespace shoal {

absl::StatusOr<Moe> Moe::Load(const WeightLoader& loader, const MoeSpec& spec, ThreadPool& pool,
                              const std::optional<SegmentedMlp>& segmented) {
  Moe moe;
  moe.top_k_ = spec.top_k;
  moe.experts_ = std::ssize(spec.experts);
  moe.identities_ = spec.identities > 0;
  SHOAL_CHECK(!moe.identities_ || (!spec.branch && !spec.weights_scale_inputs));
  moe.weights_scale_inputs_ = spec.weights_scale_inputs;
  SHOAL_CHECK(!spec.weights_scale_inputs || (spec.top_k == 1 && !spec.branch));
  moe.route_ = {.k = spec.top_k,
                .scores = spec.router.scores,
                .groups = spec.router.groups,
                .weighting = spec.router.weighting,
                .near_distance = spec.router.near_distance,
                .sum_eps = spec.router.sum_eps,
                .routed_scaling_factor = spec.router.routed_scaling_factor};
  ASSIGN_OR_RETURN(moe.group_, ExpertInputGroup(loader, spec, ActivationMode::kInt8));
  if (spec.router.norm) {
    ASSIGN_OR_RETURN(moe.router_norm_, Norm::Load(loader, *spec.router.norm));
  }
  ASSIGN_OR_RETURN(moe.router_, Linear::Load(loader, spec.router.linear, pool));
  if (spec.router.expert_scales) {
    ASSIGN_OR_RETURN(moe.expert_scales_, loader.read_vector(*spec.router.expert_scales));
  }
  if (spec.branch) {
    SHOAL_CHECK(spec.shared.has_value());
    Branch& branch = moe.branch_.emplace();
    ASSIGN_OR_RETURN(branch.norm, Norm::Load(loader, spec.branch->norm));
    ASSIGN_OR_RETURN(branch.out_norm, Norm::Load(loader, spec.branch->out_norm));
    ASSIGN_OR_RETURN(branch.shared_out_norm, Norm::Load(loader, spec.branch->shared_out_norm));
  }
  if (spec.router.selection_bias) {
    ASSIGN_OR_RETURN(moe.selection_bias_, loader.read_vector(*spec.router.selection_bias));
  }
  moe.sqrt_softplus_ = spec.router.sqrt_softplus;
  RETURN_IF_ERROR(moe.load_experts_of_token(loader, spec));
  SHOAL_CHECK(spec.shared.has_value() || !segmented.has_value());
  if (segmented) {
    moe.shared_ = *segmented;
  } else if (spec.shared) {
    ASSIGN_OR_RETURN(moe.shared_, Mlp::Load(loader, *spec.shared, pool));
  }
  if (spec.shared_gate) {
    ASSIGN_OR_RETURN(moe.shared_gate_,
                     Linear::Load(loader, {.weight = *spec.shared_gate, .bias = std::nullopt}, pool));
  }
  return moe;
}

absl::Status Moe::load_experts_of_token(const WeightLoader& loader, const MoeSpec& spec) {
  if (!spec.router.experts_of_token) return absl::OkStatus();
  SHOAL_CHECK(!spec.router.selection_bias);
  ASSIGN_OR_RETURN(const std::vector<float> read, loader.read_vector(*spec.router.experts_of_token));
  const auto experts = static_cast<float>(experts_);
  const auto k = static_cast<size_t>(top_k_);
  experts_of_token_.resize(read.size());
  for (size_t i = 0; i < read.size(); ++i) {
    const auto row = experts_of_token_.begin() + static_cast<std::ptrdiff_t>(i / k * k);
    const auto next = experts_of_token_.begin() + static_cast<std::ptrdiff_t>(i);
    const bool known = read[i] >= 0 && read[i] < experts;
    *next = known ? static_cast<int32_t>(read[i]) : -1;
    if (known && static_cast<float>(*next) == read[i] && std::find(row, next, *next) == next) continue;
    return InvalidArgument(
        "checkpoint: tensor '{}' in {}: expected {} distinct experts below {} for each token, found {} for "
        "token {}",
        spec.router.experts_of_token->sources[0].name(), loader.checkpoint().folder(), top_k_, experts_,
        read[i], i / k);
  }
  return absl::OkStatus();
}

int64_t Moe::bytes() const {
  const auto size_of = [](const std::vector<float>& values) {
    return static_cast<int64_t>(values.size() * sizeof(float));
  };
  return router_.bytes() + static_cast<int64_t>(experts_of_token_.size() * sizeof(int32_t)) +
         (router_norm_ ? router_norm_->bytes() : 0) + size_of(selection_bias_) + size_of(expert_scales_) +
         (shared_ ? std::visit([](const auto& shared) { return shared.bytes(); }, *shared_) : 0) +
         (shared_gate_ ? shared_gate_->bytes() : 0) +
         (branch_ ? branch_->norm.bytes() + branch_->out_norm.bytes() + branch_->shared_out_norm.bytes() : 0);
}

absl::Status Moe::add_shared(const ComputeContext& context, LayerId layer, LinearInput& input,
                             ExpertExchange& exchange, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> out = context.arena->allocate_rows<float>(y.rows, y.cols);
  if (const auto* segmented = std::get_if<SegmentedMlp>(&*shared_)) {
    RETURN_IF_ERROR(segmented->forward(context, layer, input, exchange, out));
  } else {
    RETURN_IF_ERROR(std::get<Mlp>(*shared_).forward(context, input, out));
  }
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
    if (branch_) branch_->shared_out_norm.apply(*context.kernels, out, out, rows);
    context.kernels->add_rows({.x = out, .scales = scales, .y = y, .rows = rows});
  });
  return absl::OkStatus();
}

bool Moe::prepare_logits(MatView<float> logits, Range rows) const {
  if (!sqrt_softplus_) return true;
  if (!AllFinite(logits, rows)) return false;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    for (int64_t e = 0; e < logits.cols; ++e) {
      float& logit = logits.at(t, e);
      logit = std::sqrt(static_cast<float>(Softplus(static_cast<double>(logit))));
    }
  }
  return true;
}

/// Where tokens have experts of their own, these are made the largest for the choice, which changes no weight.
bool Moe::route(const ComputeContext& context, RouteArgs args, std::span<const int32_t> tokens) const {
  if (!takes_tokens()) return context.kernels->route(args);
  constexpr float kAboveAll = 0x1p20f;
  float bias[kExpertsMax];
  const Range all = args.rows;
  for (int64_t t = all.begin; t < all.end; ++t) {
    std::fill_n(bias, args.logits.cols, 0.0f);
    const int32_t* const own = experts_of_token_.data() + int64_t{tokens[static_cast<size_t>(t)]} * top_k_;
    for (int64_t k = 0; k < top_k_; ++k) bias[own[k]] = kAboveAll;
    args.selection_bias = bias;
    args.rows = {t, t + 1};
    if (!context.kernels->route(args)) return false;
  }
  return true;
}

absl::StatusOr<Moe::Choice> Moe::choose(const ComputeContext& context, MatView<const float> x,
                                        MatView<const float> residual,
                                        std::span<const int32_t> tokens) const {
  SHOAL_CHECK(!takes_tokens() || std::ssize(tokens) == x.rows);
  Arena& arena = *context.arena;
  const MatView<int32_t> ids = arena.allocate_rows<int32_t>(x.rows, top_k_);
  const MatView<float> weights = arena.allocate_rows<float>(x.rows, top_k_);
  const ArenaScope scope(arena);
  if (router_norm_) {
    const MatView<float> normed = arena.allocate_rows<float>(x.rows, x.cols);
    context.for_rows(x.rows, x.cols,
                     [&](Range rows) { router_norm_->apply(*context.kernels, residual, normed, rows); });
    x = normed;
  }
  const MatView<float> logits = arena.allocate_rows<float>(x.rows, router_.rows());
  RunExactLinear(context, x, router_, logits);
  std::atomic<bool> finite = true;
  context.for_rows(x.rows, logits.cols, [&](Range rows) {
    RouteArgs args = route_;
    args.logits = logits;
    args.selection_bias = selection_bias_.empty() ? nullptr : selection_bias_.data();
    args.ids = ids;
    args.weights = weights;
    args.rows = rows;
    if (!prepare_logits(logits, rows) || !route(context, args, tokens)) {
      finite.store(false, std::memory_order_relaxed);
      return;  // What was chosen may be nothing.
    }
    for (int64_t t = rows.begin; !expert_scales_.empty() && t < rows.end; ++t) {
      for (int64_t k = 0; k < top_k_; ++k) {
        weights.at(t, k) *= expert_scales_[static_cast<size_t>(ids.at(t, k))];
      }
    }
  });
  if (!finite) return OutOfRange("a router logit is not finite (NaN or infinity)");
  return Choice{ids, weights};
}

void Moe::add_identities(const ComputeContext& context, MatView<const float> x, MatView<int32_t> ids,
                         MatView<const float> weights, MatView<float> sum) const {
  if (!identities_) return;
  const ArenaScope scope(*context.arena);
  const std::span<float> shares = context.arena->allocate<float>(ids.rows);
  for (int64_t t = 0; t < ids.rows; ++t) {
    float share = 0;  // In the order of the choice, which is the same on every node.
    for (int64_t k = 0; k < ids.cols; ++k) {
      if (ids.at(t, k) < experts_) continue;
      share += weights.at(t, k);
      ids.at(t, k) = kNoExpert;
    }
    shares[static_cast<size_t>(t)] = share;
  }
  context.for_rows(sum.rows, sum.cols, [&](Range rows) {
    context.kernels->add_rows({.x = x, .scales = shares.data(), .y = sum, .rows = rows});
  });
}

std::span<const int32_t> Moe::guess(const ComputeContext& context, const std::optional<Norm>& norm,
                                    MatView<const float> x, std::span<const int32_t> tokens) const {
  const MatView<float> normed = context.arena->allocate_rows<float>(x.rows, x.cols);
  context.for_rows(x.rows, x.cols, [&](Range rows) { NormOrCopy(*context.kernels, norm, x, normed, rows); });
  const absl::StatusOr<Choice> choice = choose(context, normed, x, tokens);
  if (!choice.ok()) return {};
  const std::span<int32_t> ids(choice->ids.data, static_cast<size_t>(choice->ids.rows * choice->ids.cols));
  const auto computed = std::ranges::remove_if(ids, [this](int32_t id) { return id >= experts_; });
  return {ids.begin(), computed.begin()};
}

absl::Status Moe::forward(const ComputeContext& context, LayerId layer, LinearInput& input,
                          MatView<const float> residual, const RoutedExperts& experts,
                          MatView<float> y) const {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  PhaseTimer timer(context, StepPhase::kRouter);
  ASSIGN_OR_RETURN(const Choice choice, choose(context, input.x(), residual, experts.tokens));
  Routing routing = choice.routing();
  if (experts.on_routing) experts.on_routing(layer, routing);

  const int group = expert_group(context.activations);
  const bool has_own_rows = branch_ || weights_scale_inputs_;
  MatView<float> own_rows;
  if (has_own_rows) own_rows = arena.allocate_rows<float>(y.rows, y.cols);
  LinearInput own_input(own_rows);
  if (has_own_rows) {
    RETURN_IF_ERROR(own_input.fill(context, group, [&](Range rows) {
      if (branch_) return branch_->norm.apply(*context.kernels, residual, own_rows, rows);
      for (int64_t t = rows.begin; t < rows.end; ++t) {
        CopyRows(input.x().rows_between(t, t + 1), own_rows, t);
        Multiply(own_rows, routing.weights.at(t, 0), {t, t + 1});
      }
    }));
  }
  if (weights_scale_inputs_) {
    const MatView<float> ones = arena.allocate_rows<float>(y.rows, 1);
    std::fill_n(ones.data, ones.rows, 1.0f);
    routing.weights = ones;
  }
  LinearInput& to_experts = has_own_rows ? own_input : input;
  ExpertRows rows{.x = to_experts.x()};
  QuantizedRows codes;
  if (group != 0) {
    ASSIGN_OR_RETURN(codes, to_experts.quantized(context, group));
    rows.quantized = &codes;
  }
  MatView<float> sum = experts.sum.data != nullptr ? experts.sum : y;
  add_identities(context, input.x(), choice.ids, choice.weights, sum);
  if (branch_) {
    sum = arena.allocate_rows<float>(y.rows, y.cols);
    std::fill_n(sum.data, sum.rows * sum.cols, 0.0f);
  }
  timer.next(StepPhase::kExchange);
  ASSIGN_OR_RETURN(const ExpertExchange::Ticket ticket, experts.exchange.dispatch(layer, rows, routing));
  if (experts.after_dispatch != nullptr) (*experts.after_dispatch)();
  // While the rows are with the owners of experts. What was sent is collected whatever becomes of it.
  const absl::Status shared =
      shared_ ? add_shared(context, layer, input, experts.exchange, y) : absl::OkStatus();
  RETURN_IF_ERROR(experts.exchange.combine(ticket, sum));
  if (branch_) {
    context.for_rows(y.rows, y.cols, [&](Range part) {
      branch_->out_norm.apply(*context.kernels, sum, sum, part);
      context.kernels->add_rows({.x = sum, .y = y, .rows = part});
    });
  }
  return shared;
}

}  // namespace shoal
