// Parts that several families share: reading common config keys, and naming tensors as the hub does.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/spec.h"
#include "weights/config.h"

namespace shoal {

/// The sizes that every decoder of this kind states under the same keys.
struct DecoderSizes {
  int64_t width = 0;          ///< hidden_size
  int64_t vocabulary = 0;     ///< vocab_size
  int64_t layers = 0;         ///< num_hidden_layers
  int64_t max_positions = 0;  ///< max_position_embeddings
  int heads = 0;              ///< num_attention_heads
  int kv_heads = 0;           ///< num_key_value_heads, divides heads
  float eps = 0;              ///< rms_norm_eps
  bool tied_head = false;     ///< tie_word_embeddings
};
absl::StatusOr<DecoderSizes> ReadDecoderSizes(const ModelConfig& config);

/// rope_theta and scaling, from rope_parameters or rope_scaling (with `rope_type` or `type`) or the top
/// level. Scalings other than "default" and "llama3" are refused by name.
absl::StatusOr<RopeSpec> ReadRope(const ModelConfig& config, int head_dim);

/// Refuses what would change the arithmetic and is not built: hidden_act other than silu, sliding windows,
/// layer_types other than full_attention, partial rotary factors.
absl::Status RefuseUnbuiltFeatures(const ModelConfig& config);

/// An even head dimension that `config` gives as head_dim.
absl::StatusOr<int> ReadHeadDim(const ModelConfig& config);

/// A flag that came into the format after the first checkpoints and is false where absent; a checkpoint with
/// the tensors nevertheless is refused on loading.
absl::StatusOr<bool> ReadLateFlag(const ModelConfig& config, const char* key);

// Tensors under one name: `<base>.weight`, `<base>.bias`.
WeightRef MatrixAt(const std::string& base, int64_t rows, int64_t cols);
NormSpec NormAt(const std::string& base, int64_t size, float eps);
LinearSpec LinearAt(const std::string& base, int64_t rows, int64_t cols, bool bias);

/// gate_proj, up_proj and down_proj below `base`.
DenseSpec DenseAt(const std::string& base, int64_t width, int64_t ffn, bool bias);

/// Expert `expert` of `experts`: `<base>.experts.<i>.gate_proj` as on the hub, or matrix i of MLX's stacked
/// `<base>.switch_mlp.gate_proj`.
DenseSpec ExpertAt(const std::string& base, int64_t expert, int64_t experts, int64_t width, int64_t ffn);

/// q_proj, k_proj, v_proj and o_proj below `base`.
GqaSpec GqaAt(const std::string& base, const DecoderSizes& sizes, int head_dim, bool bias);

/// Everything but the layers: model.embed_tokens, model.norm, and lm_head or the tied embedding.
ModelSpec DecoderAround(std::string model_type, const DecoderSizes& sizes);

/// "model.layers.<i>"
std::string LayerBase(int64_t layer);

}  // namespace shoal
