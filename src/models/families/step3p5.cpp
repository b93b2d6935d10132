// Step 3.5 Flash. Reference: transformers models/step3p7/modeling_step3p7.py, which runs this text model.
#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_gemma.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Lists may be longer than the model: what follows is of heads for multi-token prediction.
template <typename T>
absl::StatusOr<std::vector<T>> ForLayers(const ModelConfig& config, const char* key, std::vector<T> list,
                                         int64_t layers) {
  if (!list.empty() && std::ssize(list) < layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where(key), layers,
                           list.size());
  }
  list.resize(list.empty() ? 0 : static_cast<size_t>(layers));
  return list;
}

/// Numbers of layers with experts: "3,4,5" or [3, 4, 5]; without them, all from the fourth on.
absl::StatusOr<std::vector<bool>> ReadSparse(const ModelConfig& config, int64_t layers) {
  constexpr char kKey[] = "moe_layers_enum";
  std::vector<bool> sparse(static_cast<size_t>(layers), !config.has(kKey));
  if (!config.has(kKey)) {
    std::fill_n(sparse.begin(), std::min<int64_t>(3, layers), false);
    return sparse;
  }
  std::vector<int64_t> numbers;
  const absl::StatusOr<std::string> text = config.required_string(kKey);
  if (!text.ok()) {
    ASSIGN_OR_RETURN(numbers, config.int_list(kKey));
  }
  for (std::string_view left = text.ok() ? std::string_view(*text) : ""; !left.empty();) {
    const std::string_view word = left.substr(0, left.find(','));
    left.remove_prefix(std::min(left.size(), word.size() + 1));
    int64_t number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc() || end != word.data() + word.size() || number < 0) {
      return InvalidArgument("{}: expected numbers of layers between commas, found \"{}\"",
                             config.where(kKey), *text);
    }
    numbers.push_back(number);
  }
  for (const int64_t number : numbers) {
    if (number < layers) sparse[static_cast<size_t>(number)] = true;
  }
  return sparse;
}

/// What differs from layer to layer.
struct Layers {
  std::vector<bool> windowed, sparse;
  std::vector<RopeSpec> ropes;
  std::vector<double> limits, shared_limits;  ///< Of activations; empty or 0: none.
};

/// rope_scaling is of the layers that see everything alone.
absl::Status ReadRopes(const ModelConfig& config, int head_dim, Layers& layers) {
  const auto count = std::ssize(layers.windowed);
  constexpr Bounds<double> kThetas{1.0, 1e15};
  std::vector<double> thetas;
  if (const auto of_all = config.required_number("rope_theta", kThetas); of_all.ok()) {
    thetas.assign(layers.windowed.size(), *of_all);
  } else {
    ASSIGN_OR_RETURN(thetas, config.number_list("rope_theta", kThetas));
  }
  ASSIGN_OR_RETURN(thetas, ForLayers(config, "rope_theta", std::move(thetas), count));
  if (thetas.empty()) {
    return InvalidArgument("{}: expected a number, or one for each layer, found nothing",
                           config.where("rope_theta"));
  }
  ASSIGN_OR_RETURN(std::vector<double> shares, config.number_list("partial_rotary_factors", {0.0, 1.0}));
  ASSIGN_OR_RETURN(shares, ForLayers(config, "partial_rotary_factors", std::move(shares), count));
  ASSIGN_OR_RETURN(const std::vector<std::string> scaled, config.string_list("yarn_only_types"));
  if (!scaled.empty() && scaled != std::vector<std::string>{"full_attention"}) {
    return Unimplemented("{}: expected [\"full_attention\"], found {}", config.where("yarn_only_types"),
                         config.excerpt("yarn_only_types"));
  }
  for (size_t i = 0; i < layers.windowed.size(); ++i) {
    const auto dims = static_cast<int>(head_dim * (shares.empty() ? 1.0 : shares[i]));
    if (dims < 2 || dims % 2 != 0) {
      return InvalidArgument("{}: expected shares of {} dimensions that are even, found {}",
                             config.where("partial_rotary_factors"), head_dim, dims);
    }
    RopeSpec& rope = layers.ropes.emplace_back();
    rope.dims = dims;
    if (!layers.windowed[i]) {
      ASSIGN_OR_RETURN(rope, ReadRopeScaling(config, dims));
    }
    rope.theta = thetas[i];
  }
  return absl::OkStatus();
}

