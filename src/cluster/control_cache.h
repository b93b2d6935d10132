// What sessions left in caches, over the control plane: the service that gives it, and the line to one of another
// process.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "cluster/cache_move.h"
#include "cluster/control.h"
#include "cluster/node_host.h"
#include "wire/cluster_key.h"

namespace grpc {
class Service;
}

namespace shoal {

/// Who has caches. Calls may come from several threads.
class CacheGiver {
 public:
  virtual ~CacheGiver() = default;
  /// As NodeHost::give_cached, of the node that holds this model here.
  virtual absl::Status give_cached(const std::string& model_hash, const CacheRequest& request,
                                   Deadline deadline, TakeImages take) = 0;
  /// As NodeHost::give_copies, likewise.
  virtual absl::Status give_copies(const std::string& model_hash, uint64_t session, uint64_t after,
                                   Deadline deadline, TakeCopies take) = 0;
};

/// Serves `giver` over gRPC; with a key, calls must carry a fresh proof of it.
class CacheService {
 public:
  CacheService(CacheGiver& giver, ClusterKey key);
  ~CacheService();
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Another process's.
struct RemoteCache {
  std::string name;  ///< The node's, for messages.
  std::string address;
  ClusterKey key;
  std::string model_hash;
};
/// As NodeHost::give_cached; else as of any call.
absl::Status FetchCached(const RemoteCache& from, const CacheRequest& request, Deadline deadline,
                         TakeImages take);

/// Copies of what a node of another process caches in a session.
std::unique_ptr<CopySource> FollowCopies(const RemoteCache& from, uint64_t session);

/// What an order says of a session; without transport and sink. What the node lacks comes from other processes, which
/// hold the model under the name `model_hash`.
NodeHost::SessionSetup SetupOf(const OpenOrder& order, const std::string& model_hash, const ClusterKey& key);

}  // namespace shoal
