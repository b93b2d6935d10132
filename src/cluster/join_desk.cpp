#include "cluster/join_desk.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "base/exposure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/member.h"

namespace shoal {
namespace {

constexpr Duration kAskTimeout = std::chrono::milliseconds(1500);
constexpr Duration kTurnMax = std::chrono::seconds(3);

}  // namespace

JoinDesk::JoinDesk(Options options) : options_(std::move(options)), roster_(options_.rules) {
  roster_.reserve({{options_.name, ""}});
}

JoinDesk::~JoinDesk() {
  endpoint_.reset();  // Ends calls first: nothing then touches what is torn down.
}

absl::StatusOr<std::unique_ptr<JoinDesk>> JoinDesk::Start(Options options) {
  if (!options.ask) {
    options.ask = [key = options.key](const std::string& address, const std::string& name,
                                      Deadline deadline) {
      return WorkerClient(address, key, name).describe(deadline);
    };
  }
  std::unique_ptr<JoinDesk> desk(new JoinDesk(std::move(options)));
  const Options& o = desk->options_;
  if (o.listen.empty()) return desk;
  ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(o.listen));
  RETURN_IF_ERROR(CheckExposure({"serve --join-listen", listen.host, o.key.has_value(), o.insecure}));
  desk->service_ = std::make_unique<JoinService>(*desk, o.key);
  GrpcOptions grpc;
  grpc.listen = o.listen;
  grpc.name = o.name;
  grpc.key = o.key;
  grpc.enrols = o.authority.has_value() && o.key.shared.has_value();
  grpc.services = {desk->service_->service()};
  ASSIGN_OR_RETURN(desk->endpoint_, GrpcEndpoint::start(std::move(grpc)));
  return desk;
}

absl::StatusOr<JoinAnswer> JoinDesk::join(const JoinOffer& offer, const std::string& peer) {
  const Duration lease = roster_.rules().lease;
  if (const auto address = roster_.renew(offer, Clock::now()); address.has_value())
    return JoinAnswer{options_.name, *address, lease};
  const std::unique_lock turn(joining_, kTurnMax);
  if (!turn.owns_lock()) return Unavailable("other workers are joining; try again");
  RETURN_IF_ERROR(roster_.may_join(offer, Clock::now()));
  RETURN_IF_ERROR(check_incumbent(offer));
  ASSIGN_OR_RETURN(const std::string address, reach(offer, peer));
  const auto before = roster_.find(offer.name);
  roster_.admit(offer, address, Clock::now());
  if (!before.has_value()) {
    LogInfo("worker '{}' joined, at {}", offer.name, address);
  } else if (before->address != address || before->instance != offer.instance) {
    LogInfo("worker '{}' is at {} now, was at {}", offer.name, address, before->address);
  }
  return JoinAnswer{options_.name, address, lease};
}

absl::Status JoinDesk::check_incumbent(const JoinOffer& offer) {
  const auto incumbent = roster_.find(offer.name);
  if (!incumbent.has_value() || incumbent->instance == offer.instance) return absl::OkStatus();
  const absl::StatusOr<WorkerFacts> there =
      options_.ask(incumbent->address, offer.name, Deadline::after(kAskTimeout));
  if (!there.ok() || there->instance != incumbent->instance) return absl::OkStatus();
  return FailedPrecondition(
      "a worker '{}' is a member already, and is there, at {}. Give this one another name: --name",
      offer.name, incumbent->address);
}

absl::Status JoinDesk::try_address(const std::string& address, const JoinOffer& offer) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  RETURN_IF_ERROR(
      CheckExposure({"serve, towards its worker", at.host, options_.key.has_value(), options_.insecure}));
  ASSIGN_OR_RETURN(const WorkerFacts facts, options_.ask(address, offer.name, Deadline::after(kAskTimeout)));
  if (facts.instance != offer.instance) return Unavailable("another worker, '{}', is there", facts.name);
  return CheckBuild(facts, address, {options_.name, options_.numerics_class});
}

absl::StatusOr<std::string> JoinDesk::reach(const JoinOffer& offer, const std::string& peer) {
  std::vector<std::string> addresses = offer.addresses;
  if (offer.port != 0 && !peer.empty()) {
    const std::string seen = HostPort{peer, offer.port}.to_string();
    if (std::ranges::find(addresses, seen) == addresses.end()) addresses.push_back(seen);
  }
  std::vector<absl::Status> results(addresses.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const auto one = [this, i, &results, &addresses, &offer] {
      results[i] = try_address(addresses[i], offer);
    };
    try {
      threads.emplace_back(one);
    } catch (const std::system_error&) {  // Clients hold all that the system grants.
      one();
    }
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::string> said;
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (results[i].ok()) return addresses[i];
    // It is reached, and must not join: another address of it is no remedy.
    if (absl::IsFailedPrecondition(results[i])) return results[i];
    said.push_back(fmt::format("{}: {}", addresses[i], Message(results[i])));
  }
  return Unavailable(
      "the coordinator reaches worker '{}' at none of its addresses. Open its port in the firewall, or say "
      "where it is "
      "to be reached: --advertise HOST:PORT ({})",
      offer.name, Join(said, "; "));
}

// Who holds the key may be any node but one that is there: no other node's part is to be had by it.
absl::StatusOr<std::string> JoinDesk::enrol(const std::string& name, const std::string& request,
                                            bool is_node) {
  if (!options_.authority.has_value()) {
    return absl::UnimplementedError(
        "this coordinator has no authority's key: copy the folder of shoal cert node to the worker, or start "
        "the coordinator with the folder of shoal cert init as its --tls-dir");
  }
  if (name == kAnyNodeName) return InvalidArgument("'{}' is a name that all certificates have", name);
  // As the name of a host "w." is "w".
  if (name.starts_with('.') || name.ends_with('.'))
    return InvalidArgument("'{}': a certificate's name neither begins nor ends with a dot", name);
  RETURN_IF_ERROR(roster_.may_be_certified(name));
  const JoinOffer as{.name = name};
  const std::unique_lock turn(joining_, kTurnMax);
  if (!turn.owns_lock()) return Unavailable("other workers are joining; try again");
  if (!is_node) {
    RETURN_IF_ERROR(roster_.may_join(as, Clock::now()));
    RETURN_IF_ERROR(check_incumbent(as));
  }
  ASSIGN_OR_RETURN(std::string certificate, SignCertificateRequest(*options_.authority, request,
                                                                   {.name = name, .days = kEnrolledDays}));
  LogInfo("worker '{}' got a certificate for {} days{}", name, kEnrolledDays, is_node ? ", again" : "");
  return certificate;
}

void JoinDesk::leave(const std::string& name, uint64_t instance) {
  if (roster_.leave(name, instance)) LogInfo("worker '{}' says goodbye", name);
}

}  // namespace shoal
