// The weights that one node holds for a plan, in the memory of its backend. They outlive sessions: a new epoch that gives the node the same shard loads nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/backend.h"
#include "loading/packed_cache.h"
#include "loading/resolved_weights.h"
#include "loading/weight_sample.h"
#include "plan/plan.h"

namespace shoal {

/// A node's shard of a plan.
struct NodeShard {
  Range layers;  ///< Empty: experts only, or nothing.
  bool embed = false;
  bool head = false;
  bool mtp = false;  ///< The head for multi-token prediction, which reads the embedding.
  std::vector<std::vector<ExpertId>> experts;  ///< [L], ascending ids; owned and replicated alike.
  HeldSegments segments = {};                  ///< Of dense layers, whoever runs them.
  bool operator==(const NodeShard&) const = default;
  /// Whether the table of embeddings is held.
  bool table() const { return embed || mtp; }
  bool empty() const;
  /// Whether the node reads this weight, or part of it.
  bool holds(const WeightUse& use) const;
  /// "layers [2, 4), embedding, 12 experts, 4 segments"
  std::string summary() const;
};
NodeShard ShardOf(const Plan& plan, NodeId node);

/// SampleWeights of a node's shard.
std::vector<WeightSample> SampleShard(const ResolvedWeights& weights, const NodeShard& shard);

/// What loading took.
struct LoadStats {
  int64_t bytes = 0;         ///< Packed.
  int64_t cached_bytes = 0;  ///< Of matrices that were read packed, from the cache.
  int64_t ns = 0;
  bool from_cache = false;  ///< All matrices were.

  LoadStats& operator+=(const LoadStats& other);
  /// 10^9 bytes per second; 0 where nothing was loaded.
  double gigabytes_per_second() const;
  /// "905.9 MiB in 0.47 s, 2.02 GB/s, from the packed cache"
  std::string text() const;
};

struct NodeLoadOptions {
  std::shared_ptr<const PackedCache> cache;  ///< nullptr: none.
  int64_t expert_memory = 0;                 ///< As BackendLoad's.
  /// For a load while a session of the backend goes on, BackendLoad::cancelled; empty: no session does.
  std::function<bool()> beside_until;
};

class NodeModel {
 public:
  /// Has `backend`, which must outlive the model, read the node's own tensors, nothing else: packed from the
  /// cache where it has them, else from the checkpoint, and then they go to the cache while the model is used
  /// already. Errors name file, tensor, expected and got; the cache causes none.
  /// NotFound where the checkpoint is a shard that lacks a tensor of the shard, Unimplemented where the backend
  /// does not compute a layer of it: said before anything is read.
  static absl::StatusOr<std::unique_ptr<NodeModel>> Load(std::shared_ptr<const ResolvedWeights> weights,
                                                         NodeShard shard, Backend& backend,
                                                         const LoadProgress& progress,
                                                         NodeLoadOptions options = {});
  /// Waits until the weights are in the cache. A model that goes before that leaves nothing there.
  void finish_saving() { held_->finish_saving(); }

  const ModelSpec& spec() const { return weights_->spec(); }
  const Checkpoint& checkpoint() const { return weights_->checkpoint(); }
  const NodeShard& shard() const { return shard_; }
  bool runs_layers() const { return !shard_.layers.empty(); }
  Backend& backend() const { return *backend_; }
  /// What the backend holds of it.
  BackendModel& held() const { return *held_; }
  /// Packed bytes held.
  int64_t bytes() const { return held_->bytes(); }
  const LoadStats& load_stats() const { return load_stats_; }

 private:
  NodeModel() = default;
  std::shared_ptr<const ResolvedWeights> weights_;
  NodeShard shard_;
  Backend* backend_ = nullptr;
  std::unique_ptr<BackendModel> held_;
  LoadStats load_stats_;
};

}  // namespace shoal
