#include "sched/draft_runner.h"

#include <mutex>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "sched/fits.h"

namespace shoal {
namespace {

absl::Status CheckDraftLimits(const EngineLimits& limits) {
  RETURN_IF_ERROR(CheckLimits(limits));
  if (limits.state_slots == 0) return absl::OkStatus();
  return Unimplemented(
      "the model keeps states of recurrent layers, which can't go back to before a wrong draft");
}

}  // namespace

// Shared with the callbacks given to the engine, which may outlive the runner.
struct DraftRunner::Inbox {
  std::mutex mutex;
  std::vector<std::pair<uint64_t, absl::StatusOr<StepResult>>> results;  // By generation.
};

DraftRunner::DraftRunner(Engine* engine, Duration step_timeout, BatchPlanner& planner,
                         std::function<void()> wake)
    : engine_(engine),
      step_timeout_(step_timeout),
      planner_(planner),
      wake_(std::move(wake)),
      inbox_(std::make_shared<Inbox>()) {
  if (engine_ != nullptr) engine_->set_state_listener(wake_);
}

DraftRunner::~DraftRunner() = default;

void DraftRunner::receive() {
  if (engine_ == nullptr) return;
  std::vector<std::pair<uint64_t, absl::StatusOr<StepResult>>> results;
  {
    const std::lock_guard lock(inbox_->mutex);
    results.swap(inbox_->results);
  }
  for (auto& [generation, result] : results) {
    if (up_ && generation == generation_ && in_flight_.has_value()) take(std::move(result));
  }
  if (in_flight_.has_value() && in_flight_->deadline.expired()) {
    lose(DeadlineExceeded("a step took longer than {} seconds", SecondsOf(step_timeout_)));
  }
  refresh();
}

void DraftRunner::take(absl::StatusOr<StepResult> result) {
  const InFlight step = *std::exchange(in_flight_, std::nullopt);
  absl::Status status = result.status();
  if (result.ok()) status = planner_.acknowledge_draft(*result, step.rows, NowNs() - step.at_ns);
  if (!status.ok()) lose(status);
}

void DraftRunner::lose(const absl::Status& why) {
  LogWarning("no drafts by the draft model: {}", Message(why));
  in_flight_.reset();
  up_ = false;
  planner_.lose_draft_model();
  engine_->give_up(*generation_, why);
}

void DraftRunner::refresh() {
  const Engine::State state = engine_->state();
  if (!state.status.ok()) {
    if (up_) lose(state.status);
    return;
  }
  if (generation_ == state.generation) return;
  if (up_) lose(Unavailable("its engine was rebuilt"));
  generation_ = state.generation;
  if (const absl::Status fits = CheckDraftLimits(state.limits); !fits.ok()) return lose(fits);
  up_ = true;
  planner_.reset_draft_model(state.limits);
}

void DraftRunner::submit() {
  if (!up_) return;
  std::optional<Step> step = planner_.compose_draft();
  if (!step.has_value()) return;
  in_flight_ = {.rows = step->rows(), .at_ns = NowNs(), .deadline = Deadline::after(step_timeout_)};
  engine_->submit(
      *generation_, *std::move(step),
      [inbox = inbox_, wake = wake_, generation = *generation_](absl::StatusOr<StepResult> result) {
        {
          const std::lock_guard lock(inbox->mutex);
          inbox->results.emplace_back(generation, std::move(result));
        }
        wake();
      });
}

}  // namespace shoal
