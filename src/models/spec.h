// What a model is, as plain data: per layer which mixer and which feed-forward, and behind each weight where
// it may lie in a checkpoint. The load checks, the partial reads of a stage, the memory model, `shoal
// inspect` and the CPU stage all read this one value; a family (families/*.cpp) makes it from a config and
// does nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/range.h"
#include "numeric/cache_shape.h"
#include "numeric/operation_kinds.h"

namespace shoal {

/// One place where a weight may lie: the tensor `<base>.<suffix>`, or a part of it. It is quantized where
/// `<base>.scales` exists beside `<base>.weight`.
struct WeightSource {
  std::string base;               ///< "model.layers.3.self_attn.q_proj"
  std::string suffix = "weight";  ///< "weight" or "bias"
  /// Stacked tensors [stack, N, K]: which of the `stack` matrices. Not stacked: stack = 0.
  int64_t stack = 0;
  int64_t index = 0;
  /// Rows of the stored matrix [stored_rows, K] that are the weight (fused projections). Empty: all of them.
  Range rows;
  int64_t stored_rows = 0;
  /// Of `rows`, the first and each row_interval-th after it (matrices that take turns).
  int64_t row_interval = 1;
  /// A strided view of a stored tensor of another shape (transposed, every other row): element (n, k) of the
  /// weight is value offset + n * row_stride + k * col_stride of the stored matrix, or of matrix `index` of a
  /// stack. Of plain tensors; of blocks only where it is transposed.
  struct StridedView {
    std::vector<int64_t> stored_shape;  ///< Of the whole tensor.
    int64_t offset = 0;
    int64_t row_stride = 0;
    int64_t col_stride = 0;
  };
  std::optional<StridedView> strided;
  bool written =
      true;          ///< Whether a conversion may put the weight here: mlx-lm looks for it under this name.
  float offset = 0;  ///< Added to what is stored here, of a vector: norms that are stored as w of 1 + w.
  bool mlx = false;  ///< Where folders of mlx-lm have it, where that is not what `stack` says.

  std::string name() const { return base + "." + suffix; }
};

/// A weight of the model: its logical shape ([N, K], or [N] for norms and biases) and its possible places,
/// tried in order.
struct WeightRef {
  std::vector<int64_t> shape;
  std::vector<WeightSource> sources;

