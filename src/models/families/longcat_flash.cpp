// LongCat-Flash. Reference: transformers models/longcat_flash/modeling_longcat_flash.py.
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// What the reference has where a config is silent; of these, the hub's has only max_position_embeddings.
constexpr char kLongcatDefaults[] = R"({"hidden_act": "silu", "tie_word_embeddings": false,
  "rope_theta": 10000000.0})";

/// A layer of the reference is two attentions and two MLPs, one after the other, and experts beside what follows the
/// first attention: they read what the first MLP reads, and are added behind the second. Here it is two layers, whose
/// rows carry the experts' sum from the first to the second. So every layer has one mixer and one feed-forward, a cache
/// of its own and a place in the plan like any other's, and a stage may begin between the two. Rows are twice as wide
/// for it on every wire, where half of them would do with an addend of zeros left out.
enum LongcatHalf : uint8_t { kFirstHalf, kSecondHalf };  // Numbers in names of tensors.

struct LongcatParts {
  DecoderSizes sizes;  // Of halves: twice num_layers.
  int64_t ffn = 0;
  MoeSettings experts;
  int64_t identities = 0;
  MakeMixer attention[2];
};

/// Whether latents are multiplied by sqrt(D / rank), as in the reference, which does not read the keys.
absl::Status RequireScaledLatents(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireFlag(config, "mla_scale_q_lora", true));
  return RequireFlag(config, "mla_scale_kv_lora", true);
}

absl::Status RefuseOtherLongcats(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "attention_method", "MLA"));
  RETURN_IF_ERROR(RequireIfPresent(config, "zero_expert_type", "identity"));
  RETURN_IF_ERROR(RequireFlag(config, "router_bias", false));
  RETURN_IF_ERROR(RequireFlag(config, "norm_topk_prob", false));
  return RequireScaledLatents(config);
}

/// The keys that other families call otherwise, under their usual names.
absl::StatusOr<ModelConfig> WithUsualKeys(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const int64_t layers, config.required_int("num_layers", {1, 4096}));
  ASSIGN_OR_RETURN(const int64_t heads, config.required_int("num_attention_heads", {1, 4096}));
  ASSIGN_OR_RETURN(const std::optional<int64_t> stated, config.optional_int("num_hidden_layers"));
  if (stated && *stated != 2 * layers) {
    return InvalidArgument("{}: expected twice num_layers = {}, found {}", config.where("num_hidden_layers"),
                           layers, *stated);
  }
  return config.with_defaults(
      fmt::format(R"({{"num_hidden_layers": {}, "num_key_value_heads": {}}})", 2 * layers, heads));
}

