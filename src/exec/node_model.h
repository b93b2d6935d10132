// The weights that one node holds for a plan: its stage, if it runs layers, and its experts. They outlive
// sessions: a new epoch that gives the node the same slice loads nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "exec/expert_bank.h"
#include "models/spec.h"
#include "models/stage.h"
#include "plan/plan.h"
#include "weights/checkpoint.h"

namespace shoal {

/// A node's share of a plan.
struct NodeSlice {
  Range layers;  ///< Empty: experts only, or nothing.
  bool embed = false;
  bool head = false;
  std::vector<std::vector<ExpertId>> experts;  ///< [L], ascending ids; owned and replicated alike.
  bool operator==(const NodeSlice&) const = default;
};
NodeSlice SliceOf(const Plan& plan, NodeId node);

/// What loading took.
struct LoadStats {
  int64_t bytes = 0;  ///< Packed.
  int64_t ns = 0;

  LoadStats& operator+=(const LoadStats& other);
  /// 10^9 bytes per second; 0 where nothing was loaded.
  double gigabytes_per_second() const;
  /// "905.9 MiB in 0.47 s, 2.02 GB/s"
  std::string text() const;
};

class NodeModel {
 public:
  /// Reads the node's own tensors, nothing else. Errors name file, tensor, expected and got.
  static absl::StatusOr<std::unique_ptr<NodeModel>> Load(std::shared_ptr<const Checkpoint> checkpoint,
                                                         ModelSpec spec, NodeSlice slice, ThreadPool& pool,
                                                         const LoadProgress& progress);

  const ModelSpec& spec() const { return spec_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const NodeSlice& slice() const { return slice_; }
  Stage* stage() const { return stage_.get(); }  ///< nullptr where the node runs no layers.
  ExpertBank& experts() const { return *experts_; }
  /// Packed bytes held.
  int64_t bytes() const { return (stage_ == nullptr ? 0 : stage_->bytes()) + experts_->bytes(); }
  const LoadStats& load_stats() const { return load_stats_; }

 private:
  NodeModel() = default;
  std::shared_ptr<const Checkpoint> checkpoint_;
  ModelSpec spec_;
  NodeSlice slice_;
  std::unique_ptr<Stage> stage_;
  std::unique_ptr<ExpertBank> experts_;
  LoadStats load_stats_;
};

}  // namespace shoal
