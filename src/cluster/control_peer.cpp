// Who is at an address, and how far away: what every process of a cluster serves at the port of its frames.
#include <algorithm>
#include <atomic>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cluster/control.h"
#include "cluster/control_channel.h"
#include "cluster/control_wire.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {
namespace {

constexpr int kRoundTrips = 5;
/// Bytes of the calls that measure the bandwidth: the first, how many times as many the next has, and the most.
constexpr int64_t kFirstCallBytes = int64_t{128} << 10;
constexpr int64_t kCallGrowth = 4;
constexpr int64_t kCallBytesMax = int64_t{2} << 20;
/// A link that has been busy for so long shows what it carries.
constexpr Duration kBusyEnough = std::chrono::milliseconds(250);
/// Of a call that takes hardly longer than a small one, its time less a round trip would be anything.
constexpr double kLeastShare = 0.1;
constexpr size_t kThreadsMax = 16;

}  // namespace

class ProbeService::Impl final : public v1::Peer::Service {
 public:
  Impl(uint64_t instance, ClusterKey key) : instance_(instance), gate_(kPeerService, std::move(key)) {}

  grpc::Status Probe(grpc::ServerContext* context, const v1::ProbeRequest* request,
                     v1::ProbeReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "Probe", *request); !allowed.ok())
      return ToGrpc(allowed);
    reply->set_instance(instance_);
    return grpc::Status::OK;
  }

 private:
  const uint64_t instance_;
  ProofGate gate_;
};

ProbeService::ProbeService(uint64_t instance, ClusterKey key)
    : impl_(std::make_unique<Impl>(instance, std::move(key))) {}
ProbeService::~ProbeService() = default;
grpc::Service* ProbeService::service() { return impl_.get(); }

PeerResult ProbePeer(const PeerToCheck& peer, const ClusterKey& key, int64_t bytes, Deadline deadline) {
  ControlChannel<v1::Peer> channel(fmt::format("'{}' at {}", peer.name, peer.address), kPeerService,
                                   {peer.name, peer.address}, key);
  PeerResult result;
  uint64_t instance = 0;
  const auto probe = [&](int64_t padding) {
    v1::ProbeRequest request;
    request.set_padding(std::string(static_cast<size_t>(padding), '\0'));
    return channel.call("Probe", request, deadline, [&](auto& stub, auto& context, const auto& sent) {
      v1::ProbeReply reply;
      const grpc::Status status = stub.Probe(&context, sent, &reply);
      instance = reply.instance();
      return status;
    });
  };
  result.status = probe(0);  // The connection is made now: it is not timed.
  if (!result.status.ok()) return result;
  if (peer.instance != 0 && instance != peer.instance) {
    result.status = FailedPrecondition("another process than '{}' answers at {}", peer.name, peer.address);
    return result;
  }
  for (int i = 0; i < kRoundTrips; ++i) {
    const Clock::time_point begin = Clock::now();
    result.status = probe(0);
    if (!result.status.ok()) return result;
    const Duration took = Clock::now() - begin;
    result.round_trip = i == 0 ? took : std::min(result.round_trip, took);
  }
  // A connection that was idle sends a little, waits for a round trip, sends more: a first call says how far away the
  // other is rather than what the link carries. So calls grow, and the best of the largest counts.
  int64_t largest = 0;
  const Deadline enough = Deadline::after(kBusyEnough);
  for (int64_t sent = 0, call = kFirstCallBytes; sent < bytes && (sent == 0 || !enough.expired());) {
    call = std::min(call, bytes - sent);
    const Clock::time_point begin = Clock::now();
    result.status = probe(call);
    if (!result.status.ok()) return result;
    const double took_s = SecondsOf(Clock::now() - begin);
    const double bytes_s = std::max({took_s - SecondsOf(result.round_trip), kLeastShare * took_s, 1e-9});
    const auto rate = static_cast<int64_t>(static_cast<double>(call) / bytes_s);
    if (call >= largest) {  // The last may be what is left of `bytes`.
      result.bytes_per_second = call > largest ? rate : std::max(result.bytes_per_second, rate);
      largest = call;
    }
    sent += call;
    call = std::min(call * kCallGrowth, kCallBytesMax);
  }
  return result;
}

std::vector<PeerResult> ProbePeers(const PeerCheck& check, const ClusterKey& key) {
  const Deadline deadline = Deadline::after(check.timeout);
  std::vector<PeerResult> results(check.peers.size());
  std::atomic<size_t> next = 0;
  const auto probe_some = [&] {
    for (size_t i = next++; i < check.peers.size(); i = next++)
      results[i] = ProbePeer(check.peers[i], key, check.probe_bytes, deadline);
  };
  std::vector<std::thread> threads;
  while (threads.size() + 1 < std::min(kThreadsMax, check.peers.size())) {
    try {
      threads.emplace_back(probe_some);
    } catch (const std::system_error&) {  // Clients hold all that the system grants.
      break;
    }
  }
  probe_some();
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace shoal
