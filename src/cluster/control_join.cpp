// The two ends of a join over gRPC.
#include <string>
#include <utility>

#include "cluster/control.h"
#include "cluster/control_channel.h"
#include "cluster/control_wire.h"
#include "shoal/v1/control.grpc.pb.h"
#include "tls/authority.h"
#include "wire/grpc/credentials.h"

namespace shoal {
namespace {

/// The host of gRPC's "ipv4:10.0.0.2:4711" or "ipv6:[fe80::1]:4711", whose brackets may be escaped; "" of others.
std::string HostOf(std::string peer) {
  for (const auto& [escaped, plain] : {std::pair{"%5B", "["}, {"%5D", "]"}}) {
    const size_t at = peer.find(escaped);
    if (at != std::string::npos) peer.replace(at, 3, plain);
  }
  const size_t family = peer.find(':');
  const size_t port = peer.rfind(':');
  if (!peer.starts_with("ipv") || port <= family) return "";
  std::string host = peer.substr(family + 1, port - family - 1);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  constexpr std::string_view kMapped = "::ffff:";  // A listener of both families sees IPv4 so.
  return host.starts_with(kMapped) ? host.substr(kMapped.size()) : host;
}

}  // namespace

class JoinService::Impl final : public v1::Coordinator::Service {
 public:
  Impl(JoinControl& control, ClusterKey key)
      : control_(control), key_(key), gate_(kCoordinatorService, std::move(key)) {}

  grpc::Status Join(grpc::ServerContext* context, const v1::JoinRequest* request,
                    v1::JoinReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "Join", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto offer = FromProto(*request);
    if (!offer.ok()) return ToGrpc(offer.status());
    if (const absl::Status certified = CheckCaller(*context->auth_context(), key_, offer->name);
        !certified.ok())
      return ToGrpc(certified);
    const auto answer = control_.join(*offer, HostOf(context->peer()));
    if (!answer.ok()) return ToGrpc(answer.status());
    *reply = ToProto(*answer);
    return grpc::Status::OK;
  }

  grpc::Status Leave(grpc::ServerContext* context, const v1::LeaveRequest* request,
                     v1::LeaveReply*) override {
    if (const absl::Status allowed = gate_.check(*context, "Leave", *request); !allowed.ok())
      return ToGrpc(allowed);
    if (const absl::Status certified = CheckCaller(*context->auth_context(), key_, request->name());
        !certified.ok())
      return ToGrpc(certified);
    control_.leave(request->name(), request->instance());
    return grpc::Status::OK;
  }

  grpc::Status Enrol(grpc::ServerContext* context, const v1::EnrolRequest* request,
                     v1::EnrolReply* reply) override {
    if (!key_.shared.has_value() || key_.tls == nullptr) {
      return ToGrpc(absl::PermissionDeniedError(
          "certificates are given to holders of the cluster's key: start the coordinator with --key-file and "
          "--tls-dir"));
    }
    if (const absl::Status allowed = gate_.check(*context, "Enrol", *request); !allowed.ok())
      return ToGrpc(allowed);
    const bool is_node = IsCertifiableName(request->name()) &&
                         CheckCaller(*context->auth_context(), key_, request->name()).ok();
    auto certificate = control_.enrol(request->name(), request->request(), is_node);
    if (!certificate.ok()) return ToGrpc(certificate.status());
    reply->set_certificate(*std::move(certificate));
    return grpc::Status::OK;
  }

 private:
  JoinControl& control_;
  const ClusterKey key_;
  ProofGate gate_;
};

JoinService::JoinService(JoinControl& control, ClusterKey key)
    : impl_(std::make_unique<Impl>(control, std::move(key))) {}
JoinService::~JoinService() = default;
grpc::Service* JoinService::service() { return impl_.get(); }

class JoinClient::Impl : public ControlChannel<v1::Coordinator> {
 public:
  Impl(const std::string& address, ClusterKey key)
      : ControlChannel(fmt::format("coordinator at {}", address), kCoordinatorService, {"", address},
                       std::move(key)) {}
};

JoinClient::JoinClient(const std::string& address, ClusterKey key)
    : impl_(std::make_unique<Impl>(address, std::move(key))) {}
JoinClient::~JoinClient() = default;
void JoinClient::cancel() { impl_->cancel(); }

absl::StatusOr<JoinAnswer> JoinClient::join(const JoinOffer& offer, Deadline deadline) {
  v1::JoinReply reply;
  RETURN_IF_ERROR(impl_->call(
      "Join", ToProto(offer), deadline,
      [&](auto& stub, auto& context, const auto& request) { return stub.Join(&context, request, &reply); }));
  return FromProto(reply);
}

absl::Status JoinClient::leave(const std::string& name, uint64_t instance, Deadline deadline) {
  v1::LeaveRequest request;
  request.set_name(name);
  request.set_instance(instance);
  v1::LeaveReply reply;
  return impl_->call("Leave", request, deadline, [&](auto& stub, auto& context, const auto& leave) {
    return stub.Leave(&context, leave, &reply);
  });
}

absl::StatusOr<std::string> JoinClient::enrol(const std::string& name, const std::string& request,
                                              Deadline deadline) {
  v1::EnrolRequest enrol;
  enrol.set_name(name);
  enrol.set_request(request);
  v1::EnrolReply reply;
  RETURN_IF_ERROR(impl_->call("Enrol", enrol, deadline, [&](auto& stub, auto& context, const auto& asked) {
    return stub.Enrol(&context, asked, &reply);
  }));
  return std::move(*reply.mutable_certificate());
}

}  // namespace shoal
