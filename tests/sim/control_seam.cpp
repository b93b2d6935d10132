// The control plane over the simulated network: linked in the place of
// src/cluster/control_{cache,client,service,peer}.cpp.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
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
        caller, address,
        [result, run = std::move(run)](const sim::Process& process) -> absl::Status {
          if (process.control == nullptr) return Unavailable("connection refused");
          *result = run(*process.control);
          return absl::OkStatus();
        },
        deadline, [this] { return cancelled.load(); });
    if (!called.ok()) return Annotate(called, fmt::format("worker at {}", address));
    return *std::move(*result);
  }

  const std::string address;
  const sim::Network::Caller caller = sim::Network::Get().caller();
  std::atomic<bool> cancelled = false;
};

WorkerClient::WorkerClient(const std::string& address, ClusterKey /*key*/, std::string /*name*/)
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

absl::Status WorkerClient::dial(const OpenOrder& order, Deadline deadline) {
  auto dialled =
      impl_->ask<absl::Status>([order](WorkerControl& worker) { return worker.dial(order); }, deadline);
  RETURN_IF_ERROR(dialled.status());
  return *dialled;
}

absl::Status WorkerClient::follow(const FollowOrder& order, Deadline deadline) {
  auto followed =
      impl_->ask<absl::Status>([order](WorkerControl& worker) { return worker.follow(order); }, deadline);
  RETURN_IF_ERROR(followed.status());
  return *followed;
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

absl::StatusOr<std::vector<LayerUseCount>> WorkerClient::take_expert_use(const std::string& model_hash,
                                                                         Deadline deadline) {
  return impl_->ask<std::vector<LayerUseCount>>(
      [model_hash](WorkerControl& worker) { return worker.take_expert_use(model_hash); }, deadline);
}

// ------------------------------------------------------------------------------------------------------ caches

namespace sim {

struct CacheDoor {
  std::mutex mutex;
  std::condition_variable changed;
  CacheGiver* giver = nullptr;  // nullptr: closed.
  int calls = 0;
};

}  // namespace sim

class CacheService::Impl {
 public:
  const std::shared_ptr<sim::CacheDoor> door = std::make_shared<sim::CacheDoor>();
};

CacheService::CacheService(CacheGiver& giver, ClusterKey /*key*/) : impl_(std::make_unique<Impl>()) {
  impl_->door->giver = &giver;
  sim::Network::Get().serve_caches(sim::ThisMachine(), impl_->door);
}

CacheService::~CacheService() {
  std::unique_lock lock(impl_->door->mutex);
  impl_->door->giver = nullptr;
  impl_->door->changed.wait(lock, [this] { return impl_->door->calls == 0; });
}

grpc::Service* CacheService::service() { return nullptr; }

namespace {

/// What the process that is there gives, if any is.
absl::Status AskGiver(const sim::Process& process, absl::FunctionRef<absl::Status(CacheGiver&)> give) {
  if (process.caches == nullptr) return Unavailable("connection refused");
  sim::CacheDoor& door = *process.caches;
  CacheGiver* giver = nullptr;
  {
    const std::lock_guard lock(door.mutex);
    giver = door.giver;
    if (giver == nullptr) return Unavailable("the server is shutting down");
    ++door.calls;
  }
  const absl::Status given = give(*giver);
  const std::lock_guard lock(door.mutex);
  --door.calls;
  door.changed.notify_all();
  return given;
}

class SimulatedCopies final : public CopySource {
 public:
  SimulatedCopies(RemoteCache from, uint64_t session) : from_(std::move(from)), session_(session) {}

  absl::Status fetch(uint64_t after, Deadline deadline, TakeCopies take) override {
    struct Piece {
      CopyPiece piece;
      std::vector<std::byte> images;
    };
    const auto pieces = std::make_shared<std::vector<Piece>>();  // The caller may be gone before they come.
    const auto give = [pieces, after, deadline, session = session_,
                       hash = from_.model_hash](const sim::Process& process) {
      return AskGiver(process, [&](CacheGiver& giver) {
        return giver.give_copies(hash, session, after, deadline, [&](const CopyPiece& piece) -> absl::Status {
          pieces->push_back({piece, {piece.images.begin(), piece.images.end()}});
          return absl::OkStatus();
        });
      });
    };
    RETURN_IF_ERROR(sim::Network::Get().call(caller_, from_.address, give, deadline,
                                             [this] { return cancelled_.load(); }));
    for (const Piece& one : *pieces) {
      RETURN_IF_ERROR(take({one.piece.number, one.piece.place, one.piece.last, one.images}));
    }
    return absl::OkStatus();
  }
  void cancel() override { cancelled_ = true; }

 private:
  const RemoteCache from_;
  const uint64_t session_;
  const sim::Network::Caller caller_ = sim::Network::Get().caller();
  std::atomic<bool> cancelled_ = false;
};

}  // namespace

std::unique_ptr<CopySource> FollowCopies(const RemoteCache& from, uint64_t session) {
  return std::make_unique<SimulatedCopies>(from, session);
}

absl::Status FetchCached(const RemoteCache& from, const CacheRequest& request, Deadline deadline,
                         TakeImages take) {
  // The caller may be gone before they come.
  const auto images = std::make_shared<std::vector<std::vector<std::byte>>>();
  const auto give = [images, request, deadline, hash = from.model_hash](const sim::Process& process) {
    return AskGiver(process, [&](CacheGiver& giver) {
      return giver.give_cached(hash, request, deadline, [&](std::span<const std::byte> some) -> absl::Status {
        images->emplace_back(some.begin(), some.end());
        return absl::OkStatus();
      });
    });
  };
  sim::Network& network = sim::Network::Get();
  const absl::Status called =
      network.call(network.caller(), from.address, give, deadline, [] { return false; });
  RETURN_IF_ERROR(Annotate(called, fmt::format("'{}' at {}", from.name, from.address)));
  for (const std::vector<std::byte>& some : *images) RETURN_IF_ERROR(take(some));
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------------------------------- services

class ControlService::Impl {};
ControlService::ControlService(WorkerControl& /*control*/, ClusterKey /*key*/) {}
ControlService::~ControlService() = default;
grpc::Service* ControlService::service() { return nullptr; }

class ProbeService::Impl {};
ProbeService::ProbeService(uint64_t instance, ClusterKey /*key*/) {
  sim::Network::Get().announce(sim::ThisMachine(), instance);
}
ProbeService::~ProbeService() = default;
grpc::Service* ProbeService::service() { return nullptr; }

PeerResult ProbePeer(const PeerToCheck& peer, const ClusterKey& /*key*/, int64_t /*bytes*/,
                     Deadline deadline) {
  const Clock::time_point begin = Clock::now();
  PeerResult result{.status = sim::Network::Get().probe(peer, deadline)};
  result.round_trip = Clock::now() - begin;
  return result;
}

std::vector<PeerResult> ProbePeers(const PeerCheck& check, const ClusterKey& key) {
  const Deadline deadline = Deadline::after(check.timeout);
  std::vector<PeerResult> results;
  for (const PeerToCheck& peer : check.peers)
    results.push_back(ProbePeer(peer, key, check.probe_bytes, deadline));
  return results;
}

}  // namespace shoal
