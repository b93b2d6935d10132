// Gemma 4, text only. Reference: transformers models/gemma4/modeling_gemma4.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_gemma.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Of Gemma4TextConfig: what configs without these features leave out.
constexpr char kDefaults[] = R"({"num_kv_shared_layers": 0})";

/// Attention to what comes behind.
absl::Status RefuseUnbuilt(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<std::string> both_ways,
                   config.optional_string("use_bidirectional_attention"));
  if (both_ways.value_or("vision") != "vision") {  // That is among the tokens of an image.
    return Unimplemented("{}: expected null or \"vision\", found \"{}\"; not built",
                         config.where("use_bidirectional_attention"), *both_ways);
  }
  return absl::OkStatus();
}

/// The heads of layers that see everything.
struct FullHeads {
  int head_dim = 0;
  std::optional<int64_t> kv_heads;  ///< Absent: as many as in other layers.

  bool operator==(const FullHeads&) const = default;
};

/// What per_layer_config, which configs saved by newer versions of the reference have, says of layer `index`; nullopt where
/// it says nothing.
absl::StatusOr<std::optional<FullHeads>> ReadHeadsOfLayer(const ModelConfig& layers, size_t index) {
  const std::string key = fmt::format("{}", index);
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> layer, layers.optional_object(key));
  if (!layer) return std::optional<FullHeads>();
  for (const std::string& name : layer->keys()) {
    if (name == "head_dim" || name == "num_key_value_heads") continue;
    return Unimplemented(
        "{}: expected head_dim and num_key_value_heads alone; no other key of a layer is built",
        layer->where(name));
  }
  FullHeads heads;
  ASSIGN_OR_RETURN(heads.head_dim, ReadHeadDim(*layer));
  ASSIGN_OR_RETURN(heads.kv_heads, layer->optional_int("num_key_value_heads"));
  return std::optional<FullHeads>(heads);
}

absl::StatusOr<FullHeads> ReadFullHeads(const ModelConfig& config, const AttentionSettings& windowed,
                                        bool values_from_keys) {
  FullHeads heads;
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> layers, config.optional_object("per_layer_config"));
  if (!layers) {
    ASSIGN_OR_RETURN(heads.head_dim, ReadHeadDim(config, "global_head_dim"));
    if (values_from_keys) {
      ASSIGN_OR_RETURN(heads.kv_heads, config.optional_int("num_global_key_value_heads"));
    }
    return heads;
  }
  heads.head_dim = windowed.head_dim;
  bool first = true;
  for (size_t i = 0; i < windowed.windows.size(); ++i) {
    ASSIGN_OR_RETURN(const std::optional<FullHeads> own, ReadHeadsOfLayer(*layers, i));
    const FullHeads found = own.value_or(FullHeads{.head_dim = windowed.head_dim, .kv_heads = {}});
    const bool window = windowed.windows[i].has_value();
    if (!window && first) heads = found;
    first = first && window;
    if (window ? !own : found == heads) continue;
    return Unimplemented(
        "{}: expected the same heads in all layers with full attention and nothing of others, "
        "found {} in layer {}",
        config.where("per_layer_config"), own ? layers->excerpt(fmt::format("{}", i)) : "nothing", i);
  }
  return heads;
}

/// The layers that see everything have other heads than those with a window.
struct Attentions {
  DecoderSizes full_sizes;  ///< With their number of heads for keys and values.
  AttentionSettings full, windowed;
  bool full_values_from_keys = false;
};

