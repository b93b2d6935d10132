#include "coordinator.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "network.h"
#include "plan/left_out.h"

namespace shoal::sim {
namespace {

// As those of app/served_model.cpp.
constexpr Duration kTimeout = std::chrono::milliseconds(4500);
constexpr Duration kDescribeTimeout = std::chrono::seconds(2);
constexpr Duration kAskOutTimeout = std::chrono::milliseconds(500);
constexpr Duration kReplanTakes = std::chrono::seconds(5);

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options)
    : options_(std::move(options)),
      engine_(LivenessLimits{std::chrono::seconds(1), kTimeout}),
      replanner_(options_.attendance) {
  RemoteCluster::Options cluster;
  cluster.weights = options_.model.weights;
  cluster.members = options_.members;
  cluster.limits = [this](const Plan&) {
    return StepLimits{.context = options_.model.spec.max_positions,
                      .vocabulary = options_.model.spec.vocabulary,
                      .blocks = options_.blocks,
                      .rows_max = options_.scheduling.batch.rows_per_step};
  };
  if (options_.buddies) {
    cluster.buddies = [](const Plan& plan, const StepLimits&, const std::vector<bool>& lost) {
      constexpr int64_t kPlenty = int64_t{1} << 40;
      std::vector<BuddyFacts> facts(plan.nodes.size(), {kPlenty, kPlenty});
      for (size_t i = 0; i < lost.size(); ++i) {
        if (lost[i]) facts[i].spare_bytes = 0;
      }
      return ChooseBuddies(plan, facts, kPlenty);
    };
  }
  cluster.model_names = {options_.model.checkpoint->folder()};
  cluster.listen = AddressOf(0);
  cluster.expert_timeout = kTimeout - std::chrono::milliseconds(500);
  cluster.host = std::make_shared<NodeHost>(NodeHost::Options{
      .make_backend = [pace = options_.pace](const HostedNode&) { return MakeSlowBackend(pace); }});
  auto started = RemoteCluster::Start(std::move(cluster));
  SHOAL_CHECK(started.ok());
  cluster_ = *std::move(started);
  supervisor_ = std::make_unique<Supervisor>(
      *cluster_, engine_, [this] { return make_plan(); }, RetryPauses(), [this] { return wants_replan(); },
      [this] { return replanner_.next_grace_end(Clock::now()); });
  SchedulerOptions scheduling = options_.scheduling;
  if (options_.attendance.grace.has_value()) {
    scheduling.engine_wait = std::max(scheduling.engine_wait, *options_.attendance.grace + kReplanTakes);
  }
  scheduler_ = std::make_unique<Scheduler>(engine_, std::move(scheduling));
  supervisor_->start();
}

Coordinator::~Coordinator() {
  scheduler_->stop();
  supervisor_->stop();
}

absl::StatusOr<Plan> Coordinator::plan_without(const std::vector<bool>& out) const {
  std::vector<NodeFacts> nodes;
  for (const MemberAddress& member : options_.members) {
    NodeFacts facts{.name = member.name, .address = member.address};
    facts.may_hold_layers = std::ssize(nodes) < std::ssize(options_.members) - options_.experts_only;
    nodes.push_back(std::move(facts));
  }
  ASSIGN_OR_RETURN(const RemainingNodes left,
                   WithoutNodes(nodes, options_.request, out, ReplanAs::kBalanced));
  return MakePlan(options_.model.facts, left.nodes, left.request);
}

std::vector<MemberReport> Coordinator::reports(const MemberList& members) const {
  std::vector<MemberReport> reports;
  for (const auto& member : members) {
    const MemberStatus status = member->status();
    reports.push_back({.id = member->id(),
                       .name = status.name,
                       .losses = status.losses,
                       .failures = status.failures,
                       .heard = status.heard});
  }
  return reports;
}

absl::StatusOr<Plan> Coordinator::make_plan() {
  Members& members = cluster_->members();
  const MemberList all = members.all();
  const Clock::time_point begin = Clock::now();
  const std::vector<absl::Status> answers =
      members.describe(all, replanner_.ask_until(reports(all), begin, Deadline{begin + kDescribeTimeout}));
  std::vector<MemberReport> now = reports(all);
  for (size_t i = 0; i < now.size(); ++i) now[i].answer = answers[i];
  return replanner_.plan(
      now, [this](const std::vector<bool>& out) { return plan_without(out); }, Clock::now());
}

std::optional<Replanner::Better> Coordinator::better_plan() {
  replanner_.opened();
  Members& members = cluster_->members();
  MemberList asked;
  for (const auto& member : members.all()) {
    if (!replanner_.counts_on(member->id())) asked.push_back(member);
  }
  std::map<MemberId, absl::Status> answers;
  const std::vector<absl::Status> results = members.describe(asked, Deadline::after(kAskOutTimeout));
  for (size_t i = 0; i < asked.size(); ++i) answers[asked[i]->id()] = results[i];
  std::vector<MemberReport> now = reports(members.all());
  for (MemberReport& report : now) {
    if (const auto answer = answers.find(report.id); answer != answers.end()) report.answer = answer->second;
  }
  return replanner_.better(
      now, [this](const std::vector<bool>& out) { return plan_without(out); }, Clock::now());
}

bool Coordinator::may_disturb(const Replanner::Better& better) const {
  const SchedulerStats stats = scheduler_->stats();
  if (stats.running + stats.waiting == 0 || better.at_once) return true;
  return better.ordered || Clock::now() - better.since >= options_.rejoin_wait;
}

std::optional<Replan> Coordinator::wants_replan() {
  auto better = better_plan();
  if (!better.has_value()) return std::nullopt;
  Replan replan{.why = better->why, .plan = better->plan, .turn = {}, .adopt = {}};
  replan.turn = [this, better = *better] {
    const auto now = better_plan();
    if (!now.has_value() || now->in != better.in) return Replan::Turn::kDrop;
    return may_disturb(*now) ? Replan::Turn::kGo : Replan::Turn::kWait;
  };
  replan.adopt = [this, better = *better] { replanner_.adopt(better, Clock::now()); };
  return replan;
}

void Coordinator::drain(int worker, bool drained) {
  const MemberList members = cluster_->members().all();
  replanner_.drain(members.at(static_cast<size_t>(worker))->id(), drained);
}

}  // namespace shoal::sim