absl::StatusOr<LongcatParts> ReadLongcat(const ModelConfig& stated) {
  ASSIGN_OR_RETURN(const ModelConfig config, WithUsualKeys(stated.with_defaults(kLongcatDefaults)));
  RETURN_IF_ERROR(RefuseOtherLongcats(config));
  LongcatParts parts;
  ASSIGN_OR_RETURN(parts.sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(parts.ffn, config.required_int("ffn_hidden_size"));
  ASSIGN_OR_RETURN(
      parts.experts,
      ReadExperts(config, parts.sizes,
                  {.experts = "n_routed_experts", .top_k = "moe_topk", .width = "expert_ffn_hidden_size"}));
  ASSIGN_OR_RETURN(parts.identities, config.required_int("zero_expert_num", {0, 4096}));
  ASSIGN_OR_RETURN(const double factor, config.required_number("routed_scaling_factor", {0.0, 1e3}));
  parts.experts.routed_scaling_factor = static_cast<float>(factor);
  parts.experts.has_selection_bias = true;
  RETURN_IF_ERROR(config.required_int("q_lora_rank").status());
  for (const LongcatHalf half : {kFirstHalf, kSecondHalf}) {
    ASSIGN_OR_RETURN(parts.attention[half], ReadLatentAttention(config, parts.sizes, LatentNames::kSplit,
                                                                fmt::format(".self_attn.{}", int{half})));
  }
  // The reference takes head_dim for the rotated dimensions.
  ASSIGN_OR_RETURN(const int64_t rotated, config.required_int("qk_rope_head_dim"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> head_dim, config.optional_int("head_dim"));
  if (head_dim.value_or(rotated) != rotated) {
    return InvalidArgument("{}: expected qk_rope_head_dim = {}, found {}", config.where("head_dim"), rotated,
                           *head_dim);
  }
  return parts;
}

/// Latents are as long as rows of D: their norms bring a factor.
MixerSpec ScaledAttention(const LongcatParts& parts, LongcatHalf half, const std::string& base) {
  MixerSpec mixer = parts.attention[half](0, base);
  auto& mla = std::get<MlaSpec>(mixer);
  const auto factor = [&](int64_t rank) {
    return static_cast<float>(std::sqrt(static_cast<double>(parts.sizes.width) / static_cast<double>(rank)));
  };
  mla.q_norm->factor = factor(mla.q_norm->weight.shape[0]);
  mla.kv_norm.factor = factor(mla.latent);
  return mixer;
}

/// The experts of the first half, whose MLP is an expert that every row goes to.
MoeSpec ExpertsAt(const LongcatParts& parts, const std::string& base) {
  const int64_t choices = parts.experts.experts + parts.identities;
  MoeSpec moe = MoeAt(base + ".mlp", parts.sizes.width, parts.experts, {.selection_bias = ".router"});
  moe.router.linear = LinearAt(base + ".mlp.router.classifier", choices, parts.sizes.width, false);
  moe.router.selection_bias->shape = {choices};
  moe.identities = parts.identities;
  moe.shared = DenseAt(base + ".mlps.0", parts.sizes.width, parts.ffn, false);
  return moe;
}

LayerSpec HalfAt(const LongcatParts& parts, LongcatHalf half, const std::string& base) {
  LayerSpec layer;
  const auto norm = [&](const char* name) {
    return NormAt(fmt::format("{}.{}.{}", base, name, int{half}), parts.sizes.width, parts.sizes.eps);
  };
  layer.mixer_norm = norm("input_layernorm");
  layer.mixer = ScaledAttention(parts, half, base);
  layer.feed_forward_norm = norm("post_attention_layernorm");
  if (half == kFirstHalf) {
    layer.feed_forward = ExpertsAt(parts, base);
    layer.addend = AddendUse::kSet;
  } else {
    layer.feed_forward = DenseAt(base + ".mlps.1", parts.sizes.width, parts.ffn, false);
    layer.addend = AddendUse::kAdd;
  }
  return layer;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const LongcatParts parts, ReadLongcat(config));
  DecoderSizes without_layers = parts.sizes;
  without_layers.layers = 0;
  ModelSpec spec = DecoderOf("longcat_flash", without_layers, parts.attention[0], {});
  spec.carries_addend = true;
  for (int64_t i = 0; i < parts.sizes.layers; ++i) {
    spec.layers.push_back(
        HalfAt(parts, static_cast<LongcatHalf>(i % 2), fmt::format("model.layers.{}", i / 2)));
  }
  spec.ignored_tensors.emplace_back("model.mtp.", "heads for further tokens");
  return spec;
}

std::string Tiny() {
  return TinyConfig("longcat_flash",
                    R"("num_layers": 4, "ffn_hidden_size": 384,
  "expert_ffn_hidden_size": 320, "num_key_value_heads": 16, "q_lora_rank": 320, "kv_lora_rank": 320,
  "qk_nope_head_dim": 64, "qk_rope_head_dim": 20, "v_head_dim": 20, "head_dim": 20,
  "mla_scale_q_lora": true, "mla_scale_kv_lora": true, "attention_method": "MLA",
  "n_routed_experts": 13, "zero_expert_num": 6, "zero_expert_type": "identity", "moe_topk": 4,
  "norm_topk_prob": false, "router_bias": false, "routed_scaling_factor": 1.5, "hidden_act": "silu",
  "rope_theta": 10000.0, "tie_word_embeddings": false)",
                    8);
}

}  // namespace

extern const Family longcat_flash;
constinit const Family longcat_flash = {"longcat_flash", &Spec, &Tiny};

}  // namespace shoal::families
