// Kimi Linear. Reference: transformers models/kimi_linear/modeling_kimi_linear.py.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_kda.h"
#include "models/families/common/family_mla.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"
#include "models/stored_form.h"

namespace shoal::families {
namespace {

/// Its configs call the context model_max_length.
absl::StatusOr<ModelConfig> WithContext(const ModelConfig& config) {
  if (config.has("max_position_embeddings")) return config;
  ASSIGN_OR_RETURN(const int64_t positions, config.required_int("model_max_length"));
  return config.with_defaults(
      fmt::format(R"({{"max_position_embeddings": {}, "tie_word_embeddings": false}})", positions));
}

/// Which layers attend: those that linear_attn_config lists, counted from 1, and no others.
absl::StatusOr<std::vector<bool>> ReadAttendingLayers(const ModelConfig& linear, int64_t layers) {
  std::vector<bool> attending(static_cast<size_t>(layers));
  std::vector<bool> known(static_cast<size_t>(layers));
  for (const char* key : {"full_attn_layers", "kda_layers"}) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> named, linear.int_list(key, {1, layers}));
    for (const int64_t layer : named) {
      const auto at = static_cast<size_t>(layer - 1);
      attending[at] = std::string_view(key) == "full_attn_layers";
      known[at] = true;
    }
  }
  for (size_t i = 0; i < known.size(); ++i) {
    if (known[i]) continue;
    return InvalidArgument("{}: expected layer {} here or among the full_attn_layers, found neither",
                           linear.where("kda_layers"), i + 1);
  }
  return attending;
}

GatedDeltaNetSpec KimiKdaAt(const std::string& base, const DecoderSizes& sizes, const GatedDeltaNetSpec& of) {
  GatedDeltaNetSpec kda = KdaAt(base, sizes.width, sizes.eps, of);
  const int64_t inner = int64_t{kda.key_heads} * kda.key_dim;
  kda.a_in = LinearAt(base + ".f_a_proj", kda.key_dim, sizes.width, false);
  kda.a = LinearAt(base + ".f_b_proj", inner, kda.key_dim, false);
  kda.z_in = LinearAt(base + ".g_a_proj", kda.key_dim, sizes.width, false);
  kda.z = LinearAt(base + ".g_b_proj", inner, kda.key_dim, false);
  const int64_t taps = kda.conv_width;
  for (const char* name : {".q_conv", ".k_conv", ".v_conv"}) {
    WeightSource mlx = ReshapedAt(base + name + ".conv", "weight", {inner, taps, 1});
    mlx.mlx = true;
    mlx.only_with = mlx.name();
    kda.conv.push_back(
        {.shape = {inner * taps},
         .sources = {ReshapedAt(base + name + "1d", "weight", {inner, 1, taps}), std::move(mlx)}});
  }
  kda.decay_log.sources = {ReshapedAt(base, "A_log", {1, 1, kda.value_heads, 1}),
                           {.base = base, .suffix = "A_log"},
                           {.base = base, .suffix = std::string(kMinusExpSuffix), .written = false}};
  return kda;
}

absl::StatusOr<GatedDeltaNetSpec> ReadKda(const ModelConfig& linear) {
  ASSIGN_OR_RETURN(const int64_t heads, linear.required_int("num_heads", {1, 1 << 12}));
  ASSIGN_OR_RETURN(const int64_t dim, linear.required_int("head_dim", {1, 1 << 12}));
  ASSIGN_OR_RETURN(const int64_t taps, linear.required_int("short_conv_kernel_size", {1, 64}));
  return KdaOf(heads, dim, taps);
}

