// N nodes in one process: what a single-process placement runs on, and what tests break on purpose.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "wire/transport.h"

namespace shoal {

struct InprocOptions {
  std::vector<std::string> names;  ///< One per node; may be empty texts. Its size is the number of nodes.
  FrameLimits limits;
  WindowLimits window;
};

/// A fully connected network. Every frame goes through the codec: encoded by its sender, decoded for its
/// receiver.
class InprocNetwork {
 public:
  explicit InprocNetwork(InprocOptions options);
  /// `nodes` nodes named "node-0", "node-1", ...
  explicit InprocNetwork(int nodes);
  ~InprocNetwork();

  /// The end of `node`, to be opened once. It may outlive the network object.
  std::unique_ptr<Transport> open(NodeId node);

  // Faults. `from` -> `to` is one direction.
  /// Both directions break: both nodes see kPeerDown, sends return Unavailable, frames on their way are lost.
  void break_link(NodeId a, NodeId b);
  /// From now on frames vanish on their way, and nobody is told: what a black hole or a stopped process looks
  /// like.
  void hang_link(NodeId from, NodeId to);
  /// Flips a bit of the next frame.
  void corrupt_next(NodeId from, NodeId to);
  /// Undoes break and hang.
  void heal_link(NodeId from, NodeId to);

 private:
  struct Hub;
  class Endpoint;
  std::shared_ptr<Hub> hub_;
};

}  // namespace shoal
