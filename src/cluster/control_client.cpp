#include <grpcpp/grpcpp.h>

#include <mutex>
#include <set>
#include <utility>

#include "base/status.h"
#include "cluster/control.h"
#include "cluster/control_wire.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {

class WorkerClient::Impl {
 public:
  Impl(std::string address, std::optional<KeyAuth> key) : address_(std::move(address)), key_(std::move(key)) {
    connect();
  }

  const std::string& address() const { return address_; }

  /// Runs one call with its deadline, proof and cancellation.
  template <typename Request, typename Call>
  absl::Status call(std::string_view method, const Request& request, Deadline deadline, Call&& run) {
    grpc::ClientContext context;
    context.set_deadline(SystemTime(deadline));
    if (key_.has_value()) context.AddMetadata(kTokenKey, key_->issue_token(TokenContext(method, request)));
    std::shared_ptr<v1::Worker::Stub> stub;
    {
      const std::lock_guard lock(mutex_);
      if (cancelled_) return Cancelled("worker at {}: no call is made any more", address_);
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
    }
    if (status.ok()) return absl::OkStatus();
    return MakeError(static_cast<absl::StatusCode>(status.error_code()), "worker at {}: {}", address_,
                     status.error_message());
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : active_) context->TryCancel();
  }

 private:
  void connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 4000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 500);  // The pause between attempts has this floor.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY,
                     0);  // Cluster addresses are direct, whatever the environment says.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // Else it would share the one that failed.
    channel_ = grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Worker::NewStub(channel_);
  }

  const std::string address_;
  const std::optional<KeyAuth> key_;
  std::mutex mutex_;  // Guards what follows.
  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<v1::Worker::Stub> stub_;
  std::set<grpc::ClientContext*> active_;
  bool cancelled_ = false;
};

WorkerClient::WorkerClient(std::string address, std::optional<KeyAuth> key)
    : impl_(std::make_unique<Impl>(std::move(address), std::move(key))) {}

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

absl::Status WorkerClient::open(const OpenOrder& order, Deadline deadline) {
  v1::OpenReply reply;
  return impl_->call("Open", ToProto(order), deadline, [&](auto& stub, auto& context, const auto& request) {
    return stub.Open(&context, request, &reply);
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

}  // namespace shoal
