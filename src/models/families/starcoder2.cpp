// StarCoder2. Reference: transformers models/starcoder2/modeling_starcoder2.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "gelu_pytorch_tanh"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true, {.eps = "norm_epsilon"}));
  ASSIGN_OR_RETURN(AttentionSettings attention, ReadWindowedAttention(config, sizes));
  ASSIGN_OR_RETURN(const bool bias, config.required_bool("use_bias"));
  attention.qkv_bias = attention.o_bias = bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec =
      DecoderOf("starcoder2", sizes, UsualAttention(sizes, attention), [&](int64_t, const std::string& base) {
        return UngatedOf(LinearAt(base + ".mlp.c_fc", ffn, sizes.width, bias),
                         LinearAt(base + ".mlp.c_proj", sizes.width, ffn, bias), Activation::kGelu);
      });
  UseLayerNorms(LayerNormBias::kBeside, spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("starcoder2", R"("intermediate_size": 384, "num_key_value_heads": 2,
  "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "use_bias": true, "sliding_window": 37,
  "rope_theta": 100000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family starcoder2;
constinit const Family starcoder2 = {"starcoder2", &Spec, &Tiny};

}  // namespace shoal::families
