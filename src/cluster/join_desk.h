// Where workers join a coordinator: a port of its own, and the roster of those that did. All models of a server have one
// desk; each follows the roster.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cluster/control.h"
#include "cluster/roster.h"
#include "tls/authority.h"
#include "wire/grpc/endpoint.h"

namespace shoal {

class JoinDesk final : public JoinControl {
 public:
  struct Options {
    std::string name;            ///< The coordinator's.
    std::string listen;          ///< HOST:PORT; port 0 picks one; empty: nobody can join but through join().
    std::string numerics_class;  ///< Of this process's backend.
    ClusterKey key;
    bool insecure = false;  ///< Workers beyond loopback may do without a key.
    RosterRules rules;
    /// That gives workers which prove the key their certificates; nothing: they bring one.
    std::optional<CertifiedKey> authority;
    /// Asks who is at an address, of whom a certificate must name the worker of that name; empty: over the network.
    std::function<absl::StatusOr<WorkerFacts>(const std::string& address, const std::string& name,
                                              Deadline deadline)>
        ask;
  };
  /// Listens. Errors as GrpcEndpoint::start and CheckExposure.
  static absl::StatusOr<std::unique_ptr<JoinDesk>> Start(Options options);
  ~JoinDesk() override;

  int port() const { return endpoint_ == nullptr ? 0 : endpoint_->port(); }
  Roster& roster() { return roster_; }

  absl::StatusOr<JoinAnswer> join(const JoinOffer& offer, const std::string& peer) override;
  void leave(const std::string& name, uint64_t instance) override;
  absl::StatusOr<std::string> enrol(const std::string& name, const std::string& request,
                                    bool is_node) override;

 private:
  explicit JoinDesk(Options options);
  /// That nobody else has the name and is there.
  absl::Status check_incumbent(const JoinOffer& offer);
  /// The first of its addresses at which this very process answers.
  absl::StatusOr<std::string> reach(const JoinOffer& offer, const std::string& peer);
  absl::Status try_address(const std::string& address, const JoinOffer& offer);

  const Options options_;
  Roster roster_;
  std::timed_mutex joining_;  ///< Held by an offer that is looked into: one at a time.
  std::unique_ptr<JoinService> service_;
  std::unique_ptr<GrpcEndpoint> endpoint_;
};

}  // namespace shoal
