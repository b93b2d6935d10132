// nanochat. Reference: transformers models/nanochat/modeling_nanochat.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// No norm of this family has a weight.
NormSpec Weightless(int64_t size, float eps) {
  return {.weight = {.shape = {size}, .sources = {}}, .eps = eps};
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "relu2"));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  attention.rope.backwards = true;
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec =
      DecoderOf("nanochat", sizes, UsualAttention(sizes, attention), [&](int64_t, const std::string& base) {
        return UngatedOf(LinearAt(base + ".mlp.fc1", ffn, sizes.width, false),
                         LinearAt(base + ".mlp.fc2", sizes.width, ffn, false), Activation::kRelu2);
      });
  spec.embedding_norm = spec.final_norm = Weightless(sizes.width, sizes.eps);
  for (LayerSpec& layer : spec.layers) {
    layer.mixer_norm = layer.feed_forward_norm = Weightless(sizes.width, sizes.eps);
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    gqa.q_norm = gqa.k_norm = Weightless(attention.head_dim, sizes.eps);
    gqa.norm_behind_rope = true;
  }
  ASSIGN_OR_RETURN(const double cap, config.required_number("final_logit_softcapping", {1e-3, 1e6}));
  spec.final_logit_softcap = static_cast<float>(cap);
  return spec;
}

std::string Tiny() {
  return TinyConfig("nanochat", R"("intermediate_size": 384, "num_key_value_heads": 2,
  "hidden_act": "relu2", "rope_theta": 10000.0, "final_logit_softcapping": 15.0, "attention_bias": false,
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family nanochat;
constinit const Family nanochat = {"nanochat", &Spec, &Tiny};

}  // namespace shoal::families
