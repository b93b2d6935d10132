#include "models/families/common/family_gemma.h"

#include <cmath>
#include <optional>
#include <variant>

#include "base/status.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

/// The layer's norms beside those of LayerAt, whose names mean something else then.
void AddOutputNorms(const std::string& base, const DecoderSizes& sizes, LayerSpec& layer) {
  const auto norm = [&](const char* name) { return NormAt(base + name, sizes.width, sizes.eps); };
  layer.mixer_out_norm = norm(".post_attention_layernorm");
  layer.feed_forward_norm = norm(".pre_feedforward_layernorm");
  layer.feed_forward_out_norm = norm(".post_feedforward_layernorm");
}

}  // namespace

void CenterAtOne(NormSpec& norm) {
  WeightSource& hub = norm.weight.sources.at(0);
  hub.offset = 1;
  norm.weight.sources.push_back({.base = hub.base, .suffix = "one_plus_weight", .written = false});
}

float GemmaEmbeddingScale(int64_t width) {
  return BF16ToF32(F32ToBF16(static_cast<float>(std::sqrt(static_cast<double>(width)))));
}

void MakeGemma(const DecoderSizes& sizes, const GemmaNorms& norms, ModelSpec& spec) {
  spec.embedding_scale = GemmaEmbeddingScale(sizes.width);
  if (norms.zero_centered) CenterAtOne(spec.final_norm);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    if (norms.of_outputs) AddOutputNorms(fmt::format("model.layers.{}", i), sizes, layer);
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    for (std::optional<NormSpec>* norm : {&layer.mixer_norm, &layer.mixer_out_norm, &layer.feed_forward_norm,
                                          &layer.feed_forward_out_norm, &gqa.q_norm, &gqa.k_norm}) {
      if (*norm && norms.zero_centered) CenterAtOne(**norm);
    }
    if (auto* dense = std::get_if<DenseSpec>(&layer.feed_forward)) dense->gating = Gating::kGelu;
  }
}

absl::Status ReadGemmaRopes(const ModelConfig& config, int head_dim, RopeSpec& full, RopeSpec& local) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> ropes, config.optional_object("rope_parameters"));
  if (ropes && ropes->has("full_attention")) {
    ASSIGN_OR_RETURN(full, ReadRopeOfType(config, "full_attention", head_dim));
    ASSIGN_OR_RETURN(local, ReadRopeOfType(config, "sliding_attention", head_dim));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(full, ReadRope(config, head_dim));
  local = {.dims = head_dim};
  ASSIGN_OR_RETURN(local.theta, config.required_number("rope_local_base_freq", {1.0, 1e15}));
  return absl::OkStatus();
}

LayerInputSpec GemmaLayerInputAt(const std::string& base, const DecoderSizes& sizes, int64_t layer_width) {
  return {.gate = LinearAt(base + ".per_layer_input_gate", layer_width, sizes.width, false),
          .up = LinearAt(base + ".per_layer_projection", sizes.width, layer_width, false),
          .norm = NormAt(base + ".post_per_layer_input_norm", sizes.width, sizes.eps)};
}

AltUpSpec GemmaLayerInputs(const DecoderSizes& sizes, int64_t layer_width, int64_t vocabulary) {
  const int64_t all = sizes.layers * layer_width;
  AltUpSpec inputs{.streams = 1, .layer_width = layer_width};
  inputs.layer_embedding = MatrixAt("model.embed_tokens_per_layer", vocabulary, all);
  inputs.layer_embedding_scale = GemmaEmbeddingScale(layer_width);
  inputs.layer_projection = LinearAt("model.per_layer_model_projection", all, sizes.width, false);
  inputs.layer_norm = NormAt("model.per_layer_projection_norm", layer_width, sizes.eps);
  return inputs;
}

absl::Status ShareGemmaKv(const ModelConfig& config, ModelSpec& spec) {
  constexpr char kKey[] = "num_kv_shared_layers";
  ASSIGN_OR_RETURN(const int64_t sharing, config.required_int(kKey, {0, spec.layer_count() - 1}));
  if (sharing == 0) return absl::OkStatus();
  const auto first = static_cast<size_t>(spec.layer_count() - sharing);
  int64_t column = 0;
  for (const bool windowed : {false, true}) {
    const auto gqa_of = [&](size_t layer) -> GqaSpec* {
      GqaSpec& gqa = std::get<GqaSpec>(spec.layers[layer].mixer);
      return gqa.window.has_value() == windowed ? &gqa : nullptr;
    };
    GqaSpec* giver = nullptr;
    for (size_t i = 0; i < first; ++i) giver = gqa_of(i) != nullptr ? gqa_of(i) : giver;
    bool taken = false;
    for (size_t i = first; i < spec.layers.size(); ++i) {
      GqaSpec* taker = gqa_of(i);
      if (taker == nullptr) continue;
      if (giver == nullptr) {
        return InvalidArgument("{}: expected a layer of the kind of layer {} before the last {}, found none",
                               config.where(kKey), i, sharing);
      }
      taken = true;
      taker->shared_kv = GqaSpec::SharedKv{.column = column, .taken = true};
      taker->k_norm.reset();
      taker->values_from_keys = false;
      for (const char* name : {"k_proj", "v_proj", "k_norm", "v_norm"}) {
        for (const char* prefix : {"model", "model.language_model", "language_model.model"}) {
          spec.ignored_tensors.emplace_back(fmt::format("{}.layers.{}.self_attn.{}.", prefix, i, name),
                                            "keys and values of layers that take those of others");
        }
      }
    }
    if (!taken) continue;
    giver->shared_kv = GqaSpec::SharedKv{.column = column};
    column += int64_t{2} * giver->kv_heads * giver->head_dim;
  }
  spec.altup->shared_kv_values = column;
  return absl::OkStatus();
}

absl::Status RefuseBidirectional(const ModelConfig& config) {
  constexpr char kKey[] = "use_bidirectional_attention";
  ASSIGN_OR_RETURN(const std::optional<bool> used, config.optional_bool(kKey));
  if (!used.value_or(false)) return absl::OkStatus();
  return Unimplemented("{}: expected false, found true; not built", config.where(kKey));
}

absl::StatusOr<float> ReadSoftcap(const ModelConfig& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<double> cap, config.optional_number(key, {1e-3, 1e6}));
  return static_cast<float>(cap.value_or(0));
}

}  // namespace shoal
