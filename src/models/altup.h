// Rows that carry more than one residual stream from layer to layer, or inputs of layers beside it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/weights.h"

namespace shoal {

/// An input of a layer's own (Gemma 3n and 4), which adds to x
///   norm(up(gelu(gate(x)) * input)).
struct LayerInputSpec {
  LinearSpec gate, up;  ///< [P, D], [D, P]
  NormSpec norm;

  void show_weights(const WeightWalk& walk) const {
    walk.linear("projection", gate);
    walk.linear("projection", up);
    walk.norm(norm);
  }
};

/// Alternating updates with inputs of each layer's own (Gemma 3n), or one stream and these inputs (Gemma 4, whose layers
/// have no AltUpLayerSpec). A row is `streams` residual streams of D numbers, an
/// input of layer_width numbers for each layer, made of the token, and the keys and values that layers have in common:
/// whatever a layer needs travels with the row, so that any node may run it.
/// Source: Baykal et al. 2023, arXiv:2301.13310; transformers `Gemma3nTextModel`, `Gemma4TextModel`.
struct AltUpSpec {
  int streams = 0;               ///< S. The first enters the mixers and feed-forwards.
  int64_t layer_width = 0;       ///< P
  int64_t shared_kv_values = 0;  ///< Numbers of a row that are keys and values (GqaSpec::SharedKv).
  /// S - 1 of [D, D]: make the other streams of the embedding. Each is then as long as the embedding.
  std::vector<LinearSpec> spread;
  /// S - 1 of [D, D]: what of the other streams is averaged with the first, as long as that, before the final norm.
  std::vector<LinearSpec> gather;
  /// [V, L * P], times `layer_embedding_scale`; tokens beyond V take row 0.
  WeightRef layer_embedding;
  float layer_embedding_scale = 1;
  /// [L * P, D], of the embedding, over sqrt(D), normed per layer by layer_norm [P]: added to the layer's embedding,
  /// and the sum is divided by sqrt(2).
  LinearSpec layer_projection;
  NormSpec layer_norm;

  void show_embedding_weights(const WeightWalk& walk) const {
    walk.weight("embedding", layer_embedding);
    for (const LinearSpec& linear : spread) walk.linear("projection", linear);
    walk.linear("projection", layer_projection);
    walk.norm(layer_norm);
  }
  void show_head_weights(const WeightWalk& walk) const {
    for (const LinearSpec& linear : gather) walk.linear("projection", linear);
  }
};

/// What a layer of such a model does around its mixer and feed-forward. With h the streams and
/// m(x) = tanh(router(router_norm(x))) [S],
///   predicted[j] = h[j] + sum over i of (prediction m(h[0]))[j, i] h[i],
/// the mixer adds to predicted[0] together with a bypass of low rank,
///   a = (predicted[0] + mixer(n) + n + bypass_norm(bypass_up(bypass_down(n)))) / sqrt(2), n the normed predicted[0],
/// and with b = a + feed_forward(a)
///   corrected[i] = predicted[i] + (1 + (correction m(b))[i]) (b - predicted[0]).
/// The streams but the first then get what `input` makes of corrected[0] output_scale.
struct AltUpLayerSpec {
  NormSpec router_norm;
  LinearSpec router;                      ///< [S, D]
  WeightRef prediction;                   ///< [S * S * S], as [S, S, S].
  WeightRef correction;                   ///< [S * S], as [S, S].
  std::optional<WeightRef> output_scale;  ///< [D]
  LinearSpec bypass_down, bypass_up;      ///< [R, D], [D, R]
  NormSpec bypass_norm;
  LayerInputSpec input;

  void show_weights(const WeightWalk& walk) const {
    walk.norm(router_norm);
    walk.linear("projection", router);
    walk.weight("projection", prediction);
    walk.weight("projection", correction);
    if (output_scale) walk.weight("scale", *output_scale);
    walk.linear("projection", bypass_down);
    walk.linear("projection", bypass_up);
    walk.norm(bypass_norm);
    input.show_weights(walk);
  }
};

}  // namespace shoal
