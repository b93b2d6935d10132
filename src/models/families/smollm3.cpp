// SmolLM3. Reference: transformers models/smollm3/modeling_smollm3.py.
#include <optional>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// no_rope_layers: 1 where a layer has rope; without the list all but every no_rope_layer_interval-th have (4 by the
/// reference's default).
absl::StatusOr<std::vector<bool>> ReadRotates(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> stated, config.int_list("no_rope_layers", {0, 1}));
  ASSIGN_OR_RETURN(const auto interval, config.optional_int("no_rope_layer_interval"));
  if (!stated.empty() && std::ssize(stated) < layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where("no_rope_layers"),
                           layers, stated.size());
  }
  std::vector<bool> rotates(static_cast<size_t>(layers));
  for (size_t i = 0; i < rotates.size(); ++i) {
    const auto number = static_cast<int64_t>(i) + 1;
    rotates[i] = stated.empty() ? number % interval.value_or(4) != 0 : stated[i] == 1;
  }
  return rotates;
}

/// The window is of layers without rope where layer_types does not say otherwise; use_sliding_window is needed, too.
absl::StatusOr<std::vector<std::optional<int64_t>>> ReadNopeWindows(const ModelConfig& config, int64_t layers,
                                                                    const std::vector<bool>& rotates) {
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  ASSIGN_OR_RETURN(const bool used, ReadLateFlag(config, "use_sliding_window"));
  if (!used) return windows;
  if (config.has("layer_types")) return ReadWindows(config, layers);
  ASSIGN_OR_RETURN(const std::optional<int64_t> window, config.optional_int("sliding_window"));
  for (size_t i = 0; i < windows.size(); ++i) {
    if (!rotates[i]) windows[i] = window;
  }
  return windows;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.rotates, ReadRotates(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.windows, ReadNopeWindows(config, sizes.layers, attention.rotates));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool mlp_bias, ReadLateFlag(config, "mlp_bias"));
  return DecoderOf("smollm3", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn, mlp_bias));
}

std::string Tiny() {
  return TinyConfig("smollm3", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 5000000.0, "rope_scaling": null, "no_rope_layers": [1, 1, 0, 1, 1, 0, 1],
  "use_sliding_window": false, "sliding_window": null, "attention_bias": false, "mlp_bias": false)");
}

}  // namespace

extern const Family smollm3;
constinit const Family smollm3 = {"smollm3", &Spec, &Tiny};

}  // namespace shoal::families