  int64_t elements() const {
    int64_t product = 1;
    for (const int64_t n : shape) product *= n;
    return product;
  }
};

/// y = x W^T + b. `bias` absent: none, and a checkpoint that has `<base>.bias` nevertheless is refused.
struct LinearSpec {
  WeightRef weight;
  std::optional<WeightRef> bias;
};

/// Root mean square norm: y = x / sqrt(mean(x^2) + eps) * weight. Source: Zhang, Sennrich 2019,
/// arXiv:1910.07467.
struct NormSpec {
  WeightRef weight;
  float eps = 0;
  float factor = 1;  ///< On the weight.
};

/// Frequencies used as they are.
struct RopeUnscaled {};

/// Llama 3's stretching of the slow frequencies. Source: transformers `_compute_llama3_parameters`.
struct RopeLlama3 {
  double factor = 0;
  double low_freq_factor = 0;
  double high_freq_factor = 0;
  double original_positions = 0;
};

/// All frequencies divided by `factor`.
struct RopeLinear {
  double factor = 0;
};

/// Frequencies that rotate less than beta_slow times over the original context are divided by `factor`, those
/// that rotate more than beta_fast times stay, between them a ramp over the dimensions; `truncate` moves its
/// ends to whole dimensions. Source: Peng et al. 2023, arXiv:2309.00071; transformers
/// `_compute_yarn_parameters`.
struct RopeYarn {
  double factor = 0;
  double original_positions = 0;
  double beta_fast = 0;
  double beta_slow = 0;
  bool truncate = true;
};

/// Of all dims / 2 pairs only the first `rotary_dim` / 2 rotate, by frequencies divided by `factor`. Source:
/// transformers `_compute_proportional_rope_parameters`.
struct RopeProportional {
  int rotary_dim = 0;
  double factor = 1;
};

/// Two sets of frequencies, theta^(-2i / dims) / factor[i]: the short factors in sequences of up to
/// `original_positions`, the long ones in longer sequences, there from the first position on. Source: Ding et
/// al. 2024, arXiv:2402.13753; transformers `_compute_longrope_parameters`, `dynamic_rope_update`.
struct RopeLong {
  int64_t original_positions = 0;
  std::vector<double> short_factors, long_factors;  ///< [dims / 2]
};

/// Rotary position embedding. Source: Su et al. 2021, arXiv:2104.09864.
struct RopeSpec {
  double theta = 0;
  int dims = 0;  ///< Dimensions of a head that are rotated, the leading ones where not all are.
  RopePairing pairing = RopePairing::kHalfSplit;
  std::variant<RopeUnscaled, RopeLlama3, RopeLinear, RopeYarn, RopeProportional, RopeLong> scaling;
  double magnitude = 1;  ///< What cosines and sines are multiplied by ("attention factor").
};

/// Grouped-query attention: query head h reads key-value head h / (heads / kv_heads); scores are scaled by
/// 1 / sqrt(head_dim). Source: Ainslie et al. 2023, arXiv:2305.13245.
struct GqaSpec {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  LinearSpec q, k, v, o;
  /// Before rope: over each head where the weight has head_dim values, else over all heads together.
  std::optional<NormSpec> q_norm, k_norm;
  std::optional<float> v_norm_eps;  ///< Values are normed over each head, without a weight.
  /// There is no v: values are what k gives, before its norm and rope.
  bool values_from_keys = false;
  RopeSpec rope;
  std::optional<int64_t> window;   ///< Positions that a row sees, its own included; absent: all before it.
  std::optional<double> scale;     ///< Of scores, instead of 1 / sqrt(head_dim).
  std::optional<WeightRef> sinks;  ///< [heads]: a score without a value that each head sees, too.
  /// q gives, per head, a query and behind it as many values of a gate (2 * heads * head_dim rows): what a
  /// head attended is multiplied by the sigmoid of its gate.
  bool output_gate = false;
};

/// Latent attention: keys and values are made from one latent vector per position, which is what the cache
/// holds, beside a key that is rotated by the position and is shared by all heads. There is one formulation
/// for every number of rows: the heads' key matrices are applied to the queries and their value matrices to
/// what attention gives, so that it is attention of all heads over one kv head of latents.
/// Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
struct MlaSpec {
  int heads = 0;
  int nope_dim = 0;   ///< Dimensions of a query that meet the latent,
  int rope_dim = 0;   ///< and those that are rotated, which lie behind them.
  int value_dim = 0;  ///< Of a head's output.
  int64_t latent = 0;
  std::optional<LinearSpec> q_a;   ///< [Q, D]: queries may be made from a latent, too,
  std::optional<NormSpec> q_norm;  ///< which is normed.
  LinearSpec q;                    ///< [heads * (nope_dim + rope_dim), Q or D]
  LinearSpec kv_a;                 ///< [latent + rope_dim, D]: latent, then the key that is rotated.
  NormSpec kv_norm;                ///< Of the latent.
  std::vector<LinearSpec> keys;    ///< Per head [latent, nope_dim]
  std::vector<LinearSpec> values;  ///< Per head [value_dim, latent]
  LinearSpec o;                    ///< [D, heads * value_dim]
  RopeSpec rope;
  double scale = 0;  ///< Of scores.
};

/// Gated delta rule: a layer that keeps a matrix per value head instead of the past. Queries, keys and values
/// pass a causal convolution over the sequence and silu; query head h / (value_heads / key_heads) serves
/// value head h. Per position, state = decay * state + key (beta (value - decay * state^T key))^T and the
/// output is state^T query, normed per head and multiplied by silu(z), with decay = exp(-exp(decay_log) *
/// softplus(a + step_bias)), beta = sigmoid(b), queries and keys of length 1, queries over sqrt(key_dim).
/// Source: Yang et al. 2024, arXiv:2412.06464; transformers `Qwen3_5MoeGatedDeltaNet`.
struct GatedDeltaNetSpec {
  int key_heads = 0;
  int value_heads = 0;  ///< A multiple of key_heads.
  int key_dim = 0;      ///< Of a head.
  int value_dim = 0;
  int conv_width = 0;  ///< Positions that the convolution sees, the row's own included.
  LinearSpec qkv;      ///< [channels(), D]: queries, keys, values.
  LinearSpec z;        ///< [value_heads * value_dim, D]
  LinearSpec b, a;     ///< [value_heads, D]
  WeightRef conv;      ///< [channels() * conv_width]: of each channel its taps, the oldest position first.
  WeightRef decay_log, step_bias;  ///< [value_heads]
  NormSpec norm;                   ///< [value_dim], of each value head's output.
  LinearSpec o;                    ///< [D, value_heads * value_dim]

