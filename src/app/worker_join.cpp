#include "app/worker_join.h"

#include <algorithm>
#include <utility>

#include "base/exposure.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/addresses.h"
#include "tls/certificate.h"
#include "wire/join_token.h"

namespace shoal {
namespace {

constexpr char kPort[] = "50051";
constexpr Duration kFindTimeout = std::chrono::seconds(3);

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

void AddOnce(std::vector<std::string>& list, std::string address) {
  if (std::ranges::find(list, address) == list.end()) list.push_back(std::move(address));
}

}  // namespace

void JoinFlags::add_to(Flags app) {
  given =
      app.add_option(
             "--join", join,
             "Offer this worker to a running coordinator: HOST:PORT of its --join-listen, a token of `shoal "
             "token create`, @FILE with one, a cluster file, etcd://HOST:PORT/PREFIX; without a value: the "
             "one "
             "on the local network")
          .value_is_optional()
          .envname("SHOAL_JOIN");
  app.add_option(
      "--advertise", advertise,
      "HOST or HOST:PORT where the others reach this worker; repeatable (default: found by itself)");
}

absl::StatusOr<JoinTarget> ReadJoin(const JoinFlags& flags) {
  JoinTarget target;
  if (!flags.chosen()) return target;
  std::string text = flags.join.empty() ? "dns-sd" : flags.join;
  if (text.starts_with('@')) {
    ASSIGN_OR_RETURN(text, ReadTextFile(text.substr(1), kJoinTokenBytesMax));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  }
  if (IsJoinToken(text)) {
    ASSIGN_OR_RETURN(JoinToken token, ParseJoinToken(text));
    ASSIGN_OR_RETURN(target.key, KeyAuth::from_key(std::move(token.key)));
    if (!token.authority.empty()) {
      ASSIGN_OR_RETURN(target.authority, PemOfCertificate(token.authority, "the token"));
    }
    target.registry = MakeStaticRegistry(std::move(token.addresses));
    return target;
  }
  auto registry = OpenRegistry(text);
  // What may be a mistyped token is not repeated.
  if (!registry.ok()) {
    return InvalidArgument(
        "worker --join: expected HOST:PORT, a token, @FILE with a token, a cluster file, "
        "etcd://HOST:PORT/PREFIX, or no "
        "value for the local network");
  }
  target.registry = *std::move(registry);
  return target;
}

absl::StatusOr<std::vector<std::string>> FindCoordinator(Registry& registry, Deadline deadline) {
  auto found = registry.find(deadline);
  RETURN_IF_ERROR(found.status());
  if (found->size() == 1) return std::move(found->front().addresses);
  if (found->empty()) {
    return NotFound(
        "{} knows of no coordinator: start one there with shoal serve --join-listen HOST:PORT --registry ...",
        registry.what());
  }
  std::vector<std::string> names;
  for (const Rendezvous& one : *found)
    names.push_back(fmt::format("'{}' at {}", one.name, Join(one.addresses, ", ")));
  return FailedPrecondition("{} knows of {} coordinators: {}. Say which: --join HOST:PORT", registry.what(),
                            found->size(), Join(names, "; "));
}

absl::StatusOr<std::string> ListenToJoin(Registry& registry, bool openly) {
  if (openly) return std::string("0.0.0.0:") + kPort;
  const auto found = FindCoordinator(registry, Deadline::after(kFindTimeout));
  for (const std::string& address : found.value_or(std::vector<std::string>())) {
    ASSIGN_OR_RETURN(const HostPort coordinator, ParseHostPort(address));
    if (IsLoopback(coordinator.host)) return std::string("127.0.0.1:") + kPort;
  }
  return FailedPrecondition(
      "worker --join: the coordinator is another machine, and without a key anybody could use this one; join "
      "with a token "
      "(shoal token create), give --key-file FILE, or --insecure");
}

std::vector<std::string> OfferedAddresses(const std::string& listen, int port,
                                          const std::vector<std::string>& advertised,
                                          const std::string& coordinator) {
  std::vector<std::string> list;
  for (const std::string& one : advertised) {
    const auto whole = ParseHostPort(one);
    AddOnce(list, whole.ok() ? whole->to_string() : HostPort{one, port}.to_string());
  }
  if (!list.empty()) return list;
  const auto at = ParseHostPort(listen);
  if (!at.ok()) return list;
  if (!IsWildcard(at->host)) return {HostPort{at->host, port}.to_string()};
  const auto towards = ParseHostPort(coordinator);
  const auto own = towards.ok() ? LocalAddressTowards(towards->host, towards->port) : towards.status();
  const bool same_machine = own.ok() && IsLoopback(*own);
  if (own.ok() && !same_machine) AddOnce(list, HostPort{*own, port}.to_string());
  for (const std::string& host : OwnAddresses()) AddOnce(list, HostPort{host, port}.to_string());
  constexpr size_t kMost = 12;  // A machine with many containers has an address for each.
  if (list.size() > kMost) list.resize(kMost);
  if (same_machine) AddOnce(list, HostPort{"127.0.0.1", port}.to_string());
  return list;
}

std::unique_ptr<Announcer> StartToJoin(const JoinTarget& target, const JoinFlags& flags,
                                       const WorkerNode::Options& options, const WorkerNode& worker) {
  JoinOffer offer{.name = options.name, .instance = worker.instance(), .rank = flags.rank};
  const auto at = ParseHostPort(options.listen);
  if (flags.advertise.empty() && at.ok() && IsWildcard(at->host)) offer.port = worker.port();
  return std::make_unique<Announcer>(Announcer::Options{
      .find = [registry =
                   target.registry](Deadline deadline) { return FindCoordinator(*registry, deadline); },
      .key = options.key,
      .offer =
          [offer, listen = options.listen, port = worker.port(),
           advertised = flags.advertise](const std::string& coordinator) {
            JoinOffer now = offer;
            now.addresses = OfferedAddresses(listen, port, advertised, coordinator);
            return now;
          }});
}

}  // namespace shoal
