#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "cluster/control.h"
#include "cluster/control_channel.h"
#include "cluster/control_wire.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {
class ControlService::Impl final : public v1::Worker::Service {
 public:
  Impl(WorkerControl& control, ClusterKey key) : control_(control), gate_(kWorkerService, std::move(key)) {}

  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeRequest* request,
                        v1::DescribeReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "Describe", *request); !allowed.ok())
      return ToGrpc(allowed);
    *reply = ToProto(control_.describe());
    return grpc::Status::OK;
  }

  grpc::Status Prepare(grpc::ServerContext* context, const v1::PrepareRequest* request,
                       grpc::ServerWriter<v1::PrepareProgress>* writer) override {
    if (const absl::Status allowed = gate_.check(*context, "Prepare", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto order = FromProto(*request);
    if (!order.ok()) return ToGrpc(order.status());
    const auto bytes = control_.prepare(*order, [writer](int64_t done, int64_t total) {
      v1::PrepareProgress progress;
      progress.set_done(done);
      progress.set_total(total);
      writer->Write(progress);
    });
    if (!bytes.ok()) return ToGrpc(bytes.status());
    v1::PrepareProgress last;
    last.set_weight_bytes(*bytes);
    writer->Write(last);
    return grpc::Status::OK;
  }

  grpc::Status Open(grpc::ServerContext* context, const v1::OpenRequest* request,
                    v1::OpenReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "Open", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto order = FromProto(*request);
    if (!order.ok()) return ToGrpc(order.status());
    const absl::StatusOr<OpenAnswer> answer = control_.open(*order);
    if (!answer.ok()) return ToGrpc(answer.status());
    *reply = ToProto(*answer);
    return grpc::Status::OK;
  }

  grpc::Status Dial(grpc::ServerContext* context, const v1::OpenRequest* request, v1::DialReply*) override {
    if (const absl::Status allowed = gate_.check(*context, "Dial", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto order = FromProto(*request);
    return ToGrpc(order.ok() ? control_.dial(*order) : order.status());
  }

  grpc::Status Follow(grpc::ServerContext* context, const v1::FollowRequest* request,
                      v1::FollowReply*) override {
    if (const absl::Status allowed = gate_.check(*context, "Follow", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto order = FromProto(*request);
    return ToGrpc(order.ok() ? control_.follow(*order) : order.status());
  }

  grpc::Status Close(grpc::ServerContext* context, const v1::CloseRequest* request,
                     v1::CloseReply*) override {
    if (const absl::Status allowed = gate_.check(*context, "Close", *request); !allowed.ok())
      return ToGrpc(allowed);
    control_.close(request->session());
    return grpc::Status::OK;
  }

  grpc::Status CheckPeers(grpc::ServerContext* context, const v1::CheckPeersRequest* request,
                          v1::CheckPeersReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "CheckPeers", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto check = FromProto(*request);
    if (!check.ok()) return ToGrpc(check.status());
    *reply = ToProto(control_.check_peers(*check));
    return grpc::Status::OK;
  }

  grpc::Status Examine(grpc::ServerContext* context, const v1::ExamineRequest* request,
                       v1::ExamineReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "Examine", *request); !allowed.ok())
      return ToGrpc(allowed);
    const auto names = FromProto(*request);
    if (!names.ok()) return ToGrpc(names.status());
    *reply = ToProto(control_.examine(*names));
    return grpc::Status::OK;
  }

  grpc::Status TakeExpertUse(grpc::ServerContext* context, const v1::ExpertUseRequest* request,
                             v1::ExpertUseReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "TakeExpertUse", *request); !allowed.ok())
      return ToGrpc(allowed);
    *reply = ToProto(control_.take_expert_use(request->model_hash()));
    return grpc::Status::OK;
  }

  grpc::Status RecentLog(grpc::ServerContext* context, const v1::LogRequest* request,
                         v1::LogReply* reply) override {
    if (const absl::Status allowed = gate_.check(*context, "RecentLog", *request); !allowed.ok())
      return ToGrpc(allowed);
    *reply = ToProto(shoal::RecentLog(FromProto(*request)));
    return grpc::Status::OK;
  }

 private:
  WorkerControl& control_;
  ProofGate gate_;
};

ControlService::ControlService(WorkerControl& control, ClusterKey key)
    : impl_(std::make_unique<Impl>(control, std::move(key))) {}

ControlService::~ControlService() = default;

grpc::Service* ControlService::service() { return impl_.get(); }

}  // namespace shoal
