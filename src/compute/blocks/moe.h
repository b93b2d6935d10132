// Mixture of experts: routes rows and hands them to the ExpertExchange. The experts themselves are
// blocks/experts.h.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "compute/blocks/feed_forward_segments.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mlp.h"
#include "compute/blocks/norm_rope.h"
#include "compute/expert_exchange.h"
#include "models/spec.h"

namespace shoal {

/// Where a layer's routed experts are asked.
struct RoutedExperts {
  ExpertExchange& exchange;
  const std::function<void(LayerId, const Routing&)>& on_routing;  ///< Told the choice; may be empty.
  const absl::FunctionRef<void()>* after_dispatch = nullptr;  ///< Called when the rows are out; may be null.
  std::span<const int32_t> tokens = {};  ///< [T], the rows' tokens; of routers that choose by them.
  MatView<float> sum = {};  ///< [T, D] that their sum is added to, instead of what Moe::forward() adds to.
};

class Moe {
 public:
  Moe() = default;
  /// segmented: the shared expert, where several nodes hold it.
  static absl::StatusOr<Moe> Load(const WeightLoader& loader, const MoeSpec& spec, ThreadPool& pool,
                                  const std::optional<SegmentedMlp>& segmented = std::nullopt);

  /// Of the router, the shared expert and the branch's norms: routed experts and segments count elsewhere.
  int64_t bytes() const;

  /// Columns per scale of the codes that it asks of its input; 0: none.
  int input_group(ActivationMode mode) const {
    return branch_ ? std::visit([&](const auto& shared) { return shared.input_group(mode); }, *shared_)
                   : expert_group(mode);
  }

  /// y += shared(x), and then += the sum over the chosen experts of weight * expert(x). As a branch
  /// (MoeSpec::Branch) the experts take a norm of `residual`, what the layer adds to, and there are norms of
  /// what is added. input, residual, y: [T, D]; y may be residual where there is no branch.
  /// Experts that return what they read (MoeSpec::identities) are added here; the exchange sees kNoExpert in their place.
  /// OutOfRange for non-finite router logits; else what the exchange returns.
  absl::Status forward(const ComputeContext& context, LayerId layer, LinearInput& input,
                       MatView<const float> residual, const RoutedExperts& experts, MatView<float> y) const;

  /// The experts that the router would choose if this were the residual stream x [T, D] in front of the block, which has
  /// the norm `norm`: in the context's arena. In front of an earlier layer's block it makes the router choose most of what
  /// it will choose, as a layer adds little to the stream. None where a row's choice is not finite.
  std::span<const int32_t> guess(const ComputeContext& context, const std::optional<Norm>& norm,
                                 MatView<const float> x, std::span<const int32_t> tokens) const;
  /// Whether the router chooses by tokens.
  bool takes_tokens() const { return !experts_of_token_.empty(); }

 private:
  struct Branch {
    Norm norm, out_norm, shared_out_norm;
  };
  int expert_group(ActivationMode mode) const { return mode == ActivationMode::kInt8 ? group_ : 0; }
  /// What was chosen, identities among it.
  struct Choice {
    MatView<int32_t> ids;
    MatView<float> weights;
    Routing routing() const { return {ids, weights}; }
  };
  absl::StatusOr<Choice> choose(const ComputeContext& context, MatView<const float> x,
                                MatView<const float> residual, std::span<const int32_t> tokens) const;
  absl::Status load_experts_of_token(const WeightLoader& loader, const MoeSpec& spec);
  /// Whether all of `logits` are finite; they are what RouterSpec::sqrt_softplus makes of them then.
  bool prepare_logits(MatView<float> logits, Range rows) const;
  bool route(const ComputeContext& context, RouteArgs args, std::span<const int32_t> tokens) const;
  absl::Status add_shared(const ComputeContext& context, LayerId layer, LinearInput& input,
                          ExpertExchange& exchange, MatView<float> y) const;

  /// Adds the identities among the chosen experts to `sum`, and takes them out of `ids`.
  void add_identities(const ComputeContext& context, MatView<const float> x, MatView<int32_t> ids,
                      MatView<const float> weights, MatView<float> sum) const;

  int top_k_ = 0;
  int64_t experts_ = 0;  // E, without identities.
  bool identities_ = false;
  bool weights_scale_inputs_ = false;
  RouteArgs route_;  // Scores, groups, weighting and scaling; the rest is of each call.
  int group_ = 0;    // Of the experts' int8 rows; 0 where they take f32.
  std::optional<Norm> router_norm_;
  Linear router_;
  std::vector<float> selection_bias_;  // [E] or empty.
  std::vector<float> expert_scales_;   // [E] or empty.
  bool sqrt_softplus_ = false;
  std::vector<int32_t> experts_of_token_;  // [V, K] or empty.
  std::optional<Branch> branch_;
  std::optional<std::variant<Mlp, SegmentedMlp>> shared_;
  std::optional<Linear> shared_gate_;
};

}  // namespace shoal