absl::StatusOr<Layers> ReadLayers(const ModelConfig& config, int64_t count, int head_dim) {
  Layers layers;
  ASSIGN_OR_RETURN(std::vector<std::string> types, config.string_list("layer_types"));
  ASSIGN_OR_RETURN(types, ForLayers(config, "layer_types", std::move(types), count));
  layers.windowed.assign(static_cast<size_t>(count), false);
  for (size_t i = 0; i < types.size(); ++i) layers.windowed[i] = types[i] == "sliding_attention";
  ASSIGN_OR_RETURN(layers.sparse, ReadSparse(config, count));
  RETURN_IF_ERROR(ReadRopes(config, head_dim, layers));
  for (auto [list, key] : {std::pair(&layers.limits, "swiglu_limits"),
                           std::pair(&layers.shared_limits, "swiglu_limits_shared")}) {
    ASSIGN_OR_RETURN(*list, config.number_list(key, {0.0, 1e6}));
    ASSIGN_OR_RETURN(*list, ForLayers(config, key, std::move(*list), count));
  }
  return layers;
}

GqaSpec AttentionAt(const std::string& base, const DecoderSizes& sizes, const AttentionSettings& parts) {
  GqaSpec gqa = GqaAt(base, sizes, parts);
  CenterAtOne(*gqa.q_norm);
  CenterAtOne(*gqa.k_norm);
  gqa.gate = LinearAt(base + ".g_proj", sizes.heads, sizes.width, false);
  return gqa;
}

void Clamp(const std::vector<double>& limits, int64_t layer, DenseSpec& dense) {
  if (limits.empty() || limits[static_cast<size_t>(layer)] == 0) return;
  dense.gating = Gating::kClampedSilu;
  dense.limit = static_cast<float>(limits[static_cast<size_t>(layer)]);
}

/// The hub has the experts as three stacks.
MoeSpec ExpertsAt(const std::string& base, int64_t width, const MoeSettings& parts) {
  MoeSpec moe = MoeAt(base + ".moe", width, parts, {.stacks = ""});
  for (DenseSpec& expert : moe.experts) {
    for (LinearSpec* linear : {&expert.gate, &expert.up, &expert.down}) {
      std::vector<WeightSource>& places = linear->weight.sources;
      places.erase(places.begin());
    }
  }
  moe.router.selection_bias->sources = {{.base = base + ".moe", .suffix = "router_bias"}};
  moe.shared = DenseAt(base + ".share_expert", width, parts.shared_width, false);
  return moe;
}

absl::StatusOr<MoeSettings> ReadStepExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings experts,
                   ReadExperts(config, sizes, {.experts = "moe_num_experts", .top_k = "moe_top_k"}));
  ASSIGN_OR_RETURN(experts.shared_width, config.required_int("share_expert_dim"));
  ASSIGN_OR_RETURN(const double factor, config.required_number("moe_router_scaling_factor", {0.0, 1e3}));
  experts.routed_scaling_factor = static_cast<float>(factor);
  experts.scores = RouteScores::kSigmoid;
  experts.weighting = RouteWeights::kRenormalized;
  experts.has_selection_bias = true;
  return experts;
}

absl::Status RefuseOthers(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireIfPresent(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RequireIfPresent(config, "moe_router_activation", "sigmoid"));
  RETURN_IF_ERROR(RequireFlag(config, "use_moe_router_bias", true));
  RETURN_IF_ERROR(RequireFlag(config, "norm_expert_weight", true));
  RETURN_IF_ERROR(RequireFlag(config, "use_qk_norm", true));
  RETURN_IF_ERROR(RequireFlag(config, "use_head_wise_attn_gate", true));
  return RequireFlag(config, "attention_bias", false);
}

