// Jamba: Mamba 1, some layers of attention, experts in some. Reference: transformers models/jamba/modeling_jamba.py.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mamba.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"
#include "models/stored_form.h"

namespace shoal::families {
namespace {

/// Of every `<kind>_layer_period` layers number `<kind>_layer_offset`, counted from 0. Absent keys have the values of
/// `usual`, as in the reference.
absl::StatusOr<std::vector<bool>> ReadEveryNth(const ModelConfig& config, const std::string& kind,
                                               std::pair<int64_t, int64_t> usual, int64_t layers) {
  const std::string period_key = kind + "_layer_period";
  const std::string offset_key = kind + "_layer_offset";
  ASSIGN_OR_RETURN(const std::optional<int64_t> stated, config.optional_int(period_key));
  const int64_t period = stated.value_or(usual.first);
  ASSIGN_OR_RETURN(const std::optional<int64_t> offset, config.optional_int(offset_key, {0, period - 1}));
  std::vector<bool> chosen(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i)
    chosen[static_cast<size_t>(i)] = i % period == offset.value_or(usual.second);
  return chosen;
}

struct Mamba1Settings {
  Mamba1Spec sizes;
  bool conv_bias = false;
  bool projection_bias = false;
};

/// mamba_dt_rank is a number or "auto": a sixteenth of the width.
absl::StatusOr<int64_t> ReadStepRank(const ModelConfig& config, int64_t width) {
  constexpr char kKey[] = "mamba_dt_rank";
  const absl::StatusOr<std::optional<std::string>> word = config.optional_string(kKey);
  if (word.ok() && word->value_or("auto") == "auto") return (width + 15) / 16;
  return config.required_int(kKey, {1, 1 << 16});
}

absl::StatusOr<Mamba1Settings> ReadMamba1(const ModelConfig& config, int64_t width) {
  Mamba1Settings mamba;
  ASSIGN_OR_RETURN(const int64_t expand, config.required_int("mamba_expand", {1, 64}));
  ASSIGN_OR_RETURN(const int64_t state_dim, config.required_int("mamba_d_state", {1, 1 << 12}));
  ASSIGN_OR_RETURN(const int64_t taps, config.required_int("mamba_d_conv", {1, 64}));
  ASSIGN_OR_RETURN(const int64_t rank, ReadStepRank(config, width));
  mamba.sizes.channels = expand * width;
  mamba.sizes.state_dim = static_cast<int>(state_dim);
  mamba.sizes.step_rank = static_cast<int>(rank);
  mamba.sizes.conv_width = static_cast<int>(taps);
  ASSIGN_OR_RETURN(const std::optional<bool> conv_bias, config.optional_bool("mamba_conv_bias"));
  mamba.conv_bias = conv_bias.value_or(true);  // As in the reference.
  ASSIGN_OR_RETURN(mamba.projection_bias, ReadLateFlag(config, "mamba_proj_bias"));
  return mamba;
}

Mamba1Spec Mamba1At(const std::string& base, int64_t width, float eps, const Mamba1Settings& settings) {
  Mamba1Spec mamba = settings.sizes;
  const int64_t channels = mamba.channels;
  const auto part = [&](int64_t begin) {
    return InProjectionPart(base + ".in_proj", 2 * channels, {begin, begin + channels}, width,
                            settings.projection_bias);
  };
  mamba.x = part(0);
  mamba.gate = part(channels);
  mamba.conv = ConvTapsAt(base + ".conv1d", channels, mamba.conv_width);
  if (settings.conv_bias) {
    mamba.conv_bias =
        WeightRef{.shape = {channels}, .sources = {{.base = base + ".conv1d", .suffix = "bias"}}};
  }
  mamba.inputs = LinearAt(base + ".x_proj", mamba.step_rank + 2 * mamba.state_dim, channels, false);
  mamba.step_norm = NormAt(base + ".dt_layernorm", mamba.step_rank, eps);
  mamba.key_norm = NormAt(base + ".b_layernorm", mamba.state_dim, eps);
  mamba.query_norm = NormAt(base + ".c_layernorm", mamba.state_dim, eps);
  mamba.steps = LinearAt(base + ".dt_proj", channels, mamba.step_rank, true);
  const WeightSource logs = ReshapedAt(base, "A_log", {channels, mamba.state_dim});
  WeightSource exps = logs;
  exps.suffix = kMinusExpSuffix;
  exps.written = false;
  mamba.decay_log = {.shape = {channels * mamba.state_dim}, .sources = {logs, std::move(exps)}};
  mamba.skip = {.shape = {channels}, .sources = {{.base = base, .suffix = "D"}}};
  mamba.o = LinearAt(base + ".out_proj", width, channels, settings.projection_bias);
  return mamba;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RequireFlag(config, "mamba_inner_layernorms", true));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const std::vector<bool> attending, ReadEveryNth(config, "attn", {8, 4}, sizes.layers));
  ASSIGN_OR_RETURN(std::vector<bool> sparse, ReadEveryNth(config, "expert", {2, 1}, sizes.layers));
  ASSIGN_OR_RETURN(const Mamba1Settings mamba, ReadMamba1(config, sizes.width));
  AttentionSettings attention;  // Without rope.
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const int64_t count, config.required_int("num_experts", {1, 4096}));
  MoeSettings experts;  // Softmax over all, whose weights are not renormalised.
  if (count > 1) {
    ASSIGN_OR_RETURN(experts, ReadExperts(config, sizes, {.width = "intermediate_size"}));
  } else {
    sparse.assign(sparse.size(), false);
  }
  const auto mixer = [&](int64_t layer, const std::string& base) -> MixerSpec {
    if (attending[static_cast<size_t>(layer)]) return GqaAt(base + ".self_attn", sizes, attention);
    return Mamba1At(base + ".mamba", sizes.width, sizes.eps, mamba);
  };
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (!sparse[static_cast<size_t>(layer)]) return DenseAt(base + ".mlp", sizes.width, ffn, false);
    MoeSpec moe = MoeAt(base + ".mlp", sizes.width, experts);
    moe.router.linear = LinearAt(base + ".mlp.router", experts.experts, sizes.width, false);
    return moe;
  };
  ModelSpec spec = DecoderOf("jamba", sizes, mixer, feed_forward);
  NameAsFeedForward(spec);
  return spec;
}

std::string Tiny() {
  return TinyConfig("jamba", R"("intermediate_size": 320, "num_key_value_heads": 2, "hidden_act": "silu",
  "tie_word_embeddings": false, "attn_layer_offset": 2, "attn_layer_period": 4, "expert_layer_offset": 1,
  "expert_layer_period": 2, "num_experts": 13, "num_experts_per_tok": 3, "mamba_conv_bias": true,
  "mamba_d_conv": 4, "mamba_d_state": 10, "mamba_dt_rank": 320, "mamba_expand": 2, "mamba_proj_bias": true,
  "sliding_window": null)");
}

}  // namespace

extern const Family jamba;
constinit const Family jamba = {"jamba", &Spec, &Tiny};

}  // namespace shoal::families
