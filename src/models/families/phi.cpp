// Phi 1 to 2. Reference: transformers models/phi/modeling_phi.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

constexpr char kDefaults[] = R"({"partial_rotary_factor": 0.5})";

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  const ModelConfig config = stated.with_defaults(kDefaults);
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "gelu_new"));  // The tanh form.
  RETURN_IF_ERROR(RequireFlag(config, "qk_layernorm", false));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false, {.eps = "layer_norm_eps"}));
  AttentionSettings attention{.qkv_bias = true, .o_bias = true};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, rotary));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  if (sizes.tied_head) {
    return Unimplemented("{}: expected false, as the head has a bias, found true",
                         config.where("tie_word_embeddings"));
  }
  const auto mixer = [&](int64_t, const std::string& base) {
    const std::string name = base + ".self_attn";
    GqaSpec gqa = GqaAt(name, sizes, attention);
    gqa.o = LinearAt(name + ".dense", sizes.width, int64_t{sizes.heads} * attention.head_dim, true);
    return gqa;
  };
  const auto feed_forward = [&](int64_t, const std::string& base) {
    return UngatedOf(LinearAt(base + ".mlp.fc1", ffn, sizes.width, true),
                     LinearAt(base + ".mlp.fc2", sizes.width, ffn, true), Activation::kGelu);
  };
  ModelSpec spec = DecoderOf("phi", sizes, mixer, feed_forward);
  spec.head = LinearAt("lm_head", sizes.vocabulary, sizes.width, true);
  spec.final_norm = NormAt("model.final_layernorm", sizes.width, sizes.eps);
  for (LayerSpec& layer : spec.layers) {
    layer.parallel = true;
    layer.feed_forward_norm.reset();
  }
  UseLayerNorms(LayerNormBias::kBeside, spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("phi", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "gelu_new",
  "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.4, "qk_layernorm": false, "rope_theta": 10000.0,
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family phi;
constinit const Family phi = {"phi", &Spec, &Tiny};

}  // namespace shoal::families
