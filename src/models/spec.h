// What a model is, as plain data: per layer which mixer and which feed-forward, and behind each weight where
// it may lie in a checkpoint. The load checks, the partial reads of a stage, the memory model, `shoal
// inspect` and the CPU stage all read this one value; a family (families/*.cpp) makes it from a config and
// does nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "models/altup.h"
#include "models/hyper.h"
#include "models/mixers/mixers.h"
#include "models/weights.h"
#include "numeric/operation_kinds.h"

namespace shoal {

/// How gate and up are combined.
enum class Gating : uint8_t {
  kSilu,           ///< silu(gate) * up. Source: Shazeer 2020, arXiv:2002.05202.
  kGelu,           ///< gelu(gate) * up, by the tanh form.
  kClampedSwiglu,  ///< Both clamped to `limit`, then gate sigmoid(1.702 gate) (up + 1) (kernels.h).
  kClampedSilu,    ///< silu(gate), then both clamped to `limit`, then their product (kernels.h).
  kSiluOfClamped,  ///< gate clamped to at most `limit`, up to `limit` either way, then silu(gate) * up.
};

/// The weights of XieluShape: softplus(alpha_p), beta + softplus(alpha_n), beta and eps.
struct XieluSpec {
  WeightRef alpha_p, alpha_n, beta, eps;  ///< [1]
};

/// down(gating(gate x, up x)), or without a gate down(activation(up x)).
struct DenseSpec {
  int64_t width = 0;  ///< F
  LinearSpec gate;    ///< Without sources where there is none.
  LinearSpec up, down;
  Gating gating = Gating::kSilu;
  float limit = 0;       ///< Of the clamped ones.
  float gate_scale = 1;  ///< Factor on gate x.
  /// > 0: of gate x, what exceeds the row's mean by so many of its standard deviations, else 0.
  float gate_cutoff = 0;
  std::optional<Activation> activation = std::nullopt;  ///< There is no gate.
  std::optional<XieluSpec> xielu = std::nullopt;        ///< Of Activation::kXielu.

  /// Those that read the input: gate and up, or up.
  std::vector<const LinearSpec*> inputs() const {
    return activation ? std::vector<const LinearSpec*>{&up} : std::vector<const LinearSpec*>{&gate, &up};
  }
};

/// The router: scores of all experts, the top_k largest after selection bias, ties to the lowest id
/// (kernels.h, RouteArgs).
struct RouterSpec {
  /// Norm of the residual stream, which `linear` reads instead of the experts' input.
  std::optional<NormSpec> norm;
  LinearSpec linear;  ///< [E, D]
  RouteScores scores = RouteScores::kSoftmax;
  bool sqrt_softplus = false;  ///< Logits are sqrt(ln(1 + exp(logit))) before anything else.
  /// [V * top_k], as [V, top_k]: the experts of each token, distinct ones, which replace the choice, not the weights.
  std::optional<WeightRef> experts_of_token;
  std::optional<WeightRef> selection_bias;  ///< [E]: added to scores for the choice alone.
  RouteGroups groups;
  RouteWeights weighting = RouteWeights::kAsIs;
  float near_distance = 0;                 ///< Of RouteWeights::kSoftmaxOfNear.
  float sum_eps = 1e-20f;                  ///< Of RouteWeights::kRenormalized: added to the sum of scores.
  float routed_scaling_factor = 1;         ///< Factor on the weights of the chosen experts.
  std::optional<WeightRef> expert_scales;  ///< [E]: another factor for each expert.
  bool kept_float = false;  ///< mlx-lm reads `linear` as floats only, so a conversion does not quantize it.
};

struct MoeSpec {
  int top_k = 0;
  RouterSpec router;
  std::vector<DenseSpec> experts;  ///< One per expert, all of one width.
  /// Experts behind those, E to E + identities - 1 for the router, that return what they read: the layer's node adds
  /// them itself, so they have no weights, no owner and no rows on the wire.
  int64_t identities = 0;
  /// The weight of a row's expert multiplies what the expert reads instead of what it returns. Of layers with top_k = 1.
  bool weights_scale_inputs = false;
  /// An expert that every row goes to, in addition to the routed ones. It runs on the layer's node.
  std::optional<DenseSpec> shared;
  std::optional<WeightRef> shared_gate;  ///< [1, D]: the shared output times sigmoid(gate x).
  /// Routed and shared experts as two branches. Routed experts read `norm` of the residual stream, the shared
  /// expert reads the layer's feed_forward_norm of it. The sum of the routed experts passes `out_norm`, the
  /// shared output passes `shared_out_norm`, then the two are added.
  struct Branch {
    NormSpec norm, out_norm, shared_out_norm;
  };
  std::optional<Branch> branch;

