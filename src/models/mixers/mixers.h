// The mixers that a layer may have. A new one is a file in this folder, a word in the list below, and a block
// that computes it (compute/blocks): the cache, the memory and cost model, the loading and the checks read
// what it says of itself.
#pragma once

#include <concepts>
#include <variant>

#include "models/mixers/attention_beside_mamba2.h"
#include "models/mixers/gated_delta_net.h"
#include "models/mixers/gqa.h"
#include "models/mixers/mamba1.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/mla.h"
#include "models/mixers/pooled_attention.h"
#include "models/mixers/short_conv.h"

namespace shoal {

template <typename T>
concept Mixer = requires(const T& mixer, const WeightWalk& walk) {
  /// Dimensions of a cached key; 0: none is cached. Bounded by kHeadDimMax.
  { mixer.cached_dim() } -> std::same_as<int64_t>;
  /// What a layer of it keeps, per position or per sequence: with keys padded for the kernels.
  { mixer.cache_shape() } -> std::same_as<KvLayerShape>;
  /// nullptr: positions rotate nothing.
  { mixer.position_rope() } -> std::same_as<const RopeSpec*>;
  { mixer.work() } -> std::same_as<MixerWork>;
  /// In an order that stays: samples of weights are compared by their place in it (loading/weight_sample.h).
  { mixer.show_weights(walk) } -> std::same_as<void>;
};

template <Mixer... Types>
using OneOfMixers = std::variant<Types...>;

using MixerSpec = OneOfMixers<GqaSpec, MlaSpec, GatedDeltaNetSpec, ShortConvSpec, Mamba2Spec,
                              AttentionBesideMamba2Spec, Mamba1Spec, PooledAttentionSpec>;

inline int64_t CachedDimOf(const MixerSpec& mixer) {
  return std::visit([](const auto& m) { return m.cached_dim(); }, mixer);
}
inline KvLayerShape CacheShapeOf(const MixerSpec& mixer) {
  return std::visit([](const auto& m) { return m.cache_shape(); }, mixer);
}
inline const RopeSpec* PositionRopeOf(const MixerSpec& mixer) {
  return std::visit([](const auto& m) { return m.position_rope(); }, mixer);
}
inline MixerWork WorkOf(const MixerSpec& mixer) {
  return std::visit([](const auto& m) { return m.work(); }, mixer);
}
/// Whether what it caches may be int8. What is picked or pooled is read by loops of its own, which know floats only.
inline bool MayCacheInt8(const MixerSpec& mixer) {
  return !std::holds_alternative<PooledAttentionSpec>(mixer) && WorkOf(mixer).attended_max == 0;
}

}  // namespace shoal
