// Mixture of experts: routes rows and hands them to the ExpertExchange. The experts themselves are
// blocks/experts.h.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "models/blocks/linear.h"
#include "models/blocks/mlp.h"
#include "models/expert_exchange.h"
#include "models/spec.h"

namespace shoal {

class Moe {
 public:
  Moe() = default;
  static absl::StatusOr<Moe> Load(const WeightReader& reader, const MoeSpec& spec, ThreadPool& pool);

  /// Of the router and the shared expert: routed experts count elsewhere.
  int64_t bytes() const {
    return router_.bytes() + static_cast<int64_t>(correction_.size() * sizeof(float)) +
           (shared_ ? shared_->bytes() : 0) + (shared_gate_ ? shared_gate_->bytes() : 0);
  }

  /// Columns per scale of the codes that the experts take; 0: they take f32.
  int input_group(ActivationMode mode) const { return mode == ActivationMode::kInt8 ? group_ : 0; }

  /// y += shared(x), and then += the sum over the chosen experts of weight * expert(x). input, y: [T, D];
  /// must not alias.
  /// on_routing: told the choice; may be empty. OutOfRange for non-finite router logits; else what `experts`
  /// returns.
  absl::Status forward(const ComputeContext& context, LayerId layer, LinearInput& input,
                       ExpertExchange& experts,
                       const std::function<void(LayerId, const Routing&)>& on_routing,
                       MatView<float> y) const;

 private:
  absl::Status add_shared(const ComputeContext& context, LinearInput& input, MatView<float> y) const;

  int top_k_ = 0;
  RouteArgs route_;  // Scores, groups, weighting and factor; the rest is of each call.
  int group_ = 0;    // Of the experts' int8 rows; 0 where they take f32.
  Linear router_;
  std::vector<float> correction_;  // [E] or empty.
  std::optional<Mlp> shared_;
  std::optional<Linear> shared_gate_;
};

}  // namespace shoal