/// Layers with a window have other numbers of heads.
absl::StatusOr<DecoderSizes> ReadWindowedSizes(const ModelConfig& config, const DecoderSizes& sizes) {
  DecoderSizes windowed = sizes;
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> other, config.optional_object("attention_other_setting"));
  if (!other) return windowed;
  ASSIGN_OR_RETURN(const std::optional<int64_t> heads,
                   other->optional_int("num_attention_heads", {1, 1 << 16}));
  windowed.heads = static_cast<int>(heads.value_or(sizes.heads));
  ASSIGN_OR_RETURN(const std::optional<int64_t> groups, other->optional_int("num_attention_groups"));
  if (groups.value_or(sizes.kv_heads) != sizes.kv_heads) {
    return Unimplemented("{}: expected num_attention_groups = {} of the other layers, found {}",
                         other->where("num_attention_groups"), sizes.kv_heads, *groups);
  }
  if (windowed.heads % sizes.kv_heads == 0) return windowed;
  return InvalidArgument("{}: expected a multiple of num_attention_groups = {}, found {}",
                         other->where("num_attention_heads"), sizes.kv_heads, windowed.heads);
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseOthers(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes,
                   ReadDecoderSizes(config, false, {.kv_heads = "num_attention_groups"}));
  ASSIGN_OR_RETURN(const DecoderSizes windowed_sizes, ReadWindowedSizes(config, sizes));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const Layers layers, ReadLayers(config, sizes.layers, attention.head_dim));
  ASSIGN_OR_RETURN(const std::optional<int64_t> window, config.optional_int("sliding_window"));
  if (!window && std::ranges::find(layers.windowed, true) != layers.windowed.end()) {
    return InvalidArgument("{}: expected a number, found nothing", config.where("sliding_window"));
  }
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadStepExperts(config, sizes));
  const auto mixer = [&](int64_t layer, const std::string& base) {
    const auto i = static_cast<size_t>(layer);
    AttentionSettings parts = attention;
    parts.rope = layers.ropes[i];
    GqaSpec gqa = AttentionAt(base + ".self_attn", layers.windowed[i] ? windowed_sizes : sizes, parts);
    if (layers.windowed[i]) gqa.window = window;
    return gqa;
  };
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (!layers.sparse[static_cast<size_t>(layer)]) {
      DenseSpec dense = DenseAt(base + ".mlp", sizes.width, ffn, false);
      Clamp(layers.shared_limits, layer, dense);
      return dense;
    }
    MoeSpec moe = ExpertsAt(base, sizes.width, experts);
    for (DenseSpec& expert : moe.experts) Clamp(layers.limits, layer, expert);
    Clamp(layers.shared_limits, layer, *moe.shared);
    return moe;
  };
  ModelSpec spec = DecoderOf("step3p5", sizes, mixer, feed_forward);
  CenterAtOne(spec.final_norm);
  for (LayerSpec& layer : spec.layers) {
    CenterAtOne(*layer.mixer_norm);
    CenterAtOne(*layer.feed_forward_norm);
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("step3p5",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_attention_groups": 2,
  "head_dim": 20, "attention_other_setting": {"attention_type": "sliding_attention",
    "num_attention_heads": 32, "num_attention_groups": 2, "head_dim": 20},
  "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention",
    "sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 33,
  "rope_theta": [5000000, 10000, 10000, 5000000, 10000, 10000, 5000000],
  "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5], "yarn_only_types": ["full_attention"],
  "rope_scaling": {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 64,
    "low_freq_factor": 1.0, "high_freq_factor": 32.0}, "use_head_wise_attn_gate": true,
  "moe_layers_enum": "2,3,4,5,6", "moe_num_experts": 13, "moe_top_k": 3, "share_expert_dim": 320,
  "moe_router_activation": "sigmoid", "moe_router_scaling_factor": 3.0, "use_moe_router_bias": true,
  "norm_expert_weight": true, "swiglu_limits": [0, 0, 0, 0, 0, 1.5, 2.5],
  "swiglu_limits_shared": [0, 0, 0, 0, 0, 0.5, 2.0], "hidden_act": "silu", "tie_word_embeddings": false)");
}

}  // namespace

extern const Family step3p5;
constinit const Family step3p5 = {"step3p5", &Spec, &Tiny};

}  // namespace shoal::families
