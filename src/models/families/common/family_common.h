// Parts that several families share: reading common config keys, and naming tensors as the hub does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/spec.h"

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
/// Keys that some families call by another name.
struct SizeKeys {
  const char* eps = "rms_norm_eps";
  const char* kv_heads = "num_key_value_heads";
};
/// tied_when_silent: the value for a config without tie_word_embeddings, in families that may omit it.
absl::StatusOr<DecoderSizes> ReadDecoderSizes(const ModelConfig& config,
                                              std::optional<bool> tied_when_silent = std::nullopt,
                                              const SizeKeys& keys = {});

/// rope_theta and scaling, from rope_parameters or rope_scaling (with `rope_type` or `type`) or the top
/// level. `dims` of a head are rotated. Unimplemented lists the scalings that are known.
absl::StatusOr<RopeSpec> ReadRope(const ModelConfig& config, int dims);

/// The same where rope_parameters holds one object for each layer type.
absl::StatusOr<RopeSpec> ReadRopeOfType(const ModelConfig& config, const char* layer_type, int dims);

/// llama_4_scaling_beta of rope_parameters, which counts intervals of original_max_position_embeddings. Both are
/// required, as in the reference.
absl::StatusOr<QueryTemperature> ReadQueryTemperature(const ModelConfig& config);

/// ReadRope where a longrope states what it multiplies cosines and sines by: short_mscale and long_mscale.
absl::StatusOr<RopeSpec> ReadRopeWithMscales(const ModelConfig& config, int dims);

/// The scaling alone, where each layer has a theta of its own: that of the result is 0.
absl::StatusOr<RopeSpec> ReadRopeScaling(const ModelConfig& config, int dims);

/// What yarn multiplies scores by where the config has mscale_all_dim (DeepSeek); 1 elsewhere.
absl::StatusOr<double> ReadYarnScoreFactor(const ModelConfig& config);

/// Refuses another activation under `key`.
absl::Status RequireActivation(const ModelConfig& config, const char* key, std::string_view expected);

/// How many dimensions of a head are rotated: all, or the share that partial_rotary_factor says.
absl::StatusOr<int> ReadRotaryDims(const ModelConfig& config, int head_dim);

/// Refuses a flag that has another value than the family builds; absent is taken for that value.
absl::Status RequireFlag(const ModelConfig& config, const char* key, bool expected);

/// Refuses features that are not built: hidden_act other than silu, partial rotary factors.
absl::Status RefuseUnbuiltFeatures(const ModelConfig& config);

/// Refuses a config with a sliding window: for families whose reference has none.
absl::Status RefuseWindows(const ModelConfig& config);

/// The window of each layer, nullopt where it sees everything: by layer_types where the config has them, else
/// by use_sliding_window and max_window_layers, else sliding_window for every layer.
absl::StatusOr<std::vector<std::optional<int64_t>>> ReadWindows(const ModelConfig& config, int64_t layers);

/// The same for families whose configs without layer_types have every n-th layer see everything, n being the number under
/// `key`, `usual` where absent, and all others sliding_window.
absl::StatusOr<std::vector<std::optional<int64_t>>> ReadWindowPattern(const ModelConfig& config,
                                                                      int64_t layers, const char* key,
                                                                      int64_t usual);

/// An even head dimension that `config` gives under `key`.
absl::StatusOr<int> ReadHeadDim(const ModelConfig& config, const char* key = "head_dim");

/// As ReadHeadDim; without head_dim hidden_size / num_attention_heads, as in the reference.
absl::StatusOr<int> ReadHeadDimOrShare(const ModelConfig& config, const DecoderSizes& sizes);

/// A flag that older configs do not have, which means false. If the checkpoint has the tensors all the same,
/// loading refuses them.
absl::StatusOr<bool> ReadLateFlag(const ModelConfig& config, const char* key);

/// A factor, which is 1 where absent.
absl::StatusOr<double> ReadFactor(const ModelConfig& config, const char* key);

// Tensors under one name: `<base>.weight`, `<base>.bias`.
WeightRef MatrixAt(const std::string& base, int64_t rows, int64_t cols);
NormSpec NormAt(const std::string& base, int64_t size, float eps);
LinearSpec LinearAt(const std::string& base, int64_t rows, int64_t cols, bool bias);

/// The values of `<base>.<suffix>` as a vector, which are stored in another shape.
WeightSource ReshapedAt(const std::string& base, const char* suffix, std::vector<int64_t> stored_shape);

