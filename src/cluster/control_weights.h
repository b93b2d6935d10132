// Tensors over the control plane: the service that gives those of a shelf, and the line to one that another process has.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/chunk_source.h"
#include "cluster/weight_shelf.h"
#include "wire/cluster_key.h"

namespace grpc {
class Service;
}

namespace shoal {

/// Gives what is on `shelf`, over gRPC; with a key, calls must carry a fresh proof of it.
class WeightsService {
 public:
  WeightsService(WeightShelf& shelf, ClusterKey key);
  ~WeightsService();
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Another process's shelf. Its name is the node's, for messages.
class RemoteShelf final : public ChunkSource {
 public:
  struct Options {
    std::string name;
    std::string address;  ///< HOST:PORT
    ClusterKey key;
    std::string model_hash;
  };
  explicit RemoteShelf(Options options);
  ~RemoteShelf() override;

  /// What came is checked: CheckSkeleton. Errors as hashes().
  absl::StatusOr<ModelSkeleton> skeleton();
  /// For hashes() and fetch(): TensorTableHash of the model as it was opened here.
  void set_table(std::string table);

  const std::string& name() const override;
  absl::StatusOr<std::vector<std::optional<ContentHash128>>> hashes(
      std::span<const TensorChunk> chunks) override;
  absl::Status fetch(std::span<const TensorChunk> chunks, Take take) override;
  /// Ends calls in flight, and those to come, with Cancelled. Safe from any thread.
  void cancel();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
