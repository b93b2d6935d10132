#include "app/cluster_watch.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr Duration kPause = std::chrono::milliseconds(250);

std::string PlacementText(const Plan& plan) {
  std::vector<std::string> stages;
  for (const PlanStage& stage : plan.stages) {
    stages.push_back(fmt::format("{} runs layers [{}, {})", plan.node(stage.node).name, stage.layers.begin,
                                 stage.layers.end));
  }
  return Join(stages, ", ");
}

}  // namespace

ClusterSnapshot LookAt(const Members& members, const PipelineEngine& engine, const Supervisor& supervisor,
                       const std::vector<LeftOutMember>& left_out) {
  ClusterSnapshot view;
  for (const MemberStatus& status : members.status()) {
    ClusterSnapshot::Node node{.name = status.name, .state = status.state, .error = status.error};
    const auto out = std::ranges::find(left_out, status.name, &LeftOutMember::name);
    node.out = out != left_out.end();
    if (node.out) node.why_out = out->why;
    view.nodes.push_back(std::move(node));
  }
  const Engine::State state = engine.state();
  view.up = state.status.ok();
  if (!view.up) view.why_down = Message(state.status);
  view.generation = state.generation;
  if (const auto plan = supervisor.plan(); plan != nullptr) view.placement = PlacementText(*plan);
  if (const auto move = supervisor.move()) {
    view.move = move->why;
    if (!move->failed.ok()) view.move_failed = Message(move->failed);
  }
  return view;
}

void ClusterWatch::start() {
  repeater_.emplace("cluster-watch", Duration::zero(), [this] {
    const std::lock_guard lock(looking_);
    look();
    return kPause;
  });
}

void ClusterWatch::stop() {
  if (repeater_.has_value()) repeater_->stop();
}

void ClusterWatch::look() {
  ClusterSnapshot now = look_();
  const int64_t known = log_.last();
  log_.add(EventsBetween(last_, now), UnixSeconds());
  last_ = std::move(now);
  if (log_.last() > known) on_events_(log_.since(known));
}

std::string ClusterWatch::events_json(int64_t after) {
  const std::lock_guard lock(looking_);  // What is told and its `last` are of one moment.
  look();
  nlohmann::ordered_json out = {{"last", log_.last()}, {"events", nlohmann::ordered_json::array()}};
  for (const ClusterEvent& event : log_.since(after)) {
    out["events"].push_back({{"id", event.id},
                             {"at", event.at},
                             {"kind", event.kind},
                             {"node", event.node},
                             {"text", event.text}});
  }
  return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace shoal
