// A gRPC channel of the control plane, and the proof that its calls carry. Included by control_*.cpp only.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "cluster/control_wire.h"
#include "tls/probe.h"
#include "wire/cluster_key.h"
#include "wire/grpc/credentials.h"

namespace shoal {

/// For finding out why TLS fails.
inline constexpr Duration kExplainMax = std::chrono::seconds(1);
/// With less time left somebody is in a hurry: to look takes a second, as where a node's power is off.
inline constexpr Duration kExplainMin = std::chrono::milliseconds(300);

/// Calls to one process, of the service `Service` of the control plane's protobuf.
template <typename Service>
class ControlChannel {
 public:
  using Stub = typename Service::Stub;

  /// who: for messages, "worker at 10.0.0.2:50051". service: as TokenContext(). node: its name in plans; "": unknown.
  ControlChannel(std::string who, std::string service, TlsPeer peer, ClusterKey key)
      : who_(std::move(who)), service_(std::move(service)), peer_(std::move(peer)), key_(std::move(key)) {
    connect();
  }

  const std::string& address() const { return peer_.address; }

  /// Runs one call with its deadline, proof and cancellation.
  template <typename Request, typename Call>
  absl::Status call(std::string_view method, const Request& request, Deadline deadline, Call&& run) {
    std::string challenge = last_challenge();
    absl::Status status = call_once(method, request, deadline, challenge, run);
    // The first call to a process, or the first in a while: its answer told what to prove.
    if (absl::IsUnauthenticated(status) && key_.shared.has_value() && last_challenge() != challenge) {
      challenge = last_challenge();
      status = call_once(method, request, deadline, challenge, run);
    }
    return absl::IsUnavailable(status) ? explained(status, deadline) : status;
  }

  /// Ends calls in flight, and those to come, with Cancelled. Safe from any thread.
  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : active_) context->TryCancel();
  }

 private:
  template <typename Request, typename Call>
  absl::Status call_once(std::string_view method, const Request& request, Deadline deadline,
                         const std::string& challenge, Call& run) {
    grpc::ClientContext context;
    context.set_deadline(SystemTime(deadline));
    if (key_.shared.has_value()) {
      context.AddMetadata(kTokenKey,
                          key_.shared->issue_token(challenge, TokenContext(service_, method, request)));
    }
    std::shared_ptr<Stub> stub;
    {
      const std::lock_guard lock(mutex_);
      if (cancelled_) return Cancelled("{}: no call is made any more", who_);
      // A channel that failed tries again in its own time, while nobody polls it, and fails calls at once meanwhile: a
      // worker that was back could stay unseen for half a minute. A new one tries within this call.
      if (channel_->GetState(false) == GRPC_CHANNEL_TRANSIENT_FAILURE) connect();
      stub = stub_;
      active_.insert(&context);
    }
    const grpc::Status status = run(*stub, context, request);
    {
      const std::lock_guard lock(mutex_);
      active_.erase(&context);
      const auto& told = context.GetServerTrailingMetadata();
      if (const auto found = told.find(kChallengeKey); found != told.end())
        challenge_.assign(found->second.data(), found->second.size());
    }
    if (status.ok()) return absl::OkStatus();
    return MakeError(static_cast<absl::StatusCode>(status.error_code()), "{}: {}", who_,
                     status.error_message());
  }

  /// What TLS has to do with it: gRPC does not say.
  absl::Status explained(const absl::Status& status, Deadline deadline) {
    if (key_.tls == nullptr || !key_.tls->certified()) return status;
    key_.tls->follow_files();
    key_.tls->warn_if_it_ends();
    if (deadline.remaining() < kExplainMin) return status;
    const absl::Status why =
        ProbeTls(peer_, *key_.tls, Deadline::min(deadline, Deadline::after(kExplainMax))).status();
    return absl::IsFailedPrecondition(why) ? Annotate(Unavailable("{}", Message(why)), who_) : status;
  }

  std::string last_challenge() {
    const std::lock_guard lock(mutex_);
    return challenge_;
  }

  void connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 4000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 500);  // The pause between attempts has this floor.
    // A machine that comes back under its name at another address is looked up anew within a second, not after 30.
    arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 500);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY,
                     0);  // Cluster addresses are direct, whatever the environment says.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // Else it would share the one that failed.
    channel_ = ChannelTo(peer_.address, key_, peer_.name, std::move(arguments));
    stub_ = Service::NewStub(channel_);
  }

  const std::string who_;
  const std::string service_;
  const TlsPeer peer_;
  const ClusterKey key_;
  std::mutex mutex_;  // Guards what follows.
  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<Stub> stub_;
  std::set<grpc::ClientContext*> active_;
  std::string challenge_;  // What the process there last wanted proofs to answer.
  bool cancelled_ = false;
};

/// Checks the proof that a call carries, and tells the caller what the next one is to answer; without a key none is asked
/// for.
class ProofGate {
 public:
  ProofGate(std::string service, ClusterKey key) : service_(std::move(service)), tls_(std::move(key.tls)) {
    if (key.shared.has_value()) checker_.emplace(*std::move(key.shared));
  }

  absl::Status check(grpc::ServerContext& context, std::string_view method,
                     const google::protobuf::MessageLite& request) {
    if (tls_ != nullptr) {
      tls_->follow_files();
      tls_->warn_if_it_ends();
    }
    if (!checker_.has_value()) return absl::OkStatus();
    const auto& metadata = context.client_metadata();
    const auto found = metadata.find(kTokenKey);
    const std::string token =
        found == metadata.end() ? std::string() : std::string(found->second.data(), found->second.size());
    const absl::Status status = checker_->check(token, TokenContext(service_, method, request));
    context.AddTrailingMetadata(kChallengeKey, checker_->challenge());
    // An empty token asks for the challenge, as every caller with a key does at first.
    if (!status.ok() && (found == metadata.end() || !token.empty()))
      LogWarning("refused {} from {}: {}", method, context.peer(), Message(status));
    return status;
  }

 private:
  const std::string service_;
  const std::shared_ptr<const TlsIdentity> tls_;
  std::optional<TokenChecker> checker_;
};

inline grpc::Status ToGrpc(const absl::Status& status) {
  return status.ok() ? grpc::Status::OK
                     : grpc::Status(static_cast<grpc::StatusCode>(status.code()), Message(status));
}

}  // namespace shoal