absl::StatusOr<Attentions> ReadAttentions(const ModelConfig& config, const DecoderSizes& sizes) {
  Attentions both{
      .full_sizes = sizes, .full = {.norm = QkNorm::kPerHead}, .windowed = {.norm = QkNorm::kPerHead}};
  ASSIGN_OR_RETURN(both.windowed.windows, ReadWindows(config, sizes.layers));
  both.full.windows = both.windowed.windows;
  if (both.full.windows.back()) {
    return Unimplemented(
        "{}: expected the last to be \"full_attention\", as the reference makes it, found {}",
        config.where("layer_types"), config.excerpt("layer_types"));
  }
  ASSIGN_OR_RETURN(both.windowed.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(both.full_values_from_keys, ReadLateFlag(config, "attention_k_eq_v"));
  ASSIGN_OR_RETURN(const FullHeads heads, ReadFullHeads(config, both.windowed, both.full_values_from_keys));
  both.full.head_dim = heads.head_dim;
  ASSIGN_OR_RETURN(both.windowed.rope, ReadRopeOfType(config, "sliding_attention", both.windowed.head_dim));
  ASSIGN_OR_RETURN(both.full.rope, ReadRopeOfType(config, "full_attention", both.full.head_dim));
  ASSIGN_OR_RETURN(both.full.qkv_bias, ReadLateFlag(config, "attention_bias"));
  for (bool* bias : {&both.full.o_bias, &both.windowed.qkv_bias, &both.windowed.o_bias})
    *bias = both.full.qkv_bias;
  if (!heads.kv_heads) return both;
  both.full_sizes.kv_heads = static_cast<int>(std::min<int64_t>(*heads.kv_heads, sizes.heads));
  if (*heads.kv_heads <= sizes.heads && sizes.heads % *heads.kv_heads == 0) return both;
  const char* const key = config.has("per_layer_config") ? "per_layer_config" : "num_global_key_value_heads";
  return InvalidArgument("{}: expected a divisor of num_attention_heads = {}, found {}", config.where(key),
                         sizes.heads, *heads.kv_heads);
}

MakeMixer AttentionOf(const DecoderSizes& sizes, const Attentions& both) {
  return [full = UsualAttention(both.full_sizes, both.full), windowed = UsualAttention(sizes, both.windowed),
          both, eps = sizes.eps](int64_t layer, const std::string& base) -> MixerSpec {
    const bool window = both.windowed.windows[static_cast<size_t>(layer)].has_value();
    MixerSpec mixer = (window ? windowed : full)(layer, base);
    GqaSpec& gqa = std::get<GqaSpec>(mixer);
    gqa.values_from_keys = !window && both.full_values_from_keys;
    gqa.v_norm_eps = eps;
    gqa.scale = 1.0;
    return mixer;
  };
}

/// The dense block, and experts beside it.
MoeSpec MoeBeside(DenseSpec dense, const std::string& base, const DecoderSizes& sizes,
                  const MoeSettings& parts) {
  const auto norm = [&](const char* name) { return NormAt(base + name, sizes.width, sizes.eps); };
  MoeSpec moe = MoeAt(base, sizes.width, parts, {.stacks = ".experts.switch_glu"});
  FuseExperts(base, parts, moe);
  for (DenseSpec& expert : moe.experts) expert.gating = Gating::kGelu;
  moe.shared = std::move(dense);
  moe.router.linear = LinearAt(base + ".router.proj", parts.experts, sizes.width, false);
  moe.router.norm = NormAt(base + ".router", sizes.width, sizes.eps);
  moe.router.norm->weight.sources[0].suffix = "scale";
  moe.router.norm->factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(sizes.width)));
  moe.router.expert_scales = WeightRef{.shape = {parts.experts},
                                       .sources = {{.base = base + ".router", .suffix = "per_expert_scale"}}};
  moe.branch = MoeSpec::Branch{.norm = norm(".pre_feedforward_layernorm_2"),
                               .out_norm = norm(".post_feedforward_layernorm_2"),
                               .shared_out_norm = norm(".post_feedforward_layernorm_1")};
  return moe;
}

