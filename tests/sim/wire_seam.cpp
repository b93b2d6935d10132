// GrpcEndpoint over the simulated network: linked in the place of src/wire/grpc/endpoint.cpp.
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "network.h"
#include "wire/grpc/endpoint.h"

namespace shoal {
namespace sim {

class SimTransport final : public Transport {
 public:
  explicit SimTransport(std::shared_ptr<StreamEnd> end) : end_(std::move(end)) {}
  ~SimTransport() override { close(); }

  NodeId self() const override { return end_->options.self; }
  absl::Status connect(Deadline deadline) override { return Network::Get().connect(*end_, deadline); }
  absl::Status send(NodeId to, Frame frame, Deadline deadline) override {
    return Network::Get().send(*end_, to, std::move(frame), deadline);
  }
  absl::StatusOr<Event> receive(Deadline deadline) override { return end_->inbox.receive(deadline); }
  absl::StatusOr<std::optional<Event>> take() override { return end_->inbox.take(); }
  void share(std::shared_ptr<Wakeup> wakeup) override { end_->inbox.share(std::move(wakeup)); }
  void wake() override { end_->inbox.wake(); }
  TransportStats stats() const override { return {end_->inbox.received()}; }
  void close() override { Network::Get().close(*end_, Cancelled("the session was closed here")); }

 private:
  const std::shared_ptr<StreamEnd> end_;
};

}  // namespace sim

class GrpcEndpoint::Impl {
 public:
  GrpcOptions options;
  int machine = 0;
  uint64_t process = 0;
};

GrpcEndpoint::GrpcEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcEndpoint::~GrpcEndpoint() = default;

absl::StatusOr<std::unique_ptr<GrpcEndpoint>> GrpcEndpoint::start(GrpcOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->machine = sim::MachineAt(impl->options.listen);
  impl->process = sim::Network::Get().process(impl->machine);
  return std::unique_ptr<GrpcEndpoint>(new GrpcEndpoint(std::move(impl)));
}

int GrpcEndpoint::port() const { return sim::kFirstPort + impl_->machine; }

absl::StatusOr<std::unique_ptr<Transport>> GrpcEndpoint::open_session(SessionOptions options) {
  ASSIGN_OR_RETURN(
      std::shared_ptr<sim::StreamEnd> end,
      sim::Network::Get().open(std::move(options), impl_->machine, impl_->process, impl_->options.window));
  return std::unique_ptr<Transport>(std::make_unique<sim::SimTransport>(std::move(end)));
}

}  // namespace shoal
