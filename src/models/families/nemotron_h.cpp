// Nemotron-H. Reference: transformers models/nemotron_h/modeling_nemotron_h.py.
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mamba.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

constexpr Mamba2Keys kKeys{.heads = "mamba_num_heads",
                           .head_dim = "mamba_head_dim",
                           .groups = "n_groups",
                           .state_dim = "ssm_state_size",
                           .taps = "conv_kernel",
                           .conv_bias = "use_conv_bias",
                           .projection_bias = "use_bias"};

/// The reference counts each block, a mixer or a feed-forward, as a layer; here a layer is a mixer and the feed-forward
/// behind it, where there is one.
struct Blocks {
  int64_t mixer = 0;                    ///< Number of its block.
  bool attends = false;                 ///< Otherwise Mamba 2.
  std::optional<int64_t> feed_forward;  ///< Number of its block.
  bool experts = false;
};

/// hybrid_override_pattern: M (Mamba 2), * (attention), - (dense feed-forward), E (experts).
absl::StatusOr<std::vector<Blocks>> ReadBlocks(const ModelConfig& config) {
  constexpr char kKey[] = "hybrid_override_pattern";
  ASSIGN_OR_RETURN(const std::string pattern, config.required_string(kKey));
  std::vector<Blocks> layers;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const auto block = static_cast<int64_t>(i);
    const char kind = pattern[i];
    if (kind == 'M' || kind == '*') {
      layers.push_back({.mixer = block, .attends = kind == '*', .feed_forward = std::nullopt});
    } else if (kind != '-' && kind != 'E') {
      return InvalidArgument("{}: expected M, *, - and E alone, found {}", config.where(kKey),
                             config.excerpt(kKey));
    } else if (layers.empty() || layers.back().feed_forward) {
      return Unimplemented(
          "{}: expected a mixer (M or *) before every feed-forward (- or E), found none before "
          "block {}",
          config.where(kKey), i);
    } else {
      layers.back().feed_forward = block;
      layers.back().experts = kind == 'E';
    }
  }
  ASSIGN_OR_RETURN(const int64_t stated, config.required_int("num_hidden_layers"));
  if (std::ssize(pattern) == stated && !layers.empty()) return layers;
  return InvalidArgument("{}: expected num_hidden_layers = {} blocks, found {}", config.where(kKey), stated,
                         pattern.size());
}

struct Experts {
  MoeSettings usual;
  int64_t shared_width = 0;
};

absl::StatusOr<Experts> ReadNemotronExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  Experts experts;
  ASSIGN_OR_RETURN(experts.usual, ReadDeepseekV3Experts(config, sizes));
  experts.usual.shared_width = 0;
  ASSIGN_OR_RETURN(experts.shared_width, config.required_int("moe_shared_expert_intermediate_size"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> latent, config.optional_int("moe_latent_size"));
  if (!latent) return experts;
  return Unimplemented(
      "{}: expected nothing, found {}; experts of a narrower width than the model's are not built",
      config.where("moe_latent_size"), *latent);
}

DenseSpec UngatedAt(const std::string& base, int64_t width, int64_t ffn, bool bias) {
  return UngatedOf(LinearAt(base + ".up_proj", ffn, width, bias),
                   LinearAt(base + ".down_proj", width, ffn, bias), Activation::kRelu2);
}

