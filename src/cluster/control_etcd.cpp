// Coordinators as keys of etcd, each under a lease: one that dies is gone when its lease ends.
//   PREFIX/coordinators/NAME -> "HOST:PORT,HOST:PORT"
#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "cluster/control_channel.h"
#include "cluster/registry.h"
#include "etcd/etcd.grpc.pb.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

constexpr int64_t kLeaseSeconds = 10;
constexpr int64_t kCoordinatorsMax = 64;

class EtcdRegistry final : public Registry {
 public:
  EtcdRegistry(const std::string& address, const std::string& prefix)
      : address_(address),
        folder_((prefix.empty() ? "" : prefix + "/") + "coordinators/"),
        keys_(what(), "", {"", address}, std::nullopt),
        leases_(what(), "", {"", address}, std::nullopt) {}

  std::string what() const override { return fmt::format("etcd at {}", address_); }

  absl::StatusOr<std::vector<Rendezvous>> find(Deadline deadline) override {
    etcdserverpb::RangeRequest request;
    request.set_key(folder_);
    std::string end = folder_;
    ++end.back();  // All keys that begin with it.
    request.set_range_end(end);
    request.set_limit(kCoordinatorsMax);
    etcdserverpb::RangeResponse reply;
    RETURN_IF_ERROR(keys_.call("Range", request, deadline, [&](auto& stub, auto& context, const auto& range) {
      return stub.Range(&context, range, &reply);
    }));
    std::vector<Rendezvous> found;
    for (const etcdserverpb::KeyValue& entry : reply.kvs()) {
      if (!entry.key().starts_with(folder_)) continue;
      Rendezvous one{entry.key().substr(folder_.size()), AddressesOf(entry.value())};
      // What others wrote there is none of ours.
      if (IsNodeName(one.name) && !one.addresses.empty()) found.push_back(std::move(one));
    }
    return found;
  }

  absl::Status publish(const Rendezvous& self, Deadline deadline) override {
    if (self == published_ && lease_ != 0 && kept_alive(deadline)) return absl::OkStatus();
    ASSIGN_OR_RETURN(lease_, new_lease(deadline));
    etcdserverpb::PutRequest request;
    request.set_key(folder_ + self.name);
    request.set_value(Join(self.addresses, ","));
    request.set_lease(lease_);
    etcdserverpb::PutResponse reply;
    RETURN_IF_ERROR(keys_.call("Put", request, deadline, [&](auto& stub, auto& context, const auto& put) {
      return stub.Put(&context, put, &reply);
    }));
    published_ = self;
    return absl::OkStatus();
  }

  void withdraw(Deadline deadline) override {
    if (lease_ == 0) return;
    etcdserverpb::LeaseRevokeRequest request;
    request.set_id(std::exchange(lease_, 0));
    etcdserverpb::LeaseRevokeResponse reply;
    // Where it fails the lease ends by itself.
    leases_
        .call("LeaseRevoke", request, deadline,
              [&](auto& stub, auto& context, const auto& revoke) {
                return stub.LeaseRevoke(&context, revoke, &reply);
              })
        .IgnoreError();
  }

 private:
  absl::StatusOr<int64_t> new_lease(Deadline deadline) {
    etcdserverpb::LeaseGrantRequest request;
    request.set_ttl(kLeaseSeconds);
    etcdserverpb::LeaseGrantResponse reply;
    RETURN_IF_ERROR(
        leases_.call("LeaseGrant", request, deadline, [&](auto& stub, auto& context, const auto& grant) {
          return stub.LeaseGrant(&context, grant, &reply);
        }));
    if (!reply.error().empty() || reply.id() == 0)
      return Unavailable("{}: it grants no lease: {}", what(), reply.error());
    return reply.id();
  }

  /// Whether the lease is there, and for a while longer.
  bool kept_alive(Deadline deadline) {
    etcdserverpb::LeaseKeepAliveRequest request;
    request.set_id(lease_);
    etcdserverpb::LeaseKeepAliveResponse reply;
    const absl::Status asked =
        leases_.call("LeaseKeepAlive", request, deadline, [&](auto& stub, auto& context, const auto& alive) {
          const auto stream = stub.LeaseKeepAlive(&context);
          const bool answered = stream->Write(alive) && stream->Read(&reply);
          stream->WritesDone();
          const grpc::Status end = stream->Finish();
          return answered ? grpc::Status::OK : end;
        });
    return asked.ok() && reply.ttl() > 0;
  }

  const std::string address_;
  const std::string folder_;
  ControlChannel<etcdserverpb::KV> keys_;
  ControlChannel<etcdserverpb::Lease> leases_;
  int64_t lease_ = 0;
  Rendezvous published_;
};

}  // namespace

std::unique_ptr<Registry> MakeEtcdRegistry(const std::string& address, std::string prefix) {
  return std::make_unique<EtcdRegistry>(address, prefix);
}

}  // namespace shoal
