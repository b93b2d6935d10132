// What happened to a cluster, for people who watch it: found by comparing what is seen of it at two moments, and kept in a
// ring.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/member.h"

namespace shoal {

/// What is seen of a cluster at a moment.
struct ClusterSnapshot {
  struct Node {
    std::string name;
    MemberState state = MemberState::kUnknown;
    std::string error;  ///< Why it is not up.
    bool out = false;   ///< The plan does without it.
    std::string why_out;
  };
  std::vector<Node> nodes;
  bool up = false;          ///< Steps can be run.
  std::string why_down;     ///< Empty where it is up.
  uint64_t generation = 0;  ///< As Engine::State.
  std::string placement;    ///< Of the plan in force, in words; empty before the first.
  std::string move;         ///< Why nodes load for another plan; empty where they do not.
  std::string move_failed;  ///< Why the last move could not be made.
};

/// How much an event matters to who runs the cluster.
enum class EventWeight : uint8_t {
  kDetail,    ///< It happens at every start.
  kInfo,      ///< What is served, and by whom, is other than before.
  kWarning,   ///< Somebody should look.
  kCritical,  ///< Nothing is served.
};
std::string_view Name(EventWeight weight);  ///< "detail", "info", "warning", "critical"

struct ClusterEvent {
  int64_t id = 0;  ///< From 1 on, without gaps.
  int64_t at = 0;  ///< Unix seconds.
  /// Of a node "seen", "gone", "out", "back" or its new state (Name); of all "session", "down", "plan", "move",
  /// "move_failed".
  std::string kind;  // text: a node's state is one of them, as status and API word it
  std::string node;  ///< Empty where it is about the cluster as a whole.
  std::string text;
  EventWeight weight = EventWeight::kDetail;
};

/// What became otherwise, nodes first; ids and times are not set. Pure.
std::vector<ClusterEvent> EventsBetween(const ClusterSnapshot& before, const ClusterSnapshot& after);

/// The last kEventsMax events. For one thread at a time.
class EventLog {
 public:
  static constexpr size_t kEventsMax = 512;

  /// Numbers them, and forgets the oldest.
  void add(std::vector<ClusterEvent> events, int64_t at);
  /// Those with an id above `after`, oldest first.
  std::vector<ClusterEvent> since(int64_t after) const;
  /// The id of the last; 0: none.
  int64_t last() const { return last_; }

 private:
  std::deque<ClusterEvent> events_;
  int64_t last_ = 0;
};

}  // namespace shoal
