#include "exec/liveness.h"

#include <algorithm>

namespace shoal {
namespace {

/// A look comes every quarter of a second, where nothing keeps the one who looks.
constexpr Duration kLook = std::chrono::milliseconds(300);

}  // namespace

WatchedTime::WatchedTime(Duration timeout)
    : pause_max_(std::max<Duration>(timeout / 8, std::min<Duration>(timeout / 3, kLook))) {}

Duration WatchedTime::look(Clock::time_point now) {
  if (last_.has_value()) passed_ += std::clamp<Duration>(now - *last_, Duration::zero(), pause_max_);
  last_ = now;
  return passed_;
}

void LivenessWatch::begin(size_t nodes, Clock::time_point now) {
  nodes_.assign(nodes, Node{});
  heard_all(now);
}

void LivenessWatch::heard_all(Clock::time_point now) {
  const Duration passed = time_.look(now);
  for (Node& node : nodes_) {
    node.heard = passed;
    node.asked = false;
  }
  probe_due_ = now + limits_.probe_after;
}

void LivenessWatch::heard(size_t node, Clock::time_point now) {
  nodes_.at(node).heard = time_.look(now);
  nodes_.at(node).asked = false;
}

std::optional<LivenessWatch::Late> LivenessWatch::late(Clock::time_point now) {
  const Duration passed = time_.look(now);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Duration silent = passed - nodes_[i].heard;
    if (nodes_[i].asked && !nodes_[i].given_up && silent > limits_.timeout) return Late{i, silent};
  }
  return std::nullopt;
}

bool LivenessWatch::probe_is_due(Clock::time_point now) {
  if (now < probe_due_) return false;
  probe_due_ = now + limits_.probe_after;
  for (Node& node : nodes_) node.asked = node.asked || !node.given_up;
  return true;
}

Clock::time_point LivenessWatch::last_heard(size_t node, Clock::time_point now) {
  return now - (time_.look(now) - nodes_.at(node).heard);
}

}  // namespace shoal
