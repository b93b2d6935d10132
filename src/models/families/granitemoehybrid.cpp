// Granite 4: Mamba 2 and attention, dense or with experts. Reference: transformers
// models/granitemoehybrid/modeling_granitemoehybrid.py.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_granite.h"
#include "models/families/common/family_mamba.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Which layers attend; the others are Mamba 2. Both the names of the hub's configs and those of newer transformers.
absl::StatusOr<std::vector<bool>> ReadAttendingLayers(const ModelConfig& config, int64_t layers) {
  const char* key = config.has("layer_types") ? "layer_types" : "layers_block_type";
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list(key));
  if (std::ssize(types) < layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where("layer_types"),
                           layers, types.size());
  }
  std::vector<bool> attending(static_cast<size_t>(layers));
  for (size_t i = 0; i < attending.size(); ++i) {
    attending[i] = types[i] == "attention" || types[i] == "full_attention";
    if (attending[i] || types[i] == "mamba" || types[i] == "linear_attention") continue;
    return Unimplemented("{}: expected \"attention\" or \"mamba\", found \"{}\"", config.where(key),
                         types[i]);
  }
  return attending;
}

/// position_embedding_type: "rope", or none at all.
absl::StatusOr<bool> ReadRotates(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<std::string> type, config.optional_string("position_embedding_type"));
  if (type.value_or("nope") == "rope") return true;
  RETURN_IF_ERROR(RequireIfPresent(config, "position_embedding_type", "nope"));
  return false;
}

/// The hub has gate and up as one, `<base>.input_linear`, gate first; a GGUF has them apart.
DenseSpec FusedAt(const std::string& base, int64_t width, int64_t ffn) {
  DenseSpec dense{.width = ffn,
                  .gate = PartOf(base + ".input_linear", 2 * ffn, 0, ffn, width),
                  .up = PartOf(base + ".input_linear", 2 * ffn, ffn, ffn, width),
                  .down = LinearAt(base + ".output_linear", width, ffn, false)};
  dense.gate.weight.sources.push_back({.base = base + ".gate_proj", .written = false});
  dense.up.weight.sources.push_back({.base = base + ".up_proj", .written = false});
  return dense;
}

/// mlx-lm has the feed-forward of models without experts below `mlp`, gate and up apart.
DenseSpec DenseLayerAt(const std::string& base, int64_t width, int64_t ffn) {
  DenseSpec dense = FusedAt(base + ".shared_mlp", width, ffn);
  const auto add = [&](LinearSpec& linear, const char* name) {
    WeightSource mlx{.base = base + ".mlp" + name, .mlx = true};
    mlx.only_with = mlx.name();
    linear.weight.sources.push_back(std::move(mlx));
  };
  add(dense.gate, ".gate_proj");
  add(dense.up, ".up_proj");
  add(dense.down, ".down_proj");
  return dense;
}

absl::StatusOr<MoeSettings> ReadHybridExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> experts, config.optional_int("num_local_experts", {0, 4096}));
  if (experts.value_or(0) == 0) return MoeSettings{};
  return ReadGraniteExperts(config, sizes);
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "normalization_function", "rmsnorm"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const std::vector<bool> attending, ReadAttendingLayers(config, sizes.layers));
  ASSIGN_OR_RETURN(AttentionSettings attention, ReadGraniteAttention(config, sizes));
  ASSIGN_OR_RETURN(const bool rotates, ReadRotates(config));
  if (!rotates) attention.rope = {};
  ASSIGN_OR_RETURN(const Mamba2Settings mamba, ReadMamba2(config, {}));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadHybridExperts(config, sizes));
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("shared_intermediate_size"));
  const auto mixer = [&](int64_t layer, const std::string& base) -> MixerSpec {
    if (attending[static_cast<size_t>(layer)]) return GqaAt(base + ".self_attn", sizes, attention);
    return Mamba2At(base + ".mamba", sizes.width, sizes.eps, mamba);
  };
  const auto feed_forward = [&](int64_t, const std::string& base) -> FeedForwardSpec {
    if (experts.experts == 0) return DenseLayerAt(base, sizes.width, shared);
    MoeSpec moe = GraniteExpertsAt(base + ".block_sparse_moe", sizes.width, experts);
    moe.shared = FusedAt(base + ".shared_mlp", sizes.width, shared);
    return moe;
  };
  ModelSpec spec = DecoderOf("granitemoehybrid", sizes, mixer, feed_forward);
  RETURN_IF_ERROR(ApplyGraniteMultipliers(config, spec));
  return spec;
}

std::string Tiny() {
  return TinyConfig("granitemoehybrid",
                    R"("intermediate_size": 320, "num_key_value_heads": 2, "hidden_act": "silu",
  "rope_theta": 10000.0, "rope_scaling": null, "position_embedding_type": "nope", "tie_word_embeddings": true,
  "attention_bias": false, "num_local_experts": 13, "num_experts_per_tok": 4, "shared_intermediate_size": 384,
  "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1, "logits_scaling": 6.0,
  "layer_types": ["mamba", "mamba", "attention", "mamba", "mamba", "attention", "mamba"],
  "mamba_n_heads": 10, "mamba_n_groups": 1, "mamba_d_state": 20, "mamba_d_head": 64, "mamba_d_conv": 4,
  "mamba_conv_bias": true, "mamba_proj_bias": false)");
}

}  // namespace

extern const Family granitemoehybrid;
constinit const Family granitemoehybrid = {"granitemoehybrid", &Spec, &Tiny};

}  // namespace shoal::families
