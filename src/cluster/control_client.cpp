#include <algorithm>
#include <utility>

#include "base/status.h"
#include "cluster/control.h"
#include "cluster/control_channel.h"
#include "cluster/control_wire.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {

class WorkerClient::Impl : public ControlChannel<v1::Worker> {
 public:
  Impl(const std::string& address, ClusterKey key, std::string name)
      : ControlChannel(fmt::format("worker at {}", address), kWorkerService, {std::move(name), address},
                       std::move(key)) {}
};

WorkerClient::WorkerClient(const std::string& address, ClusterKey key, std::string name)
    : impl_(std::make_unique<Impl>(address, std::move(key), std::move(name))) {}

WorkerClient::~WorkerClient() = default;

const std::string& WorkerClient::address() const { return impl_->address(); }

void WorkerClient::cancel() { impl_->cancel(); }

absl::StatusOr<WorkerFacts> WorkerClient::describe(Deadline deadline) {
  v1::DescribeReply reply;
  RETURN_IF_ERROR(impl_->call("Describe", v1::DescribeRequest(), deadline,
                              [&](auto& stub, auto& context, const auto& request) {
                                return stub.Describe(&context, request, &reply);
                              }));
  return FromProto(reply);
}

absl::StatusOr<int64_t> WorkerClient::prepare(const PrepareOrder& order, const PrepareProgress& progress,
                                              Deadline deadline) {
  int64_t bytes = 0;
  RETURN_IF_ERROR(
      impl_->call("Prepare", ToProto(order), deadline, [&](auto& stub, auto& context, const auto& request) {
        const auto reader = stub.Prepare(&context, request);
        v1::PrepareProgress message;
        while (reader->Read(&message)) {
          if (message.total() > 0 && progress) progress(message.done(), message.total());
          bytes = std::max<int64_t>(bytes, message.weight_bytes());
        }
        return reader->Finish();
      }));
  return bytes;
}

absl::StatusOr<OpenAnswer> WorkerClient::open(const OpenOrder& order, Deadline deadline) {
  v1::OpenReply reply;
  RETURN_IF_ERROR(impl_->call(
      "Open", ToProto(order), deadline,
      [&](auto& stub, auto& context, const auto& request) { return stub.Open(&context, request, &reply); }));
  return FromProto(reply, std::ssize(order.places));
}

absl::Status WorkerClient::dial(const OpenOrder& order, Deadline deadline) {
  v1::DialReply reply;
  return impl_->call("Dial", ToProto(order), deadline, [&](auto& stub, auto& context, const auto& request) {
    return stub.Dial(&context, request, &reply);
  });
}

absl::Status WorkerClient::follow(const FollowOrder& order, Deadline deadline) {
  v1::FollowReply reply;
  return impl_->call("Follow", ToProto(order), deadline, [&](auto& stub, auto& context, const auto& request) {
    return stub.Follow(&context, request, &reply);
  });
}

absl::Status WorkerClient::close(uint64_t session, Deadline deadline) {
  v1::CloseRequest close;
  close.set_session(session);
  v1::CloseReply reply;
  return impl_->call("Close", close, deadline, [&](auto& stub, auto& context, const auto& request) {
    return stub.Close(&context, request, &reply);
  });
}

absl::StatusOr<std::vector<PeerResult>> WorkerClient::check_peers(const PeerCheck& check) {
  v1::CheckPeersReply reply;
  // A bit more than the worker may take.
  const Deadline deadline = Deadline::after(check.timeout + std::chrono::seconds(1));
  RETURN_IF_ERROR(impl_->call("CheckPeers", ToProto(check), deadline,
                              [&](auto& stub, auto& context, const auto& request) {
                                return stub.CheckPeers(&context, request, &reply);
                              }));
  std::vector<PeerResult> results = FromProto(reply);
  if (results.size() == check.peers.size()) return results;
  return DataLoss("worker at {}: expected {} results of a check of peers, got {}", address(),
                  check.peers.size(), results.size());
}

absl::StatusOr<MachineReport> WorkerClient::examine(const std::vector<std::string>& model_names,
                                                    Deadline deadline) {
  v1::ExamineRequest request;
  for (const std::string& name : model_names) request.add_model_names(name);
  v1::ExamineReply reply;
  RETURN_IF_ERROR(
      impl_->call("Examine", request, deadline, [&](auto& stub, auto& context, const auto& examine) {
        return stub.Examine(&context, examine, &reply);
      }));
  return FromProto(reply);
}

absl::StatusOr<std::vector<LayerUseCount>> WorkerClient::take_expert_use(const std::string& model_hash,
                                                                         Deadline deadline) {
  v1::ExpertUseRequest request;
  request.set_model_hash(model_hash);
  v1::ExpertUseReply reply;
  RETURN_IF_ERROR(
      impl_->call("TakeExpertUse", request, deadline, [&](auto& stub, auto& context, const auto& asked) {
        return stub.TakeExpertUse(&context, asked, &reply);
      }));
  absl::StatusOr<std::vector<LayerUseCount>> counts = FromProto(reply);
  if (!counts.ok()) return Annotate(counts.status(), fmt::format("worker at {}", address()));
  return counts;
}

absl::StatusOr<std::vector<LoggedLine>> WorkerClient::recent_log(const LogQuery& query, Deadline deadline) {
  v1::LogReply reply;
  RETURN_IF_ERROR(impl_->call(
      "RecentLog", ToProto(query), deadline,
      [&](auto& stub, auto& context, const auto& asked) { return stub.RecentLog(&context, asked, &reply); }));
  return FromProto(reply, query);
}

}  // namespace shoal
