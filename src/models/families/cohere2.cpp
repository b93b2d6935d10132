// Command R7B and Command A. Reference: transformers models/cohere2/modeling_cohere2.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireFlag(config, "use_qk_norm", false));
  RETURN_IF_ERROR(RequireFlag(config, "use_parallel_block", true));
  RETURN_IF_ERROR(RequireFlag(config, "use_gated_activation", true));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true, {.eps = "layer_norm_eps"}));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.windows, ReadWindowPattern(config, sizes.layers, "sliding_window_pattern", 4));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  attention.rope.pairing = RopePairing::kInterleaved;
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const double scale, config.required_number("logit_scale", {1e-6, 1e6}));
  ModelSpec spec = DecoderOf("cohere2", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  spec.logits_scale = static_cast<float>(scale);
  for (LayerSpec& layer : spec.layers) {
    layer.parallel = true;
    layer.feed_forward_norm.reset();
  }
  UseLayerNorms(LayerNormBias::kNone, spec);
  RotateOnlyWithWindow(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("cohere2", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 20,
  "layer_norm_eps": 1e-5, "logit_scale": 0.25, "hidden_act": "silu", "sliding_window": 33,
  "sliding_window_pattern": 3, "rope_theta": 50000.0, "use_qk_norm": false, "use_parallel_block": true,
  "use_gated_activation": true, "attention_bias": false, "tie_word_embeddings": true)");
}

}  // namespace

extern const Family cohere2;
constinit const Family cohere2 = {"cohere2", &Spec, &Tiny};

}  // namespace shoal::families
