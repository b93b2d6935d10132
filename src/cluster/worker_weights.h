// How a worker without a model's files comes to the tensors of its shard: from the coordinator and from peers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/control.h"
#include "cluster/control_weights.h"
#include "cluster/weight_fetch.h"
#include "exec/model_facts.h"
#include "loading/fetched_models.h"

namespace shoal {

class WorkerWeights {
 public:
  struct Options {
    std::string name;  ///< Of this worker, for messages.
    std::shared_ptr<FetchedModels> store;
    ClusterKey key;
  };
  explicit WorkerWeights(Options options) : options_(std::move(options)) {}

  struct Fetched {
    OpenedModel model;
    std::shared_ptr<const FetchedModel> files;
  };
  /// The model of the order, with all weights of `shard` in the store. check: whether the model is to be fetched at all,
  /// asked before a tensor is. Errors of both, as FetchChunks and FetchedModels::make_room, and Unavailable while another
  /// model is being fetched. cancelled: as FetchOptions has it; interrupt() is to be called when it changes.
  absl::StatusOr<Fetched> fetch(const PrepareOrder& order, const NodeShard& shard,
                                const std::function<absl::Status(const OpenedModel&)>& check,
                                const PrepareProgress& progress, const std::function<bool()>& cancelled);

  struct Progress {
    int64_t done = 0;
    int64_t total = 0;  ///< 0: nothing is being fetched.
  };
  Progress progress() const;
  /// Ends what runs, and what comes, with Cancelled. From any thread.
  void stop();
  /// Ends a fetch of this model beside a session (PrepareOrder::beside) with Cancelled.
  void interrupt(const std::string& model_hash);

 private:
  using Sources = std::vector<std::unique_ptr<RemoteShelf>>;
  void use(const PrepareOrder& order, const std::function<bool()>& cancelled);
  absl::StatusOr<OpenedModel> open(const PrepareOrder& order, FetchedModel& files);
  absl::Status begin(const PrepareOrder& order, FetchedModel& files);
  absl::Status fetch_chunks(const OpenedModel& model, const NodeShard& shard, FetchedModel& files,
                            const PrepareProgress& progress, const std::function<bool()>& cancelled);
  bool stopped() const;

  const Options options_;
  std::timed_mutex turn_;     ///< Held through fetch(): one at a time.
  mutable std::mutex mutex_;  ///< Guards what follows.
  Sources sources_;           ///< Of the fetch that runs; changed with turn_ held, too.
  std::string beside_of_;     ///< Hash of its model where it is beside a session, else empty.
  Progress progress_;
  bool stopped_ = false;
};

}  // namespace shoal
