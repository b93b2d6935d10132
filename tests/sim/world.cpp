#include "world.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "cluster/worker_node.h"
#include "mutation.h"
#include "turns.h"

namespace shoal::sim {
namespace {

constexpr Duration kLook = std::chrono::milliseconds(50);
/// How late the end of a request may come.
constexpr Duration kSlack = std::chrono::seconds(3);

NetworkOptions NetworkOf(uint64_t seed, int machines) {
  RandomStream random(seed, /*stream=*/4);
  NetworkOptions options{.seed = seed, .machines = machines};
  options.delay_max = std::chrono::microseconds(200 + random.below(10'000));
  options.replays = random.below(3) != 0;
  return options;
}

}  // namespace

World::World(uint64_t seed, const OpenedModel& model)
    : model_(model),
      random_(seed, /*stream=*/5),
      machines_(2 + static_cast<int>(RandomBits(seed, 6, 0) % 3)),
      asks_(seed, model.spec),
      network_(NetworkOf(seed, machines_)),
      busy_(static_cast<size_t>(machines_)) {
  for (int i = 0; i < machines_; ++i) paces_.push_back(std::make_shared<MachinePace>());
  options_ = coordinator_options();
  options_.buddies = RandomBits(seed, 8, 0) % 2 == 0;
}

CoordinatorOptions World::coordinator_options() {
  CoordinatorOptions options{.model = model_};
  for (int i = 0; i < machines_; ++i) {
    options.members.push_back(
        {i == 0 ? "coordinator" : fmt::format("worker-{}", i), i == 0 ? "" : AddressOf(i)});
  }
  options.request.strategy = LayerStrategy::kUniform;
  options.request.coordinator_holds_layers = random_.below(3) != 0;
  constexpr ExpertStrategy kExperts[] = {ExpertStrategy::kWithLayer, ExpertStrategy::kRoundRobin,
                                         ExpertStrategy::kContiguous};
  options.request.experts.strategy = kExperts[random_.below(3)];
  if (options.request.experts.strategy != ExpertStrategy::kWithLayer) {
    options.request.experts.replicas = random_.below(3) == 0 ? 0 : 1;
    options.experts_only = static_cast<int>(random_.below(static_cast<uint64_t>(machines_ - 1)));
  }
  options.attendance.grace = seconds(0.5, 8);
  options.attendance.hold = seconds(1, 5);
  options.rejoin_wait = seconds(0, 10);
  options.blocks = 10 + static_cast<int32_t>(random_.below(40));
  options.scheduling.batch.rows_per_step = 16 + static_cast<int>(random_.below(80));
  options.scheduling.batch.prefix_cache = random_.below(8) != 0;
  options.scheduling.batch.draft_max = random_.below(2) == 0 ? 0 : 4;
  options.scheduling.batch.draft_when = DraftWhen::kAlways;
  options.pace = paces_[0];
  return options;
}

std::shared_ptr<Coordinator> World::coordinator() const {
  const std::lock_guard lock(mutex_);
  return coordinator_;
}

Duration World::seconds(double from, double to) {
  return FromSeconds(from + (to - from) * random_.uniform());
}

std::pair<int, int> World::any_two() {
  const int a = any_machine();
  const int b =
      static_cast<int>((static_cast<uint64_t>(a) + 1 + random_.below(static_cast<uint64_t>(machines_ - 1))) %
                       static_cast<uint64_t>(machines_));
  return {a, b};
}

void World::start_worker(int machine) {
  CurrentTurns()->set_machine(machine);
  network_.boot(machine);
  WorkerNode::Options options;
  options.name = fmt::format("worker-{}", machine);
  options.listen = AddressOf(machine);
  options.model_roots = {model_.checkpoint->folder()};
  options.make_backend = [pace = paces_[static_cast<size_t>(machine)]] { return MakeSlowBackend(pace); };
  auto worker = WorkerNode::Start(std::move(options));
  SHOAL_CHECK(worker.ok());
  network_.serve(machine, *std::move(worker));
  CurrentTurns()->set_machine(0);
}

void World::start_coordinator() {
  network_.boot(0);
  auto started = std::make_shared<Coordinator>(options_);
  const std::lock_guard lock(mutex_);
  coordinator_ = std::move(started);
}

Tally World::run() {
  for (int machine = 1; machine < machines_; ++machine) start_worker(machine);
  start_coordinator();
  std::vector<Ask> asks;
  for (uint64_t i = 0, count = 3 + random_.below(7); i < count; ++i) asks.push_back(asks_.make());
  std::vector<std::thread> threads;
  for (const Ask& ask : asks) threads.emplace_back([this, &ask] { run_client(ask); });
  threads.emplace_back([this] { watch_counts(); });
  run_faults();
  // Whatever went wrong is over: the cluster serves again, without a person.
  const Ask last = asks_.patient();
  const int finished = tally_.finished;
  run_client(last);
  if (tally_.finished == finished) FailSeed("the cluster does not serve after the faults are over");
  for (size_t i = 0; i + 1 < threads.size(); ++i) threads[i].join();
  check_idle();
  if (slow_only_) check_nobody_was_given_up();
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  threads.back().join();
  std::shared_ptr<Coordinator> ended;
  {
    const std::lock_guard lock(mutex_);
    ended = std::move(coordinator_);
  }
  tally_.restored = ended->restored();
  ended.reset();
  for (int machine = 0; machine < machines_; ++machine) network_.crash(machine);
  tally_.trace = CurrentTurns()->trace();
  return tally_;
}

// ------------------------------------------------------------------------------------------------------ clients

void World::run_client(const Ask& ask) {
  std::this_thread::sleep_for(ask.begins_after);
  const Deadline deadline = Deadline::after(ask.patience);
  // Who lost the coordinator asks again.
  while (!ask_once(ask, deadline)) std::this_thread::sleep_for(4 * kLook);
}

bool World::ask_once(const Ask& ask, Deadline deadline) {
  const std::shared_ptr<Coordinator> asked = coordinator();
  if (asked == nullptr) return false;
  std::vector<GenerationRequest> choices = ask.choices;
  for (GenerationRequest& choice : choices) choice.deadline = deadline;
  const auto sink = std::make_shared<CheckingSink>(ask);
  const auto id = asked->scheduler().submit(std::move(choices), sink);
  if (!id.ok()) {
    if (absl::IsCancelled(id.status())) return false;  // It is ending.
    FailSeed("refused: " + ToString(id.status()));
  }
  const Clock::time_point cancels =
      ask.cancels_after.has_value() ? Clock::now() + *ask.cancels_after : Clock::time_point::max();
  bool cancelled = false;
  while (
      !sink->wait_until(std::min({Clock::now() + 4 * kLook, cancelled ? deadline.at + kSlack : cancels}))) {
    if (coordinator() != asked) break;
    if (!cancelled && Clock::now() >= cancels) {
      asked->scheduler().cancel(*id);
      cancelled = true;
    }
    if (Clock::now() >= deadline.at + kSlack) {
      FailSeed(fmt::format("request {} hangs beyond its deadline", ask.choices.front().id));
    }
  }
  if (coordinator() != asked) {
    const std::lock_guard lock(mutex_);
    ++tally_.asked_again;
    return false;
  }
  judge(ask, *sink, cancelled);
  return true;
}

void World::judge(const Ask& ask, const CheckingSink& sink, bool cancelled) {
  const absl::Status outcome = sink.outcome();
  if (outcome.ok()) check_tokens(ask, sink);
  const std::lock_guard lock(mutex_);
  if (outcome.ok()) {
    ++tally_.finished;
  } else if (cancelled && absl::IsCancelled(outcome)) {
    ++tally_.cancelled;
  } else if (ask.impatient && (absl::IsDeadlineExceeded(outcome) || absl::IsUnavailable(outcome))) {
    ++tally_.late;
  } else if (tally_.faults > 0 && absl::IsUnavailable(outcome)) {
    ++tally_.lost;
  } else {
    const SchedulerStats stats = coordinator_->scheduler().stats();
    FailSeed(fmt::format(
        "request {} ends with: {}; {} run, {} wait, {} steps are out, {} of {} blocks are free, {} cached",
        ask.choices.front().id, ToString(outcome), stats.running, stats.waiting, stats.steps_in_flight,
        stats.blocks_free, stats.blocks_total, stats.blocks_cached));
  }
}

void World::check_tokens(const Ask& ask, const CheckingSink& sink) {
  for (size_t i = 0; i < ask.choices.size(); ++i) {
    const GenerationRequest& request = ask.choices[i];
    const std::vector<int32_t> expected = ExpectedTokens(model_.spec, request);
    const std::vector<int32_t> got = sink.tokens(static_cast<int>(i));
    if (got != expected) {
      const auto [at, other] = std::ranges::mismatch(got, expected);
      FailSeed(fmt::format("request {}: token {} differs from an undisturbed run's; {} tokens, expected {}",
                           request.id, at - got.begin(), got.size(), expected.size()));
    }
    if (request.score_prompt && sink.scores(static_cast<int>(i)) + 1 != request.prompt.size()) {
      FailSeed(fmt::format("request {}: scores of {} tokens of a prompt of {}", request.id,
                           sink.scores(static_cast<int>(i)), request.prompt.size()));
    }
  }
}

// I7, at all times.
void World::watch_counts() {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
    }
    if (const auto watched = coordinator()) {
      const SchedulerStats stats = watched->scheduler().stats();
      if (stats.blocks_free + stats.blocks_used + stats.blocks_cached != stats.blocks_total) {
        FailSeed(fmt::format("{} blocks are free, {} used, {} cached, of {}", stats.blocks_free,
                             stats.blocks_used, stats.blocks_cached, stats.blocks_total));
      }
    }
    std::this_thread::sleep_for(kLook);
  }
}

// Nothing is left of requests that have ended.
void World::check_idle() {
  const Deadline deadline = Deadline::after(std::chrono::seconds(10));
  while (true) {
    const SchedulerStats stats = coordinator()->scheduler().stats();
    if (stats.running + stats.waiting + stats.steps_in_flight + stats.blocks_used == 0) return;
    if (deadline.expired()) {
      FailSeed(
          fmt::format("all requests have ended, but {} run, {} wait, {} steps are out, {} blocks are used",
                      stats.running, stats.waiting, stats.steps_in_flight, stats.blocks_used));
    }
    std::this_thread::sleep_for(kLook);
  }
}

// Slow is not dead.
void World::check_nobody_was_given_up() {
  const PipelineEngine& engine = coordinator()->engine();
  const uint64_t sessions = engine.state().generation;
  if (sessions == 1 && engine.lost().empty()) return;
  FailSeed(fmt::format("nothing broke, but there were {} sessions, and the last one gave {} nodes up",
                       sessions, engine.lost().size()));
}

}  // namespace shoal::sim