/// Inputs of each layer's own, and layers that take the keys and values of others: the smaller models have both.
absl::Status AddLayerInputs(const ModelConfig& config, const DecoderSizes& sizes, ModelSpec& spec) {
  ASSIGN_OR_RETURN(const int64_t width, config.required_int("hidden_size_per_layer_input", {0, 1 << 16}));
  if (width == 0) {
    ASSIGN_OR_RETURN(const int64_t sharing, config.required_int("num_kv_shared_layers", kAnyCount));
    if (sharing == 0) return absl::OkStatus();
    return Unimplemented("{}: expected 0 where hidden_size_per_layer_input is 0, found {}; not built",
                         config.where("num_kv_shared_layers"), sharing);
  }
  ASSIGN_OR_RETURN(const int64_t vocabulary, config.required_int("vocab_size_per_layer_input"));
  spec.altup = GemmaLayerInputs(sizes, width, vocabulary);
  for (size_t i = 0; i < spec.layers.size(); ++i)
    spec.layers[i].input = GemmaLayerInputAt(fmt::format("model.layers.{}", i), sizes, width);
  return ShareGemmaKv(config, spec);
}

/// The width of each layer's dense block: with use_double_wide_mlp twice as much where keys and values are shared.
absl::StatusOr<std::vector<int64_t>> ReadDenseWidths(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const int64_t width, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool doubled, ReadLateFlag(config, "use_double_wide_mlp"));
  ASSIGN_OR_RETURN(const int64_t sharing, config.required_int("num_kv_shared_layers", {0, layers}));
  std::vector<int64_t> widths(static_cast<size_t>(layers), width);
  if (doubled) std::fill(widths.end() - sharing, widths.end(), 2 * width);
  return widths;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  const ModelConfig config = stated.with_defaults(kDefaults);
  RETURN_IF_ERROR(RequireActivation(config, "hidden_activation", "gelu_pytorch_tanh"));
  RETURN_IF_ERROR(RefuseUnbuilt(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const Attentions attentions, ReadAttentions(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<int64_t> ffns, ReadDenseWidths(config, sizes.layers));
  ASSIGN_OR_RETURN(const bool sparse, ReadLateFlag(config, "enable_moe_block"));
  std::optional<MoeSettings> experts;
  if (sparse) {
    ASSIGN_OR_RETURN(experts, ReadExperts(config, sizes, {.top_k = "top_k_experts"}));
    experts->weighting = RouteWeights::kRenormalized;
  }
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    DenseSpec dense = DenseAt(base + ".mlp", sizes.width, ffns[static_cast<size_t>(layer)], false);
    dense.gating = Gating::kGelu;  // Also beside experts, where MakeGemma does not see it.
    if (!experts) return dense;
    return MoeBeside(std::move(dense), base, sizes, *experts);
  };
  ModelSpec spec = DecoderOf("gemma4_text", sizes, AttentionOf(sizes, attentions), feed_forward);
  ASSIGN_OR_RETURN(spec.final_logit_softcap, ReadSoftcap(config, "final_logit_softcapping"));
  MakeGemma(sizes, {.zero_centered = false, .of_outputs = true}, spec);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    spec.layers[i].output_scale = WeightRef{
        .shape = {1}, .sources = {{.base = fmt::format("model.layers.{}", i), .suffix = "layer_scalar"}}};
  }
  RETURN_IF_ERROR(AddLayerInputs(config, sizes, spec));
  return spec;
}

std::string Tiny() {
  return TinyConfig("gemma4_text", R"("intermediate_size": 384, "num_key_value_heads": 4, "head_dim": 28,
  "num_global_key_value_heads": 2, "global_head_dim": 60, "attention_k_eq_v": true,
  "hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": 30.0, "sliding_window": 33,
  "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention",
    "sliding_attention", "sliding_attention", "full_attention"],
  "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}},
  "hidden_size_per_layer_input": 320, "vocab_size_per_layer_input": 331, "num_kv_shared_layers": 3,
  "use_double_wide_mlp": true, "use_bidirectional_attention": null,
  "enable_moe_block": true, "num_experts": 13, "top_k_experts": 3, "moe_intermediate_size": 320,
  "tie_word_embeddings": true)");
}

}  // namespace

extern const Family gemma4_text;
constinit const Family gemma4_text = {"gemma4_text", &Spec, &Tiny};

}  // namespace shoal::families
