// How `shoal worker --join` finds its coordinator, and what it offers there.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "app/flags.h"
#include "cluster/announcer.h"
#include "cluster/registry.h"
#include "cluster/worker_node.h"
#include "wire/key_auth.h"

namespace shoal {

struct JoinFlags {
  /// A registry, such as the addresses of one coordinator; or a token, or @ and the file of one; "": the local network.
  std::string join;
  std::optional<Flag> given;
  std::vector<std::string>
      advertise;  ///< HOST:PORT or HOST, where others reach this worker; empty: found by itself.

  std::optional<int32_t> rank;  ///< Its place among the nodes, where it has one.

  void add_to(Flags app);
  bool chosen() const { return given.has_value() && given->given(); }
};

/// What the flags say.
struct JoinTarget {
  std::shared_ptr<Registry> registry;  ///< Where the coordinator is; nullptr: the worker does not join.
  std::optional<KeyAuth> key;          ///< Of the token, where there is one.
  std::string authority;  ///< Of the token, PEM; "": the worker brings a certificate, or none is used.
};
/// InvalidArgument where the flags say neither a registry nor a token.
absl::StatusOr<JoinTarget> ReadJoin(const JoinFlags& flags);

/// The addresses of the one coordinator in the registry. NotFound where there is none, FailedPrecondition where there are
/// several: it names them all.
absl::StatusOr<std::vector<std::string>> FindCoordinator(Registry& registry, Deadline deadline);

/// Where a worker listens that joins and was told no address: on all where it may do so `openly`, as with a key; else on
/// loopback. FailedPrecondition where nobody could reach it there.
absl::StatusOr<std::string> ListenToJoin(Registry& registry, bool openly);

/// The addresses of a worker that listens at `listen`, the best first. coordinator: HOST:PORT.
std::vector<std::string> OfferedAddresses(const std::string& listen, int port,
                                          const std::vector<std::string>& advertised,
                                          const std::string& coordinator);

/// Offers the worker to the coordinator from now on. Both must outlive it.
std::unique_ptr<Announcer> StartToJoin(const JoinTarget& target, const JoinFlags& flags,
                                       const WorkerNode::Options& options, const WorkerNode& worker);

}  // namespace shoal
