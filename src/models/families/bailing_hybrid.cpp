// Ling 3: Kimi Delta Attention with bounded decays, and latent attention. Reference: transformers
// models/bailing_hybrid/modeling_bailing_hybrid.py.
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_kda.h"
#include "models/families/common/family_mamba.h"
#include "models/families/common/family_mla.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Those of layer_types; without it the last of every layer_group_size layers.
absl::StatusOr<std::vector<bool>> ReadLatentLayers(const ModelConfig& config, int64_t layers) {
  if (config.has("layer_types")) {
    return ReadLayerKinds(config, "layer_types", {"full_attention", "linear_attention"}, layers);
  }
  ASSIGN_OR_RETURN(const int64_t group, config.required_int("layer_group_size"));
  std::vector<bool> attending;
  for (int64_t i = 0; i < layers; ++i) attending.push_back((i + 1) % group == 0);
  return attending;
}

/// Ling 2.5 has another linear attention under the same model_type; its configs have none of these keys.
absl::StatusOr<GatedDeltaNetSpec> ReadBoundedKda(const ModelConfig& config, const DecoderSizes& sizes) {
  RETURN_IF_ERROR(RequireFlag(config, "no_kda_lora", true));
  ASSIGN_OR_RETURN(const int64_t dim, config.required_int("head_dim", {1, 1 << 12}));
  ASSIGN_OR_RETURN(const int64_t taps, config.required_int("short_conv_kernel_size", {1, 64}));
  GatedDeltaNetSpec kda = KdaOf(sizes.heads, dim, taps);
  ASSIGN_OR_RETURN(const std::optional<bool> bounded, config.optional_bool("kda_safe_gate"));
  ASSIGN_OR_RETURN(const std::optional<double> bound,
                   config.optional_number("kda_lower_bound", {-1e3, -1e-3}));
  if (bounded.value_or(true)) kda.decay_bound = bound.value_or(-5.0);  // As in the reference.
  return kda;
}

GatedDeltaNetSpec BoundedKdaAt(const std::string& base, const DecoderSizes& sizes,
                               const GatedDeltaNetSpec& of) {
  GatedDeltaNetSpec kda = KdaAt(base, sizes.width, sizes.eps, of);
  const int64_t inner = int64_t{kda.key_heads} * kda.key_dim;
  kda.a = LinearAt(base + ".f_proj", inner, sizes.width, false);
  kda.z = LinearAt(base + ".g_proj", inner, sizes.width, false);
  for (const char* name : {".q_conv1d", ".k_conv1d", ".v_conv1d"}) {
    kda.conv.push_back(ConvTapsAt(base + name, inner, kda.conv_width));
  }
  return kda;
}

absl::StatusOr<MoeSettings> ReadBailingExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  RETURN_IF_ERROR(RequireIfPresent(config, "score_function", "sigmoid"));
  RETURN_IF_ERROR(RequireFlag(config, "moe_router_enable_expert_bias", true));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  RETURN_IF_ERROR(ReadDeepseekV3Routing(config, experts));
  ASSIGN_OR_RETURN(const double factor, config.required_number("routed_scaling_factor", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("num_shared_experts", {0, 1024}));
  ASSIGN_OR_RETURN(const std::optional<int64_t> width,
                   config.optional_int("moe_shared_expert_intermediate_size"));
  experts.shared_width = shared * width.value_or(experts.width);
  return experts;
}

/// Attention is below `attention`, latent attention's output is `dense`.
void NameAsBailing(ModelSpec& spec) {
  constexpr std::string_view kAttention = ".self_attn.";
  EditWeights(spec, [&](WeightRef& ref) {
    for (WeightSource& source : ref.sources) {
      if (source.base == "model.embed_tokens") source.base = "model.word_embeddings";
      // A_log and dt_bias are named by the suffix: their base ends with the attention's name.
      std::string name = source.base + ".";
      const size_t at = name.find(kAttention);
      if (at == std::string::npos) continue;
      name.replace(at, kAttention.size(), ".attention.");
      name.pop_back();
      source.base = std::move(name);
    }
  });
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RequireFlag(config, "rope_interleave", true));
  for (const char* bias : {"use_qkv_bias", "use_bias"}) RETURN_IF_ERROR(RequireFlag(config, bias, false));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const std::vector<bool> attending, ReadLatentLayers(config, sizes.layers));
  ASSIGN_OR_RETURN(const GatedDeltaNetSpec kda, ReadBoundedKda(config, sizes));
  ASSIGN_OR_RETURN(const MakeMixer latent, ReadLatentAttention(config, sizes, LatentNames::kSplit));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadBailingExperts(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadMlpLayerTypes(config, sizes.layers));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  const auto mixer = [&](int64_t layer, const std::string& base) -> MixerSpec {
    const std::string attention = base + ".self_attn";
    if (!attending[static_cast<size_t>(layer)]) return BoundedKdaAt(attention, sizes, kda);
    MlaSpec mla = std::get<MlaSpec>(latent(layer, base));
    mla.gate = LinearAt(attention + ".g_proj", sizes.heads, sizes.width, false);
    mla.o = LinearAt(attention + ".dense", sizes.width, int64_t{mla.heads} * mla.value_dim, false);
    return mla;
  };
  ModelSpec spec = DecoderOf("bailing_hybrid", sizes, mixer, UsualMoe(sizes, experts, sparse, ffn));
  for (LayerSpec& layer : spec.layers) {
    if (auto* moe = std::get_if<MoeSpec>(&layer.feed_forward))
      moe->router.selection_bias->sources[0].suffix = "expert_bias";
  }
  NameAsBailing(spec);
  spec.ignored_tensors = {
      {fmt::format("model.layers.{}.", sizes.layers), "unused heads for multi-token prediction"}};
  return spec;
}

std::string Tiny() {
  return TinyConfig("bailing_hybrid", R"("intermediate_size": 384, "num_key_value_heads": 16,
  "hidden_act": "silu", "head_dim": 20, "layer_group_size": 3, "short_conv_kernel_size": 4, "kda_safe_gate": true,
  "kda_lower_bound": -5.0, "no_kda_lora": true, "q_lora_rank": null, "kv_lora_rank": 320, "qk_nope_head_dim": 64,
  "qk_rope_head_dim": 20, "v_head_dim": 20, "rope_theta": 6000000.0, "rope_scaling": null,
  "rope_interleave": true, "tie_word_embeddings": false, "use_qkv_bias": false, "use_bias": false,
  "first_k_dense_replace": 1, "moe_intermediate_size": 320, "moe_shared_expert_intermediate_size": 384,
  "num_experts": 13, "num_experts_per_tok": 3, "num_shared_experts": 1, "n_group": 1, "topk_group": 1,
  "norm_topk_prob": true, "routed_scaling_factor": 2.5, "score_function": "sigmoid",
  "moe_router_enable_expert_bias": true)");
}

}  // namespace

extern const Family bailing_hybrid;
constinit const Family bailing_hybrid = {"bailing_hybrid", &Spec, &Tiny};

}  // namespace shoal::families
