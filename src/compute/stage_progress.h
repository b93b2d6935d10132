// How far the loading of a stage has come.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/stage_step.h"
#include "loading/resolved_weights.h"

namespace shoal {

/// Whether a stage reads a weight itself (routed experts are ExpertSets', segments SegmentSets').
inline bool StageReads(const StageOptions& options, const WeightUse& use) {
  if (use.is_mtp) return options.mtp;
  const bool segments = use.role == "mlp" && options.segment_count(use.layer) > 0;
  if (use.layer >= 0) return options.layers.contains(use.layer) && use.expert < 0 && !segments;
  return use.is_head ? options.head : options.table();
}

/// Tells how far loading has come, counted in source bytes of whole weights.
class StageProgress {
 public:
  StageProgress(const LoadProgress& report, const ResolvedWeights& weights, const StageOptions& options)
      : report_(report) {
    const bool head_is_embedding = options.table() && weights.spec().tied_head;
    for (const auto& [use, stored, packed_bytes] : weights.all()) {
      if (!StageReads(options, use) || (use.role == "head" && head_is_embedding)) continue;
      weights_.push_back({use.layer, use.is_head, stored.stored_bytes()});
    }
    for (const WeightBytes& weight : weights_) total_ += weight.bytes;
  }

  /// The embedding (layer -1), a layer, or the head has been read.
  void read(int64_t layer, bool is_head) {
    for (const WeightBytes& weight : weights_) {
      if (weight.layer == layer && weight.is_head == is_head) done_ += weight.bytes;
    }
    if (report_) report_(done_, total_);
  }

 private:
  struct WeightBytes {
    int64_t layer;
    bool is_head;
    int64_t bytes;
  };
  const LoadProgress& report_;
  std::vector<WeightBytes> weights_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

}  // namespace shoal
