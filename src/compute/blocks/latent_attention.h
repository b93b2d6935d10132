// Latent attention (MlaSpec) over the paged cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/attention_heads.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h). Per position the cache holds one kv head: as key the shared key that is
/// rotated, then the latent; as value the latent again, then zeros, as keys and values lie differently for the
/// kernels.
class LatentAttention {
 public:
  using Spec = MlaSpec;
  LatentAttention() = default;
  static absl::StatusOr<LatentAttention> Load(const WeightLoader& loader, const MlaSpec& spec,
                                              ThreadPool& pool);

  int64_t bytes() const;
  int input_group(ActivationMode mode) const { return kv_a_.activation_group(mode); }
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  /// What is made of the input beside the queries.
  struct Made {
    MatView<float> latent;  ///< [T, latent + rope]
    MatView<float> gates;   ///< [T, heads], where there are gates.
  };
  absl::StatusOr<MatView<float>> queries(const ComputeContext& context, LinearInput& input,
                                         const Made& made) const;
  void apply_temperature(const ComputeContext& context, const MixerStep& step, MatView<float> q) const;
  absl::Status absorb(const ComputeContext& context, MatView<const float> q, const RopeRows& rope,
                      MatView<float> absorbed) const;
  void append(const ComputeContext& context, MatView<float> latent, const MixerStep& step,
              const KvLayerView& cache) const;
  absl::Status give_out(const ComputeContext& context, MatView<const float> attended, MatView<float> gates,
                        MatView<float> y) const;
  void rotate(const ComputeContext& context, MatView<float> x, int heads, const RopeRows& rope) const;

  AttentionHeads heads_;
  int nope_dim_ = 0;
  int rope_dim_ = 0;
  int value_dim_ = 0;
  int64_t latent_ = 0;
  RopePairing pairing_ = RopePairing::kHalfSplit;
  bool rotates_ = true;
  QueryTemperature temperature_;
  std::optional<Linear> q_a_, gate_;
  std::optional<Norm> q_norm_;
  Linear q_, kv_a_, o_;
  Norm kv_norm_;
  std::vector<Linear> keys_, values_;  // Per head.
};

}  // namespace shoal
