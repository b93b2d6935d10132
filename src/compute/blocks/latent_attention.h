// Latent attention (MlaSpec) over the paged cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/attention_heads.h"
#include "compute/blocks/indexer.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h). Per position the cache holds one kv head: as key the shared key that is
/// rotated, then the latent; as value the latent again, then zeros, as keys and values lie differently for the
/// kernels. Where rows pick what they attend to, the value holds the rotated key behind the latent (picked_attention.h):
/// what the heads take of it is not used.
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
  absl::Status load_projections(const WeightLoader& loader, const MlaSpec& spec, ThreadPool& pool);
  /// What is made of a step's input.
  struct Projected {
    MatView<float> q;       ///< [T, heads * (nope + rope)]
    MatView<float> latent;  ///< [T, latent + rope]: kv_a's rows.
    MatView<float> gates;   ///< [T, heads], where there are gates.
    MatView<float> index_key;
    Indexer::Queries index;  ///< Without data where no row picks.
  };
  absl::StatusOr<Projected> project(const ComputeContext& context, LinearInput& input, bool picking) const;
  void apply_temperature(const ComputeContext& context, const MixerStep& step, MatView<float> q) const;
  absl::Status absorb(const ComputeContext& context, MatView<const float> q, const RopeRows& rope,
                      MatView<float> absorbed) const;
  void append(const ComputeContext& context, MatView<float> latent, const MixerStep& step) const;
  /// The rows [T] of a step that pick, ascending: more positions are before them than they may attend to.
  std::span<const int64_t> picking_rows(const ComputeContext& context, const MixerStep& step) const;
  /// What they pick, [rows, count], of scores or of what the rows bring; to the rows, too, where layers behind need it.
  absl::StatusOr<MatView<const int32_t>> pick(const ComputeContext& context, const MixerStep& step,
                                              std::span<const int64_t> rows,
                                              const Indexer::Queries& queries) const;
  void attend(const ComputeContext& context, const MixerStep& step, MatView<const float> queries,
              std::span<const int64_t> picking, MatView<const int32_t> picked, MatView<float> out) const;
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
  int64_t picks_ = 0;                  // Positions that a row attends to at most; 0: all.
  std::optional<Indexer> indexer_;
  bool picks_are_carried_ = false;
};

}  // namespace shoal
