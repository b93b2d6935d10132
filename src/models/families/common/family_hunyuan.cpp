#include "models/families/common/family_hunyuan.h"

#include <optional>
#include <string>

#include "base/status.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

absl::StatusOr<RopeSpec> ReadAlphaRope(const ModelConfig& config, int head_dim) {
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, config.optional_object(key));
  if (!rope || !rope->has("alpha")) return ReadRope(config, head_dim);
  for (const char* name : {"type", "rope_type"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> type, rope->optional_string(name));
    if (type.value_or("dynamic") == "dynamic") continue;
    return Unimplemented("{}: expected \"dynamic\" beside alpha, found \"{}\"", rope->where(name), *type);
  }
  if (head_dim < 4) {
    return InvalidArgument("{}: expected heads of 4 dimensions at least, found {}", rope->where("alpha"),
                           head_dim);
  }
  constexpr Bounds<double> kThetas{1.0, 1e15};
  const ModelConfig& from = rope->has("rope_theta") ? *rope : config;
  ASSIGN_OR_RETURN(const double theta, from.required_number("rope_theta", kThetas));
  ASSIGN_OR_RETURN(const double alpha, rope->required_number("alpha", {1.0, 1e9}));
  return RopeSpec{.theta = theta * Pow(alpha, head_dim / (head_dim - 2.0)), .dims = head_dim};
}

}  // namespace

absl::StatusOr<MakeMixer> ReadHunyuanAttention(const ModelConfig& config, const DecoderSizes& sizes) {
  RETURN_IF_ERROR(RequireFlag(config, "use_qk_norm", true));
  RETURN_IF_ERROR(RequireFlag(config, "use_cla", false));  // Keys and values of other layers.
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadAlphaRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  return MakeMixer([sizes, attention](int64_t, const std::string& base) {
    GqaSpec gqa = GqaAt(base + ".self_attn", sizes, attention);
    gqa.q_norm = NormAt(base + ".self_attn.query_layernorm", attention.head_dim, sizes.eps);
    gqa.k_norm = NormAt(base + ".self_attn.key_layernorm", attention.head_dim, sizes.eps);
    gqa.norm_behind_rope = true;
    return gqa;
  });
}

}  // namespace shoal