MoeSpec UngatedExpertsAt(const std::string& base, int64_t width, const Experts& experts) {
  const MoeSettings& usual = experts.usual;
  MoeSpec moe = MoeAt(base, width, usual);
  for (int64_t e = 0; e < usual.experts; ++e) {
    DenseSpec expert = UngatedAt(fmt::format("{}.experts.{}", base, e), width, usual.width, false);
    expert.up.weight.sources.push_back(
        {.base = base + ".switch_mlp.fc1", .stack = usual.experts, .index = e});
    expert.down.weight.sources.push_back(
        {.base = base + ".switch_mlp.fc2", .stack = usual.experts, .index = e});
    moe.experts[static_cast<size_t>(e)] = std::move(expert);
  }
  moe.shared = UngatedAt(base + ".shared_experts", width, experts.shared_width, false);
  return moe;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "mlp_hidden_act", "relu2"));
  RETURN_IF_ERROR(RequireActivation(config, "mamba_hidden_act", "silu"));
  RETURN_IF_ERROR(RequireFlag(config, "attention_bias", false));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(DecoderSizes sizes, ReadDecoderSizes(config, false, {.eps = "layer_norm_epsilon"}));
  ASSIGN_OR_RETURN(const std::vector<Blocks> blocks, ReadBlocks(config));
  ASSIGN_OR_RETURN(const Mamba2Settings mamba, ReadMamba2(config, kKeys));
  AttentionSettings attention;  // Without rope.
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool bias, ReadLateFlag(config, "mlp_bias"));
  Experts experts;
  for (const Blocks& layer : blocks) {
    if (!layer.experts) continue;
    ASSIGN_OR_RETURN(experts, ReadNemotronExperts(config, sizes));
    break;
  }
  const auto block = [](int64_t number) { return fmt::format("model.layers.{}", number); };
  sizes.layers = std::ssize(blocks);
  ModelSpec spec = DecoderOf(
      "nemotron_h", sizes,
      [&](int64_t layer, const std::string&) -> MixerSpec {
        const Blocks& of = blocks[static_cast<size_t>(layer)];
        const std::string base = block(of.mixer) + ".mixer";
        if (of.attends) return GqaAt(base, sizes, attention);
        return Mamba2At(base, sizes.width, sizes.eps, mamba);
      },
      [&](int64_t layer, const std::string&) -> FeedForwardSpec {
        const Blocks& of = blocks[static_cast<size_t>(layer)];
        if (!of.feed_forward) return NoFeedForward();
        const std::string base = block(*of.feed_forward) + ".mixer";
        if (of.experts) return UngatedExpertsAt(base, sizes.width, experts);
        return UngatedAt(base, sizes.width, ffn, bias);
      });
  for (size_t i = 0; i < blocks.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    layer.mixer_norm = NormAt(block(blocks[i].mixer) + ".norm", sizes.width, sizes.eps);
    layer.feed_forward_norm.reset();
    if (blocks[i].feed_forward) {
      layer.feed_forward_norm = NormAt(block(*blocks[i].feed_forward) + ".norm", sizes.width, sizes.eps);
    }
  }
  NameAsBackbone(spec);
  spec.ignored_tensors = {{"mtp.", "unused heads for multi-token prediction"}};
  return spec;
}

std::string Tiny() {
  std::string tiny = TinyConfig("nemotron_h", R"("hybrid_override_pattern": "M-MEM*EM-MEM",
  "intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 20, "attention_bias": false,
  "mlp_bias": true, "mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "mamba_num_heads": 6,
  "mamba_head_dim": 64, "ssm_state_size": 20, "n_groups": 2, "conv_kernel": 4, "use_bias": true,
  "use_conv_bias": true, "layer_norm_epsilon": 1e-05, "time_step_limit": [0.001, 100.0],
  "sliding_window": null, "moe_intermediate_size": 320, "moe_shared_expert_intermediate_size": 448,
  "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1,
  "norm_topk_prob": true, "routed_scaling_factor": 2.5, "tie_word_embeddings": false)");
  constexpr std::string_view kSeven = R"("num_hidden_layers": 7)";  // Layers as they are counted here.
  tiny.replace(tiny.find(kSeven), kSeven.size(), R"("num_hidden_layers": 12)");
  return tiny;
}

}  // namespace

extern const Family nemotron_h;
constinit const Family nemotron_h = {"nemotron_h", &Spec, &Tiny};

}  // namespace shoal::families
