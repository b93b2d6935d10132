// Parts that families with experts share: reading how experts are configured, and naming their tensors.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// A layer's experts as a config describes them, independent of its key names.
struct MoeSettings {
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t width = 0;  ///< Hidden width of an expert.
  RouteScores scores = RouteScores::kSoftmax;
  RouteGroups groups;
  RouteWeights weighting = RouteWeights::kAsIs;
  float routed_scaling_factor = 1;
  bool float_router = false;        ///< RouterSpec::kept_float
  bool has_selection_bias = false;  ///< There is an e_score_correction_bias.
  int64_t shared_width = 0;         ///< Hidden width of the shared expert; 0: there is none.
};

/// The keys of a family's config.
struct ExpertKeys {
  const char* experts = "num_experts";
  const char* top_k = "num_experts_per_tok";
  const char* width = "moe_intermediate_size";
};
/// Reads number, top_k and width only. Bounds the experts of a model, and so the memory of its spec.
absl::StatusOr<MoeSettings> ReadExperts(const ModelConfig& config, const DecoderSizes& sizes,
                                        const ExpertKeys& keys = {});

/// The same under DeepSeek's keys, with shared experts (n_shared_experts, as one that is as many times as
/// wide) and routed_scaling_factor, where absent 1.
absl::StatusOr<MoeSettings> ReadDeepseekExperts(const ModelConfig& config, const DecoderSizes& sizes);

/// The same with what DeepSeek-V3 added: sigmoid scores, a selection bias, and groups (n_group,
/// topk_group) by their two best.
absl::StatusOr<MoeSettings> ReadDeepseekV3Experts(const ModelConfig& config, const DecoderSizes& sizes);

/// Of them what is not number, width or scale, into `parts`: scores, bias, norm_topk_prob and groups; the router multiplies
/// f32.
absl::Status ReadDeepseekV3Routing(const ModelConfig& config, MoeSettings& parts);

/// n_group and topk_group. InvalidArgument where the groups do not divide the experts or hold too few.
absl::StatusOr<RouteGroups> ReadGroups(const ModelConfig& config, const MoeSettings& parts);

/// norm_topk_prob
absl::StatusOr<RouteWeights> ReadWeighting(const ModelConfig& config);

/// Refuses a key that may be absent and has another value than the family builds.
absl::Status RequireIfPresent(const ModelConfig& config, const char* key, std::string_view expected);

/// Which layers have experts: from first_k_dense_replace on, those whose number is divisible by
/// moe_layer_freq (1 where absent).
absl::StatusOr<std::vector<bool>> ReadLayersAfterDense(const ModelConfig& config, int64_t layers);

/// Of which of two kinds each layer is, by the list `key` of their words: whether it is of the first.
absl::StatusOr<std::vector<bool>> ReadLayerKinds(const ModelConfig& config, const char* key,
                                                 const std::array<std::string_view, 2>& words,
                                                 int64_t layers);

/// Which layers have experts: those that mlp_layer_types calls "sparse", and where the config has no such list as
/// ReadLayersAfterDense.
absl::StatusOr<std::vector<bool>> ReadMlpLayerTypes(const ModelConfig& config, int64_t layers);

/// Which layers have experts: every decoder_sparse_step-th from layer decoder_sparse_step - 1 on, except
/// those in mlp_only_layers.
absl::StatusOr<std::vector<bool>> ReadSparseLayers(const ModelConfig& config, int64_t layers);

/// Names below `<base>.experts.<i>`; MLX's stacks are called gate_proj, up_proj and down_proj for every
/// family.
struct ExpertNames {
  const char* gate = "gate_proj";
  const char* up = "up_proj";
  const char* down = "down_proj";
  const char* selection_bias = ".gate";  ///< e_score_correction_bias is below `<base><selection_bias>`.
  const char* stacks = ".switch_mlp";    ///< MLX's stacks are below `<base><stacks>`.
};

/// The router `<base>.gate`, experts alone as on the hub or stacked as in MLX folders, and the shared expert
/// `<base>.shared_experts`.
MoeSpec MoeAt(const std::string& base, int64_t width, const MoeSettings& parts,
              const ExpertNames& names = {});

/// Where the hub has the experts as two stacks, `<base>.experts.gate_up_proj` [E, 2F, D], gate first, and
/// `<base>.experts.down_proj` [E, D, F], instead of alone.
void FuseExperts(const std::string& base, const MoeSettings& parts, MoeSpec& moe);

/// The same where the hub has them transposed, [E, D, 2F] and [E, F, D].
void FuseTransposedExperts(const std::string& base, int64_t width, MoeSpec& moe);

/// MoeAt `<base>.mlp`, whatever the layer.
MakeFeedForward MoeEverywhere(const DecoderSizes& sizes, const MoeSettings& parts);

/// MoeAt `<base>.mlp` for layers that have experts, else a dense `<base>.mlp` of width `ffn`.
MakeFeedForward UsualMoe(const DecoderSizes& sizes, const MoeSettings& parts, std::vector<bool> sparse,
                         int64_t ffn);

}  // namespace shoal
