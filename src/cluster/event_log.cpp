#include "cluster/event_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace shoal {
namespace {

std::string StateText(const ClusterSnapshot::Node& node) {
  switch (node.state) {
    case MemberState::kLoading:
      return "loads its weights";
    case MemberState::kReady:
      return "holds its weights";
    case MemberState::kUp:
      return "takes part in the session";
    case MemberState::kIdle:
      return "is there, without weights";
    case MemberState::kLost:
      return "is lost: " + node.error;
    case MemberState::kFailed:
      return "failed: " + node.error;
    case MemberState::kUnknown:
      break;
  }
  return "was not asked so far";
}

EventWeight WeightOf(std::string_view kind) {
  constexpr std::string_view kInfos[] = {"back", "gone", "move", "plan", "session"};
  constexpr std::string_view kWarnings[] = {"failed", "lost", "move_failed", "out"};
  if (kind == "down") return EventWeight::kCritical;
  if (std::ranges::find(kWarnings, kind) != std::end(kWarnings)) return EventWeight::kWarning;
  if (std::ranges::find(kInfos, kind) != std::end(kInfos)) return EventWeight::kInfo;
  return EventWeight::kDetail;
}

void CompareNode(const ClusterSnapshot::Node& before, const ClusterSnapshot::Node& after,
                 std::vector<ClusterEvent>& events) {
  const auto add = [&](std::string kind, std::string text) {
    events.push_back({.kind = std::move(kind), .node = after.name, .text = std::move(text)});
  };
  if (before.state != after.state && after.state != MemberState::kUnknown)
    add(std::string(Name(after.state)), StateText(after));
  if (!before.out && after.out) add("out", "the plan does without it: " + after.why_out);
  if (before.out && !after.out) add("back", "plans count on it again");
}

}  // namespace

std::string_view Name(EventWeight weight) {
  constexpr std::string_view kNames[] = {"detail", "info", "warning", "critical"};
  return kNames[static_cast<size_t>(weight)];
}

std::vector<ClusterEvent> EventsBetween(const ClusterSnapshot& before, const ClusterSnapshot& after) {
  std::vector<ClusterEvent> events;
  for (const ClusterSnapshot::Node& node : after.nodes) {
    const auto known = std::ranges::find(before.nodes, node.name, &ClusterSnapshot::Node::name);
    if (known == before.nodes.end()) {
      events.push_back({.kind = "seen", .node = node.name, .text = "is a member from now on"});
      CompareNode({.name = node.name}, node, events);
    } else {
      CompareNode(*known, node, events);
    }
  }
  for (const ClusterSnapshot::Node& node : before.nodes) {
    if (std::ranges::find(after.nodes, node.name, &ClusterSnapshot::Node::name) == after.nodes.end())
      events.push_back({.kind = "gone", .node = node.name, .text = "is no member any more"});
  }
  const auto add = [&](const char* kind, std::string text) {
    events.push_back({.kind = kind, .text = std::move(text)});
  };
  if (!after.move.empty() && after.move != before.move) add("move", after.move);
  if (!after.move_failed.empty() && after.move_failed != before.move_failed)
    add("move_failed", "the plan stays as it is: " + after.move_failed);
  const bool rebuilt = after.up && after.generation != before.generation;
  if (before.up && (!after.up || rebuilt))
    add("down", after.up ? "the session ended, for another one" : "no steps run: " + after.why_down);
  if (!after.placement.empty() && after.placement != before.placement) add("plan", after.placement);
  if (after.up && (!before.up || rebuilt))
    add("session", fmt::format("session {} is open", after.generation));
  for (ClusterEvent& event : events) {
    // A session that ended for another one, which is there already, is no outage.
    event.weight = rebuilt && event.kind == "down" ? EventWeight::kInfo : WeightOf(event.kind);
  }
  return events;
}

void EventLog::add(std::vector<ClusterEvent> events, int64_t at) {
  for (ClusterEvent& event : events) {
    event.id = ++last_;
    event.at = at;
    events_.push_back(std::move(event));
  }
  while (events_.size() > kEventsMax) events_.pop_front();
}

std::vector<ClusterEvent> EventLog::since(int64_t after) const {
  const auto first = std::ranges::upper_bound(events_, after, {}, &ClusterEvent::id);
  return {first, events_.end()};
}

}  // namespace shoal