  /// What passes the convolution.
  int64_t channels() const { return int64_t{2} * key_heads * key_dim + int64_t{value_heads} * value_dim; }
  /// f32 values of a layer's state: the convolution's rows, padded to a cache line where the matrices begin,
  int64_t conv_values() const { return PaddedToCacheLine((conv_width - 1) * channels()); }
  /// and all of it, padded alike.
  int64_t state_values() const {
    return PaddedToCacheLine(conv_values() + int64_t{value_heads} * key_dim * value_dim);
  }
};

/// How gate and up become one.
enum class Gating : uint8_t {
  kSilu,           ///< silu(gate) * up. Source: Shazeer 2020, arXiv:2002.05202.
  kGelu,           ///< gelu(gate) * up, by the tanh form.
  kClampedSwiglu,  ///< Both clamped to `limit`, then gate sigmoid(1.702 gate) (up + 1) (kernels.h).
};

/// down(gating(gate x, up x)).
struct DenseSpec {
  int64_t width = 0;  ///< F
  LinearSpec gate, up, down;
  Gating gating = Gating::kSilu;
  float limit = 0;  ///< Of kClampedSwiglu.
};

/// The router: scores of all experts, the top_k largest after selection bias, ties to the lowest id
/// (kernels.h, RouteArgs).
struct RouterSpec {
  /// Of what the layer adds to, read by `linear` instead of the experts' input.
  std::optional<NormSpec> norm;
  LinearSpec linear;  ///< [E, D]
  RouteScores scores = RouteScores::kSoftmax;
  std::optional<WeightRef> selection_bias;  ///< [E]: added to scores for the choice alone.
  RouteGroups groups;
  RouteWeights weighting = RouteWeights::kAsIs;
  float routed_scaling_factor = 1;         ///< On the weights of the chosen,
  std::optional<WeightRef> expert_scales;  ///< and one [E] for each expert.
  bool kept_float =
      false;  ///< mlx-lm reads `linear` as floats only, so that a conversion leaves it what it is.
};

struct MoeSpec {
  int top_k = 0;
  RouterSpec router;
  std::vector<DenseSpec> experts;  ///< One per expert, all of one width.
  /// An expert that every row goes to, beside the routed ones. It runs where the layer is.
  std::optional<DenseSpec> shared;
  std::optional<WeightRef> shared_gate;  ///< [1, D]: the shared output times sigmoid(gate x).
  /// Routed experts as a branch beside the shared one: they read this norm of what the layer adds to (the
  /// shared expert reads the layer's feed_forward_norm of it), and there are norms of their sum and of the
  /// shared expert's output before the two are added. All or none.
  struct Branch {
    NormSpec norm, out_norm, shared_out_norm;
  };
  std::optional<Branch> branch;
};

/// Which kind of cache a layer's mixer keeps. Layers of one group share their block tables.
enum class CacheGroup : uint8_t {
  kFull,   ///< Every position, in blocks.
  kState,  ///< A state per sequence, in slots (kv/kv_cache.h).
};

using MixerSpec = std::variant<GqaSpec, MlaSpec, GatedDeltaNetSpec>;
using FeedForwardSpec = std::variant<DenseSpec, MoeSpec>;

/// Pre-norm residual layer: x += mixer(norm(x)); x += feed_forward(norm(x)). Where there are norms of what
/// comes out, they stand before the addition.
struct LayerSpec {
  NormSpec mixer_norm;
  MixerSpec mixer;
  CacheGroup cache = CacheGroup::kFull;
  std::optional<NormSpec> mixer_out_norm;
  NormSpec feed_forward_norm;
  FeedForwardSpec feed_forward;
  std::optional<NormSpec> feed_forward_out_norm;
  std::optional<WeightRef> output_scale;  ///< [1]: on what leaves the layer.
};

struct ModelSpec {
  std::string model_type;
  int64_t width = 0;          ///< D
  int64_t vocabulary = 0;     ///< V
  int64_t max_positions = 0;  ///< Longest sequence the model was made for.
  WeightRef embedding;        ///< [V, D]
  float embedding_scale = 1;  ///< On its rows where they enter the first layer, not where they are the head.
  std::vector<LayerSpec> layers;
  NormSpec final_norm;
  bool tied_head = false;  ///< The head is the embedding table.
  LinearSpec head;         ///< [V, D]; the embedding's ref where tied.
  /// Tensors of checkpoints that are known and not used: how their names begin, and what they are.
  std::vector<std::pair<std::string, std::string>> ignored_tensors;
  float final_logit_softcap = 0;  ///< c > 0: logits are c tanh(logits / c).

  int64_t layer_count() const { return static_cast<int64_t>(layers.size()); }
};

/// A weight met on the way through a spec.
struct WeightUse {
  int64_t layer = -1;     ///< -1: embedding, final norm, head.
  int64_t expert = -1;    ///< -1: not a routed expert's.
  std::string_view role;  ///< "embedding", "head", "norm", "scale", "attention", "router", "mlp", "expert",
                          ///< "convolution", "decay"
  bool is_head = false;   ///< Belongs to the last stage (final norm and head).
  const WeightRef& ref;
};

/// Calls `visit` for every weight, first embedding, then the layers in order, final norm, head (also where
/// tied).
void ForEachWeight(const ModelSpec& spec, const std::function<void(const WeightUse&)>& visit);

/// Calls `edit` for every weight, in that order: where the same model lies under other names.
void EditWeights(ModelSpec& spec, const std::function<void(WeightRef&)>& edit);

/// What a mixer keeps, per position or per sequence.
KvLayerShape KvShapeOf(const MixerSpec& mixer);

/// Up to how many positions a sequence rotates by short frequencies where layers have RopeLong; a longer one
/// is another sequence to the cache, from its first position on. INT64_MAX: no layer has.
int64_t ShortRopePositions(const ModelSpec& spec);

/// The MoE part of a layer, or nullptr.
const MoeSpec* MoeOf(const LayerSpec& layer);

/// Whether a sequence has a state beside its blocks (CacheGroup::kState).
bool KeepsState(const ModelSpec& spec);

}  // namespace shoal