  /// Of a row's top_k choices, how many are experts with weights if all are chosen alike; rounded up.
  int computed_per_row() const {
    const auto with_weights = static_cast<int64_t>(experts.size());
    const int64_t all = with_weights + identities;
    return static_cast<int>((top_k * with_weights + all - 1) / all);
  }
};

/// A layer that is a mixer alone.
struct NoFeedForward {};

using FeedForwardSpec = std::variant<DenseSpec, MoeSpec, NoFeedForward>;

/// What a layer does with the addend of its rows (ModelSpec::carries_addend).
enum class AddendUse : uint8_t {
  kNone,
  kSet,  ///< The sum of its routed experts, which it does not add to x, becomes the addend.
  kAdd,  ///< Adds it to x at its end; then the addend is 0.
};

/// Residual layer: x += mixer(norm(x)); x += feed_forward(norm(x)), where it has one. The out norms apply before the addition. A norm
/// that is absent changes nothing: some models norm what is added instead of what is read.
/// Copied, moved and destroyed in spec.cpp, as ModelSpec is: 6 kB that 80 object files would each get.
struct LayerSpec {
  LayerSpec();
  LayerSpec(const LayerSpec&);
  LayerSpec(LayerSpec&&) noexcept;
  LayerSpec& operator=(const LayerSpec&);
  LayerSpec& operator=(LayerSpec&&) noexcept;
  ~LayerSpec();

  std::optional<NormSpec> mixer_norm;
  MixerSpec mixer;
  std::optional<NormSpec> mixer_out_norm;
  std::optional<NormSpec> feed_forward_norm;
  FeedForwardSpec feed_forward;
  std::optional<NormSpec> feed_forward_out_norm;
  /// The feed-forward reads what the mixer reads, mixer_norm of x as it came to the layer, and has no norm of its own.
  bool parallel = false;
  float residual_scale = 1;               ///< Factor on what mixer and feed-forward add to x.
  float feed_forward_scale = 1;           ///< Another on what the feed-forward adds.
  std::optional<WeightRef> output_scale;  ///< [1]: factor on the layer's output.
  std::optional<AltUpLayerSpec> altup;    ///< Of models with ModelSpec::altup, whose feed-forwards are dense.
  std::optional<LayerInputSpec> input;    ///< Of models with ModelSpec::altup whose layers have no `altup`.
  AddendUse addend = AddendUse::kNone;
  std::optional<HyperLayerSpec> hyper;  ///< Of models with ModelSpec::hyper.
};

/// Multi-token prediction: a layer more, which guesses the token behind the next one. With h[p] the row that the
/// output head reads at position p, and e[p + 1] the embedding of the token that follows it,
///   x[p] = projection [embedding_norm(e[p + 1]); hidden_norm(h[p])],
/// passes `layer` at position p, with a cache of its own, then `norm` and the model's output head: the logits of
/// the token at p + 2. Source: DeepSeek-AI 2024, arXiv:2412.19437, section 2.2.
struct MtpSpec {
  NormSpec embedding_norm;
  NormSpec hidden_norm;
  LinearSpec projection;  ///< [D, 2D]
  LayerSpec layer;
  NormSpec norm;
};

struct ModelSpec {
  ModelSpec();
  ModelSpec(const ModelSpec&);
  ModelSpec(ModelSpec&&) noexcept;
  ModelSpec& operator=(const ModelSpec&);
  ModelSpec& operator=(ModelSpec&&) noexcept;
  ~ModelSpec();

