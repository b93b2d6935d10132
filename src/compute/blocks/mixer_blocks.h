// The blocks that compute the mixers of models/mixers. A new one is a file in this folder and a word in the list
// below: the stage asks the block itself for what it does.
#pragma once

#include <concepts>
#include <cstdint>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/attention.h"
#include "compute/blocks/attention_beside_mamba2.h"
#include "compute/blocks/gated_delta_net.h"
#include "compute/blocks/latent_attention.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mamba1.h"
#include "compute/blocks/mamba2.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/pooled_attention.h"
#include "compute/blocks/short_conv.h"
#include "models/mixers/mixers.h"

namespace shoal {

template <typename T>
concept MixerBlock = Mixer<typename T::Spec> &&
    requires(const T& block, const WeightLoader& loader, const typename T::Spec& spec, ThreadPool& pool,
             const ComputeContext& context, LinearInput& input, const MixerStep& step, MatView<float> y) {
  { T::Load(loader, spec, pool) } -> std::same_as<absl::StatusOr<T>>;
  /// Packed bytes held.
  { block.bytes() } -> std::same_as<int64_t>;
  /// Columns per scale of the codes that its projections ask of their input; 0: none.
  { block.input_group(context.activations) } -> std::same_as<int>;
  /// y = the mixer's output for the rows; writes what the layer caches of them. input, y: [T, D].
  /// OutOfRange for a non-finite activation.
  { block.forward(context, input, step, y) } -> std::same_as<absl::Status>;
};

template <MixerBlock... Types>
using OneOfMixerBlocks = std::variant<Types...>;

/// In the order of MixerSpec.
using AnyMixerBlock = OneOfMixerBlocks<Attention, LatentAttention, GatedDeltaNet, ShortConv, Mamba2,
                                       AttentionBesideMamba2, Mamba1, PooledAttention>;

absl::StatusOr<AnyMixerBlock> LoadMixer(const WeightLoader& loader, const MixerSpec& spec, ThreadPool& pool);

}  // namespace shoal
