// Who of those that are waited for has been silent for how long. Nothing here reads a clock.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "base/clock.h"

namespace shoal {

/// When nodes without a result are probed for a heartbeat, and when they are given up.
struct LivenessLimits {
  Duration probe_after = std::chrono::seconds(1);      ///< Without a result; then again each such time.
  Duration timeout = std::chrono::milliseconds(4500);  ///< Of a node's executor while a step is out.
};

/// Nodes that share one process cannot lose each other: a missing heartbeat there means a slow or crowded
/// machine, so every wait between them lasts this long before it is called a hang.
inline constexpr Duration kLocalTimeout = std::chrono::minutes(10);
inline constexpr LivenessLimits kLocalLiveness{std::chrono::seconds(1), kLocalTimeout};

/// How often a node that computes for long tells those that wait for it, where they wait for `timeout`.
constexpr Duration HeartbeatPause(Duration timeout) { return timeout / 8; }

/// Time as it passes for one who looks now and then whether something came. A pause between two looks counts for a small
/// part of `timeout` at most: who was stopped, starved, or deep in a layer did not see what came meanwhile, and must not
/// blame others for it.
class WatchedTime {
 public:
  explicit WatchedTime(Duration timeout);
  /// A look. What has passed since the first one.
  Duration look(Clock::time_point now);

 private:
  const Duration pause_max_;
  std::optional<Clock::time_point> last_;
  Duration passed_{};
};

/// The coordinator's view of the nodes of a session. Silence is counted while something is out, as WatchedTime.
class LivenessWatch {
 public:
  explicit LivenessWatch(LivenessLimits limits) : limits_(limits), time_(limits.timeout) {}

  /// A session of so many nodes begins.
  void begin(size_t nodes, Clock::time_point now);
  /// From now on something is out that was not, or a result came: all nodes count as heard.
  void heard_all(Clock::time_point now);
  void heard(size_t node, Clock::time_point now);
  /// It is neither waited for nor probed any more.
  void give_up(size_t node) { nodes_.at(node).given_up = true; }
  bool gave_up(size_t node) const { return nodes_.at(node).given_up; }

  /// A node that left a probe unanswered and was silent for longer than the timeout.
  struct Late {
    size_t node;
    Duration silent;
  };
  /// A look, while something is out.
  std::optional<Late> late(Clock::time_point now);
  /// Whether all that are not given up are to be probed now, which then counts as done.
  bool probe_is_due(Clock::time_point now);
  /// When the node was heard last; the time in which nobody looked is left out.
  Clock::time_point last_heard(size_t node, Clock::time_point now);

 private:
  struct Node {
    Duration heard{};    ///< By time_.
    bool asked = false;  ///< A probe is not yet answered.
    bool given_up = false;
  };

  const LivenessLimits limits_;
  WatchedTime time_;
  std::vector<Node> nodes_;
  Clock::time_point probe_due_;
};

}  // namespace shoal