  std::string model_type;
  int64_t width = 0;          ///< D
  int64_t vocabulary = 0;     ///< V
  int64_t max_positions = 0;  ///< Longest sequence the model was made for.
  WeightRef embedding;        ///< [V, D]
  float embedding_scale = 1;  ///< On rows that enter the first layer; not when the table is used as the head.
  std::optional<NormSpec> embedding_norm;  ///< Of these rows, scaled.
  std::vector<LayerSpec> layers;
  NormSpec final_norm;
  bool tied_head = false;  ///< The head is the embedding table.
  LinearSpec head;         ///< [V, D]; the embedding's ref where tied.
  /// Of families that know such heads and configs that state one; of a checkpoint's weights (ResolvedWeights) only
  /// where it has the tensors.
  std::optional<MtpSpec> mtp;
  /// Tensors that checkpoints may have and the model does not use: prefix of their names, and what they are.
  std::vector<std::pair<std::string, std::string>> ignored_tensors;
  float logits_scale = 1;         ///< Factor on the logits.
  float final_logit_softcap = 0;  ///< c > 0: logits are c tanh(logits / c), scaled ones.
  std::optional<AltUpSpec> altup;
  /// A row is x and an addend, D numbers each: what one layer computes and a later one adds travels with the row, so
  /// that any node may run either. Without AltUp and carried picks.
  bool carries_addend = false;
  std::optional<HyperSpec> hyper;
  /// Positions that layers pick for layers behind them (TopPicks::carried), in each row behind its D numbers. Without
  /// AltUp and several streams. Exact in f32, so such rows are not rounded on their way.
  int64_t carried_picks = 0;

  int64_t layer_count() const { return static_cast<int64_t>(layers.size()); }
  /// Numbers of a row between layers: D, twice that with an addend, D and the carried picks, or what AltUpSpec or
  /// HyperSpec say.
  int64_t row_width() const {
    if (carries_addend) return 2 * width;
    if (hyper) return hyper->streams * width;
    if (!altup) return width + carried_picks;
    return altup->streams * width + layer_count() * altup->layer_width + altup->shared_kv_values;
  }
};

/// Calls `visit` for every weight, first embedding, then the layers in order, final norm, head (also where
/// tied), and what multi-token prediction has beside them.
void ForEachWeight(const ModelSpec& spec, const std::function<void(const WeightUse&)>& visit);

/// Calls `edit` for every weight, in that order: for families whose tensors have other names.
void EditWeights(ModelSpec& spec, const std::function<void(WeightRef&)>& edit);

/// The longest sequence that uses the short factors of RopeLong; INT64_MAX without RopeLong. A longer one has
/// other keys from its first position on, so its cache is computed anew.
int64_t ShortRopePositions(const ModelSpec& spec);

/// Layer `index`, that of multi-token prediction behind the last one; nullptr: there is none.
const LayerSpec* FindLayer(const ModelSpec& spec, int64_t index);

/// The MoE part of a layer, or nullptr.
const MoeSpec* MoeOf(const LayerSpec& layer);

/// The feed-forward of a layer without experts, or nullptr.
const DenseSpec* DenseOf(const LayerSpec& layer);

/// All routed experts of a layer, ascending; none where it has none.
std::vector<ExpertId> AllExperts(const LayerSpec& layer);

/// How many positions the layer that sees furthest lets a token see, its own among them; INT64_MAX where one sees all,
/// or keeps a state.
int64_t VisiblePositions(const ModelSpec& spec);

/// Whether a sequence has a state beside its blocks (kv/kv_cache.h).
bool KeepsState(const ModelSpec& spec);

}  // namespace shoal
