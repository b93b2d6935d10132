#include "app/worker_join.h"

#include <algorithm>
#include <utility>

#include "base/exposure.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/addresses.h"
#include "wire/join_token.h"

namespace shoal {
namespace {

constexpr char kPort[] = "50051";

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

void AddOnce(std::vector<std::string>& list, std::string address) {
  if (std::ranges::find(list, address) == list.end()) list.push_back(std::move(address));
}

}  // namespace

void JoinFlags::add_to(Flags app) {
  app.add_option(
         "--join", join,
         "Offer this worker to a running coordinator: HOST:PORT of its --join-listen, a token of `shoal "
         "token create`, or @FILE with one")
      .delimiter(',')
      .envname("SHOAL_JOIN");
  app.add_option(
      "--advertise", advertise,
      "HOST or HOST:PORT where the others reach this worker; repeatable (default: found by itself)");
}

absl::StatusOr<JoinTarget> ReadJoin(const JoinFlags& flags) {
  JoinTarget target;
  for (const std::string& word : flags.join) {
    std::string text = word;
    if (word.starts_with('@')) {
      ASSIGN_OR_RETURN(text, ReadTextFile(word.substr(1), kJoinTokenBytesMax));
      while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    }
    if (IsJoinToken(text)) {
      ASSIGN_OR_RETURN(JoinToken token, ParseJoinToken(text));
      if (flags.join.size() > 1)
        return InvalidArgument("worker --join: a token says all there is: expected nothing beside it");
      ASSIGN_OR_RETURN(target.key, KeyAuth::from_key(std::move(token.key)));
      target.coordinators = std::move(token.addresses);
      continue;
    }
    const auto address = ParseHostPort(text);
    // What may be a mistyped token is not repeated.
    if (!address.ok() || address->port == 0)
      return InvalidArgument("worker --join: expected HOST:PORT, a token, or @FILE with a token");
    target.coordinators.push_back(address->to_string());
  }
  return target;
}

absl::StatusOr<std::string> ListenToJoin(const JoinTarget& target, bool openly) {
  if (openly) return std::string("0.0.0.0:") + kPort;
  for (const std::string& address : target.coordinators) {
    ASSIGN_OR_RETURN(const HostPort coordinator, ParseHostPort(address));
    if (IsLoopback(coordinator.host)) return std::string("127.0.0.1:") + kPort;
  }
  return FailedPrecondition(
      "worker --join: {} is another machine, and without a key anybody could use this one; join with a token "
      "(shoal token "
      "create), give --key-file FILE, or --insecure",
      target.coordinators.front());
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
  JoinOffer offer{.name = options.name, .instance = worker.instance()};
  const auto at = ParseHostPort(options.listen);
  if (flags.advertise.empty() && at.ok() && IsWildcard(at->host)) offer.port = worker.port();
  return std::make_unique<Announcer>(
      Announcer::Options{.coordinators = target.coordinators,
                         .key = options.key,
                         .offer = [offer, listen = options.listen, port = worker.port(),
                                   advertised = flags.advertise](const std::string& coordinator) {
                           JoinOffer now = offer;
                           now.addresses = OfferedAddresses(listen, port, advertised, coordinator);
                           return now;
                         }});
}

}  // namespace shoal
