// Mamba 2. Reference: transformers models/mamba2/modeling_mamba2.py.
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mamba.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Sizes of attention, which it lacks, and a context, which it has no bound for: a million positions are as far as others
/// are tried.
constexpr char kDefaults[] = R"({"num_attention_heads": 1, "num_key_value_heads": 1,
  "max_position_embeddings": 1048576, "tie_word_embeddings": false})";

constexpr Mamba2Keys kKeys{.heads = "num_heads",
                           .head_dim = "head_dim",
                           .groups = "n_groups",
                           .state_dim = "state_size",
                           .taps = "conv_kernel",
                           .conv_bias = "use_conv_bias",
                           .projection_bias = "use_bias"};

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  const ModelConfig config = stated.with_defaults(kDefaults);
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RequireFlag(config, "rms_norm", true));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false, {.eps = "layer_norm_epsilon"}));
  ASSIGN_OR_RETURN(const Mamba2Settings mamba, ReadMamba2(config, kKeys));
  ASSIGN_OR_RETURN(const double expand, config.required_number("expand", {0.0, 1e3}));
  if (static_cast<int64_t>(expand * static_cast<double>(sizes.width)) != mamba.sizes.inner()) {
    return InvalidArgument("{}: expected num_heads * head_dim = {} = expand * hidden_size, found {} * {}",
                           config.where("expand"), mamba.sizes.inner(), expand, sizes.width);
  }
  ModelSpec spec = DecoderOf(
      "mamba2", sizes,
      [&](int64_t, const std::string& base) {
        return Mamba2At(base + ".mixer", sizes.width, sizes.eps, mamba);
      },
      [](int64_t, const std::string&) { return NoFeedForward(); });
  for (LayerSpec& layer : spec.layers) layer.feed_forward_norm.reset();
  NameAsBackbone(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("mamba2", R"("num_heads": 10, "head_dim": 64, "state_size": 20, "expand": 2,
  "conv_kernel": 4, "n_groups": 2, "use_bias": false, "use_conv_bias": true, "hidden_act": "silu",
  "layer_norm_epsilon": 1e-05, "rms_norm": true, "time_step_limit": [0.001, 100.0],
  "tie_word_embeddings": false)");
}

}  // namespace

extern const Family mamba2;
constinit const Family mamba2 = {"mamba2", &Spec, &Tiny, "nemotron_h"};

}  // namespace shoal::families