absl::StatusOr<MoeSettings> ReadKimiExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  RETURN_IF_ERROR(RequireIfPresent(config, "moe_router_activation_func", "sigmoid"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes, {.top_k = "num_experts_per_token"}));
  experts.scores = RouteScores::kSigmoid;
  experts.has_selection_bias = true;
  experts.float_router = true;
  ASSIGN_OR_RETURN(const bool renormalized, config.required_bool("moe_renormalize"));
  if (renormalized) experts.weighting = RouteWeights::kRenormalized;
  ASSIGN_OR_RETURN(const double factor, config.required_number("routed_scaling_factor", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("num_shared_experts", {0, 1024}));
  experts.shared_width = shared * experts.width;
  ASSIGN_OR_RETURN(const int64_t groups, config.required_int("num_expert_group", {1, experts.experts}));
  ASSIGN_OR_RETURN(experts.groups,
                   ReadGroups(config.with_defaults(fmt::format(R"({{"n_group": {}}})", groups)), experts));
  experts.groups.by_top_two = true;
  return experts;
}

/// mlx-lm has the experts, their router and the shared expert below `mlp` instead of `block_sparse_moe`.
void AddPlacesOfMlx(ModelSpec& spec) {
  constexpr std::string_view kHub = ".block_sparse_moe";
  EditWeights(spec, [&](WeightRef& ref) {
    const WeightSource hub = ref.sources[0];
    const size_t at = hub.base.find(kHub);
    if (at == std::string::npos) return;
    const auto renamed = [&](const std::string& base) {
      return base.substr(0, at) + ".mlp" + base.substr(at + kHub.size());
    };
    if (ref.sources.size() > 1) {  // A stack.
      ref.sources[1].base = renamed(ref.sources[1].base);
      return;
    }
    WeightSource mlx = hub;
    mlx.base = hub.suffix == "e_score_correction_bias" ? hub.base.substr(0, at) + ".mlp" : renamed(hub.base);
    mlx.mlx = true;
    mlx.only_with = mlx.name();
    ref.sources.push_back(std::move(mlx));
  });
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  ASSIGN_OR_RETURN(const ModelConfig config, WithContext(stated));
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireFlag(config, "mla_use_nope", true));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const ModelConfig linear, config.required_object("linear_attn_config"));
  ASSIGN_OR_RETURN(const std::vector<bool> attending, ReadAttendingLayers(linear, sizes.layers));
  ASSIGN_OR_RETURN(const GatedDeltaNetSpec kda, ReadKda(linear));
  ASSIGN_OR_RETURN(const MakeMixer latent, ReadLatentAttention(config, sizes, LatentNames::kSplit));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadKimiExperts(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadLayersAfterDense(config, sizes.layers));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  const auto mixer = [&](int64_t layer, const std::string& base) -> MixerSpec {
    if (!attending[static_cast<size_t>(layer)]) return KimiKdaAt(base + ".self_attn", sizes, kda);
    MixerSpec attention = latent(layer, base);
    std::get<MlaSpec>(attention).rope = {};
    return attention;
  };
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (!sparse[static_cast<size_t>(layer)]) return DenseAt(base + ".mlp", sizes.width, ffn, false);
    return MoeAt(base + ".block_sparse_moe", sizes.width, experts, {.gate = "w1", .up = "w3", .down = "w2"});
  };
  ModelSpec spec = DecoderOf("kimi_linear", sizes, mixer, feed_forward);
  AddPlacesOfMlx(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("kimi_linear",
                    R"("intermediate_size": 384, "num_key_value_heads": 16, "hidden_act": "silu",
  "kv_lora_rank": 320, "q_lora_rank": null, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20, "v_head_dim": 20,
  "mla_use_nope": true, "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": false,
  "linear_attn_config": {"full_attn_layers": [3, 6], "kda_layers": [1, 2, 4, 5, 7], "head_dim": 320,
    "num_heads": 1, "short_conv_kernel_size": 4},
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "moe_intermediate_size": 320, "moe_renormalize": true,
  "moe_router_activation_func": "sigmoid", "num_expert_group": 1, "topk_group": 1, "num_experts": 13,
  "num_experts_per_token": 3, "num_shared_experts": 1, "routed_scaling_factor": 2.446)");
}

}  // namespace

extern const Family kimi_linear;
constinit const Family kimi_linear = {"kimi_linear", &Spec, &Tiny};

}  // namespace shoal::families
