// What the versions of Gemma share.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/spec.h"

namespace shoal {

/// How Gemma's norms are stored, and which there are.
struct GemmaNorms {
  bool zero_centered = true;  ///< Norms, those of heads included, are stored as w and applied as 1 + w.
  bool of_outputs = false;    ///< Also of what attention and feed-forward add, four norms a layer in all.
};
/// A norm that the hub stores as w and applies as 1 + w. In a GGUF the stored norm holds 1 + w
/// (formats/gguf_architectures.h).
void CenterAtOne(NormSpec& norm);

/// Scales embeddings by sqrt(hidden_size), gates by gelu, and sets the norms.
void MakeGemma(const DecoderSizes& sizes, const GemmaNorms& norms, ModelSpec& spec);

/// sqrt(width) in the precision of the reference's weights: what embeddings of that width are multiplied by.
float GemmaEmbeddingScale(int64_t width);

/// What a layer makes of its own input of `layer_width` numbers: per_layer_input_gate, per_layer_projection and
/// post_per_layer_input_norm below `base`.
LayerInputSpec GemmaLayerInputAt(const std::string& base, const DecoderSizes& sizes, int64_t layer_width);

/// What makes these inputs of a token and its embedding, with one stream: embed_tokens_per_layer of `vocabulary` rows,
/// per_layer_model_projection and per_layer_projection_norm.
AltUpSpec GemmaLayerInputs(const DecoderSizes& sizes, int64_t layer_width, int64_t vocabulary);

/// The last num_kv_shared_layers layers take keys and values from the last layer of their kind (with a window or without)
/// before them, by way of the rows (spec.altup). Checkpoints may have theirs all the same.
absl::Status ShareGemmaKv(const ModelConfig& config, ModelSpec& spec);

/// Refuses attention to what comes behind (use_bidirectional_attention), which embedding models have.
absl::Status RefuseBidirectional(const ModelConfig& config);

/// Of layers that see everything, and of those with a window: newer configs have an object for each, older ones
/// rope_theta and rope_local_base_freq.
absl::Status ReadGemmaRopes(const ModelConfig& config, int head_dim, RopeSpec& full, RopeSpec& local);

/// final_logit_softcapping or attn_logit_softcapping; 0 where absent.
absl::StatusOr<float> ReadSoftcap(const ModelConfig& config, const char* key);

}  // namespace shoal