/// gate_proj, up_proj and down_proj below `base`.
DenseSpec DenseAt(const std::string& base, int64_t width, int64_t ffn, bool bias);

/// The same with gate_proj and up_proj as one, gate_up_proj, gate first.
DenseSpec FusedDenseAt(const std::string& base, int64_t width, int64_t ffn);

/// down(activation(up x)), without a gate.
DenseSpec UngatedOf(LinearSpec up, LinearSpec down, Activation activation);

/// Rows [begin, begin + rows) of a fused projection of `stored` rows.
LinearSpec PartOf(const std::string& base, int64_t stored, int64_t begin, int64_t rows, int64_t cols);

/// Over what queries and keys are normalized before rope.
enum class QkNorm : uint8_t { kNone, kPerHead, kWhole };

/// What differs between attentions with the hub's usual tensor names.
struct AttentionSettings {
  int head_dim = 0;
  RopeSpec rope;
  bool qkv_bias = false;
  bool o_bias = false;
  QkNorm norm = QkNorm::kNone;
  std::vector<std::optional<int64_t>> windows;  ///< Of each layer; empty: none has one.
  std::vector<bool> rotates;                    ///< Whether a layer has rope; empty: all have.
  QueryTemperature temperature;
};

/// q_proj, k_proj, v_proj, o_proj (and q_norm, k_norm) below `base`, without a window.
GqaSpec GqaAt(const std::string& base, const DecoderSizes& sizes, const AttentionSettings& parts);

/// Make the parts of a layer from its number and what its tensors' names begin with, such as "model.layers.<i>".
using MakeMixer = std::function<MixerSpec(int64_t layer, const std::string& base)>;
using MakeFeedForward = std::function<FeedForwardSpec(int64_t layer, const std::string& base)>;

/// Reads windows, head_dim (by default width / heads) and rope, which Mistral and Qwen2 configs state alike.
/// The other fields keep their defaults.
absl::StatusOr<AttentionSettings> ReadWindowedAttention(const ModelConfig& config, const DecoderSizes& sizes);

/// GqaAt `<base>.self_attn` with the layer's window; DenseAt `<base>.mlp`.
MakeMixer UsualAttention(const DecoderSizes& sizes, const AttentionSettings& parts);
MakeFeedForward UsualMlp(const DecoderSizes& sizes, int64_t ffn, bool bias = false);

/// The pre-norm layer of that number, under the hub's usual names below `base`.
LayerSpec LayerAt(int64_t index, const std::string& base, const DecoderSizes& sizes, const MakeMixer& mixer,
                  const MakeFeedForward& feed_forward);

/// A decoder of such layers.
ModelSpec DecoderOf(std::string model_type, const DecoderSizes& sizes, const MakeMixer& mixer,
                    const MakeFeedForward& feed_forward);

/// Norms what attention and feed-forward add instead of what they read: post_attention_layernorm and
/// post_feedforward_layernorm of every layer.
void NormOutputsOnly(const DecoderSizes& sizes, ModelSpec& spec);

/// Gives the feed-forwards and norms of layers the names feed_forward and pre_ff_layernorm, and the last norm
/// final_layernorm: those of Jamba and Falcon.
void NameAsFeedForward(ModelSpec& spec);

/// Makes the norms of layers, and the one before the head, layer norms: with a bias beside each weight, or without.
enum class LayerNormBias : uint8_t { kNone, kBeside };
void UseLayerNorms(LayerNormBias bias, ModelSpec& spec);

/// Layers that see everything do not rotate ("NoPE"), where other layers have a window.
void RotateOnlyWithWindow(ModelSpec& spec);

/// Adds ModelSpec::mtp where num_nextn_predict_layers says that there is one: layer num_hidden_layers of the hub's
/// names, with eh_proj, enorm, hnorm and shared_head.norm. Its embedding and its head are the model's own; of several
/// layers the first is used.
absl::Status AddMtp(const ModelConfig& config, const DecoderSizes& sizes, const MakeMixer& mixer,
                    const MakeFeedForward& feed_forward, ModelSpec& spec);

/// A family's tiny config: the sizes that find mistakes (7 layers, 320 wide, 16 heads, 331 tokens), and
/// `keys` (`"a": 1, "b": 2`) for what the family has beside them.
std::string TinyConfig(std::string_view model_type, std::string_view keys, int layers = 7);

}  // namespace shoal
