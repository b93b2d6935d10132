// ERNIE 4.5 with experts. Reference: transformers models/ernie4_5_moe/modeling_ernie4_5_moe.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Every moe_layer_interval-th layer from moe_layer_start_index to moe_layer_end_index, which is -1 for the last one.
absl::StatusOr<std::vector<bool>> ReadSparse(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const int64_t first, config.required_int("moe_layer_start_index", {0, layers}));
  ASSIGN_OR_RETURN(const std::optional<int64_t> last,
                   config.optional_int("moe_layer_end_index", {-1, layers - 1}));
  ASSIGN_OR_RETURN(const int64_t every, config.required_int("moe_layer_interval"));
  const int64_t end = last.value_or(-1) < 0 ? layers : *last + 1;
  std::vector<bool> sparse(static_cast<size_t>(layers));
  for (int64_t i = first; i < end; ++i) sparse[static_cast<size_t>(i)] = (i + 1) % every == 0;
  return sparse;
}

/// On the hub the selection bias is a matrix of one row.
void PlaceSelectionBias(const std::string& base, MoeSpec& moe) {
  WeightSource place{.base = base + ".moe_statics", .suffix = "e_score_correction_bias"};
  const int64_t experts = moe.router.selection_bias->elements();
  place.strided = WeightSource::StridedView{.stored_shape = {1, experts}, .col_stride = 1};
  moe.router.selection_bias->sources = {place};
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "moe_gate", "topk"));
  RETURN_IF_ERROR(RequireFlag(config, "use_bias", false));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  attention.rope.pairing = RopePairing::kInterleaved;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts,
                   ReadExperts(config, sizes, {.experts = "moe_num_experts", .top_k = "moe_k"}));
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("moe_num_shared_experts", {0, 1024}));
  experts.shared_width = shared * experts.width;
  experts.weighting = RouteWeights::kRenormalized;
  experts.has_selection_bias = true;
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadSparse(config, sizes.layers));
  ModelSpec spec = DecoderOf("ernie4_5_moe", sizes, UsualAttention(sizes, attention),
                             UsualMoe(sizes, experts, sparse, ffn));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    auto* moe = std::get_if<MoeSpec>(&spec.layers[i].feed_forward);
    if (moe != nullptr) PlaceSelectionBias(fmt::format("model.layers.{}.mlp", i), *moe);
  }
  spec.ignored_tensors.emplace_back("model.mtp_", "unused heads for multi-token prediction");
  return spec;
}

std::string Tiny() {
  return TinyConfig("ernie4_5_moe",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 2,
  "head_dim": 28, "moe_num_experts": 13, "moe_k": 3, "moe_num_shared_experts": 2,
  "moe_layer_start_index": 1, "moe_layer_end_index": 5, "moe_layer_interval": 1, "moe_gate": "topk",
  "hidden_act": "silu", "rope_theta": 500000.0, "tie_word_embeddings": true, "use_bias": false)");
}

}  // namespace

extern const Family ernie4_5_moe;
constinit const Family ernie4_5_moe = {"ernie4_5_moe", &Spec, &Tiny, "glm4_moe"};

}  // namespace shoal::families
