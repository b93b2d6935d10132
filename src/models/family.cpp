#include "models/family.h"

#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "models/reference_defaults.h"
#include "numeric/fixed_sum.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// Refuses models beyond the limits of the kernels.
absl::Status CheckLimits(const ModelConfig& config, const ModelSpec& spec) {
  for (const LayerSpec& layer : spec.layers) {
    const int64_t head_dim = CachedDimOf(layer.mixer);
    if (head_dim > kHeadDimMax) {
      return Unimplemented("{}: head dimension {} exceeds {}, the largest that is built", config.file(),
                           head_dim, kHeadDimMax);
    }
    const MoeSpec* moe = MoeOf(layer);
    if (moe == nullptr) continue;
    if (moe->top_k > kFixedTermsMax) {
      return Unimplemented("{}: {} experts per token exceed {}, the most that the exact sum takes",
                           config.file(), moe->top_k, kFixedTermsMax);
    }
    // Of those that the router knows.
    if (const int64_t experts = std::ssize(moe->experts) + moe->identities; experts > kExpertsMax) {
      return Unimplemented("{}: {} experts in a layer exceed {}, the most that are built", config.file(),
                           experts, kExpertsMax);
    }
  }
  if (static_cast<double>(spec.max_positions) > kTrigArgumentMax) {
    return Unimplemented("{}: {} positions exceed {}, up to which rope angles are exact", config.file(),
                         spec.max_positions, kTrigArgumentMax);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<const Family*> FindFamily(std::string_view model_type) {
  std::vector<std::string> known;
  for (const Family* family : Families()) {
    if (family->model_type == model_type) return family;
    known.emplace_back(family->model_type);
  }
  return Unimplemented("model_type '{}' is not built; known: {}", model_type, Join(known, ", "));
}

absl::StatusOr<ModelSpec> SpecFor(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string model_type, config.required_string("model_type"));
  const absl::StatusOr<const Family*> family = FindFamily(model_type);
  if (!family.ok()) return Annotate(family.status(), config.file());
  ASSIGN_OR_RETURN(const ModelConfig whole, WithReferenceDefaults(config, model_type));
  ASSIGN_OR_RETURN(ModelSpec spec, (*family)->spec(whole));
  RETURN_IF_ERROR(CheckLimits(whole, spec));
  return spec;
}

}  // namespace shoal
