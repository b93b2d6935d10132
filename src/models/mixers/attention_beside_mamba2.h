// Attention and a state space layer side by side.
#pragma once

#include <cstdint>

#include "models/mixers/gqa.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/mixer_work.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// Both read the layer's input, and the output is attention_scale * attention + mamba_scale * mamba. The layer caches keys
/// and values for each position, and a state for each sequence.
/// Source: Falcon-LLM Team 2025, arXiv:2507.22448; transformers `FalconH1DecoderLayer`.
struct AttentionBesideMamba2Spec {
  GqaSpec attention;
  Mamba2Spec mamba;
  float attention_scale = 1;
  float mamba_scale = 1;

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return attention.cached_dim(); }
  KvLayerShape cache_shape() const {
    KvLayerShape shape = attention.cache_shape();
    shape.state_values = mamba.state_values();
    return shape;
  }
  const RopeSpec* position_rope() const { return attention.position_rope(); }
  MixerWork work() const {
    return {.per_position = attention.work().per_position, .per_row = mamba.work().per_row};
  }
  void show_weights(const WeightWalk& walk) const {
    attention.show_weights(walk);
    mamba.show_weights(walk);
  }
};

}  // namespace shoal
