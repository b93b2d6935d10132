// A transport for tests of exchanges.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "wire/frame.h"
#include "wire/transport.h"

namespace shoal {

/// Keeps what is sent, so that a test can play those who answer.
class RecordingTransport final : public Transport {
 public:
  NodeId self() const override { return NodeId{0}; }
  absl::Status connect(Deadline) override { return absl::OkStatus(); }
  absl::Status send(NodeId to, Frame frame, Deadline) override {
    if (refuse == to) return Unavailable("the peer is down");
    if (full == to) return DeadlineExceeded("the peer takes nothing in");
    sent[to].push_back(std::move(frame));
    return absl::OkStatus();
  }
  absl::StatusOr<Event> receive(Deadline) override { return Cancelled("not used"); }
  absl::StatusOr<std::optional<Event>> take() override { return Cancelled("not used"); }
  void share(std::shared_ptr<Wakeup>) override {}
  void wake() override {}
  TransportStats stats() const override { return {}; }
  void close() override {}

  std::map<NodeId, std::vector<Frame>> sent;
  NodeId refuse{-1};
  NodeId full{-1};  ///< Its window has no room.
};

}  // namespace shoal
