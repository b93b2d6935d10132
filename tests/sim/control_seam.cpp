// The control plane over the simulated network: linked in the place of src/cluster/control_{cache,client,service,peer}.cpp.
#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "base/status.h"
#include "cluster/control.h"
#include "cluster/control_cache.h"
#include "network.h"

namespace shoal {

class WorkerClient::Impl {
 public:
  explicit Impl(std::string a) : address(std::move(a)) {}

  /// What `run` returns, at the worker.
  template <typename Result>
  absl::StatusOr<Result> ask(std::function<Result(WorkerControl&)> run, Deadline deadline) {
    const auto result = std::make_shared<std::optional<Result>>();  // The caller may be gone before it comes.
    const absl::Status called = sim::Network::Get().call(
        caller, address, [result, run = std::move(run)](WorkerControl& worker) { *result = run(worker); },
        deadline, [this] { return cancelled.load(); });
    if (!called.ok()) return Annotate(called, fmt::format("worker at {}", address));
    return *std::move(*result);
  }

  const std::string address;
  const sim::Network::Caller caller = sim::Network::Get().caller();
  std::atomic<bool> cancelled = false;
};

WorkerClient::WorkerClient(const std::string& address, std::optional<KeyAuth> /*key*/)
    : impl_(std::make_unique<Impl>(address)) {}
WorkerClient::~WorkerClient() = default;

const std::string& WorkerClient::address() const { return impl_->address; }
void WorkerClient::cancel() { impl_->cancelled = true; }

absl::StatusOr<WorkerFacts> WorkerClient::describe(Deadline deadline) {
  return impl_->ask<WorkerFacts>([](WorkerControl& worker) { return worker.describe(); }, deadline);
}

absl::StatusOr<int64_t> WorkerClient::prepare(const PrepareOrder& order, const PrepareProgress& progress,
                                              Deadline deadline) {
  auto bytes = impl_->ask<absl::StatusOr<int64_t>>(
      [order](WorkerControl& worker) { return worker.prepare(order, {}); }, deadline);
  RETURN_IF_ERROR(bytes.status());
  if (bytes->ok() && progress) progress(**bytes, **bytes);
  return *std::move(bytes);
}

absl::StatusOr<OpenAnswer> WorkerClient::open(const OpenOrder& order, Deadline deadline) {
  auto opened = impl_->ask<absl::StatusOr<OpenAnswer>>(
      [order](WorkerControl& worker) { return worker.open(order); }, deadline);
  RETURN_IF_ERROR(opened.status());
  return *std::move(opened);
}

absl::Status WorkerClient::close(uint64_t session, Deadline deadline) {
  return impl_
      ->ask<bool>(
          [session](WorkerControl& worker) {
            worker.close(session);
            return true;
          },
          deadline)
      .status();
}

absl::StatusOr<std::vector<PeerResult>> WorkerClient::check_peers(const PeerCheck& check) {
  return impl_->ask<std::vector<PeerResult>>(
      [check](WorkerControl& worker) { return worker.check_peers(check); },
      Deadline::after(check.timeout + std::chrono::seconds(1)));
}

absl::StatusOr<MachineReport> WorkerClient::examine(const std::vector<std::string>& model_names,
                                                    Deadline deadline) {
  return impl_->ask<MachineReport>(
      [model_names](WorkerControl& worker) { return worker.examine(model_names); }, deadline);
}

class ControlService::Impl {};
ControlService::ControlService(WorkerControl& /*control*/, std::optional<KeyAuth> /*key*/) {}
ControlService::~ControlService() = default;
grpc::Service* ControlService::service() { return nullptr; }

class CacheService::Impl {};
CacheService::CacheService(CacheGiver& /*giver*/, std::optional<KeyAuth> /*key*/) {}
CacheService::~CacheService() = default;
grpc::Service* CacheService::service() { return nullptr; }

// Blocks of layers that move are computed again here: only those of layers that stay are kept.
absl::Status FetchCached(const RemoteCache& /*from*/, const CacheRequest& /*request*/, Deadline /*deadline*/,
                         TakeImages /*take*/) {
  return absl::UnimplementedError("the simulated control plane moves no caches");
}

class ProbeService::Impl {};
ProbeService::ProbeService(uint64_t instance, std::optional<KeyAuth> /*key*/) {
  sim::Network::Get().announce(sim::ThisMachine(), instance);
}
ProbeService::~ProbeService() = default;
grpc::Service* ProbeService::service() { return nullptr; }

PeerResult ProbePeer(const PeerToCheck& peer, const std::optional<KeyAuth>& /*key*/, int64_t /*bytes*/,
                     Deadline deadline) {
  const Clock::time_point begin = Clock::now();
  PeerResult result{.status = sim::Network::Get().probe(peer, deadline)};
  result.round_trip = Clock::now() - begin;
  return result;
}

std::vector<PeerResult> ProbePeers(const PeerCheck& check, const std::optional<KeyAuth>& key) {
  const Deadline deadline = Deadline::after(check.timeout);
  std::vector<PeerResult> results;
  for (const PeerToCheck& peer : check.peers)
    results.push_back(ProbePeer(peer, key, check.probe_bytes, deadline));
  return results;
}

}  // namespace shoal
