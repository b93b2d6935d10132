// Round trips of one frame: what a hop of a pipeline or a request to experts costs before any work.
#pragma once

#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "base/clock.h"
#include "wire/transport.h"

namespace shoal {

/// Sends every frame of `node` back to where it came from, on a thread of its own, until it is destroyed,
/// which closes the node.
class EchoNode {
 public:
  /// `begin` runs first on that thread (it may pin it). `node` outlives this.
  explicit EchoNode(Transport& node, std::function<void()> begin = {});
  ~EchoNode();
  EchoNode(const EchoNode&) = delete;
  EchoNode& operator=(const EchoNode&) = delete;

 private:
  Transport& node_;
  std::thread thread_;
};

/// Sends `frame` to the node that echoes and waits until it is back. Errors as send() and receive();
/// Unavailable where the peer is lost.
absl::Status RoundTrip(Transport& node, NodeId echo, const Frame& frame, Deadline deadline);

}  // namespace shoal
