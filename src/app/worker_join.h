// How `shoal worker --join` finds its coordinator, and what it offers there.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "app/flags.h"
#include "cluster/announcer.h"
#include "cluster/worker_node.h"
#include "wire/key_auth.h"

namespace shoal {

struct JoinFlags {
  std::vector<std::string> join;  ///< Addresses of one coordinator; or a token, or @ and the file of one.
  std::vector<std::string>
      advertise;  ///< HOST:PORT or HOST, where others reach this worker; empty: found by itself.

  void add_to(Flags app);
  bool chosen() const { return !join.empty(); }
};

/// What the flags say.
struct JoinTarget {
  std::vector<std::string> coordinators;  ///< Addresses of one.
  std::optional<KeyAuth> key;             ///< Of the token, where there is one.
};
/// InvalidArgument where the flags say neither addresses nor a token.
absl::StatusOr<JoinTarget> ReadJoin(const JoinFlags& flags);

/// Where a worker listens that joins and was told no address: on all where it may do so `openly`, as with a key; else on
/// loopback. FailedPrecondition where nobody could reach it there.
absl::StatusOr<std::string> ListenToJoin(const JoinTarget& target, bool openly);

/// The addresses of a worker that listens at `listen`, the best first. coordinator: HOST:PORT.
std::vector<std::string> OfferedAddresses(const std::string& listen, int port,
                                          const std::vector<std::string>& advertised,
                                          const std::string& coordinator);

/// Offers the worker to the coordinator from now on. Both must outlive it.
std::unique_ptr<Announcer> StartToJoin(const JoinTarget& target, const JoinFlags& flags,
                                       const WorkerNode::Options& options, const WorkerNode& worker);

}  // namespace shoal
