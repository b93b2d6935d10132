#include "app/draft_host.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "app/progress.h"
#include "app/tokenizer_assets.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "sched/draft_policy.h"
#include "text/same_vocabulary.h"

namespace shoal {
namespace {

/// Its cache gets no more of the memory than one part in so many, unless that is too little for it.
constexpr int64_t kCacheShare = 16;
constexpr int64_t kPositionsMin = 4096;
/// What made it fail may do so again, and requests are answered without it.
constexpr RetryPauses kPauses{std::chrono::seconds(1), std::chrono::minutes(1)};
constexpr Duration kPoll = std::chrono::milliseconds(2);

}  // namespace

absl::StatusOr<std::unique_ptr<DraftHost>> DraftHost::Open(Options options, const OpenedModel& model,
                                                           const Tokenizer& tokenizer) {
  const std::string where = "--draft-model " + options.folder;
  std::unique_ptr<DraftHost> host(new DraftHost(std::move(options)));
  absl::StatusOr<OpenedModel> opened = OpenModel(host->options_.folder);
  if (!opened.ok()) return Annotate(opened.status(), where);
  host->model_ = *std::move(opened);
  if (KeepsState(host->model_.spec)) {
    return InvalidArgument(
        "{}: it has recurrent layers, whose states can't go back to before a wrong draft; choose a draft "
        "model with attention only",
        where);
  }
  const absl::StatusOr<Tokenizer> own = LoadTokenizer(*host->model_.checkpoint);
  if (!own.ok()) return Annotate(own.status(), where);
  RETURN_IF_ERROR(Annotate(CheckSameVocabulary(tokenizer, *own), where));
  RETURN_IF_ERROR(Annotate(host->make_plan(*model.checkpoint), where));
  RETURN_IF_ERROR(Annotate(host->make_room(), where));
  return host;
}

DraftHost::~DraftHost() = default;

// One stage, under a name that no other node of the process has: several models may have the same draft model.
absl::Status DraftHost::make_plan(const Checkpoint& drafts_for) {
  ASSIGN_OR_RETURN(Placement placement, ReadPlacement({}, options_.compute));
  placement.nodes[0].name = "draft:" + drafts_for.content_identity();
  ASSIGN_OR_RETURN(plan_, ResolvePlan(placement, model_.facts));
  plan_.epoch = Epoch{1};
  return absl::OkStatus();
}

absl::Status DraftHost::make_room() {
  const int64_t context = model_.spec.max_positions;
  int64_t positions = options_.kv_positions;
  if (positions == 0) positions = std::clamp<int64_t>(4 * context, 4096, std::max<int64_t>(65536, context));
  const int64_t block_bytes = NodeCosts(plan_, model_.facts, {kBlockPositions, 0})[0].kv_bytes;
  if (options_.memory_bytes > 0 && options_.kv_positions == 0 && block_bytes > 0) {
    const int64_t share = options_.memory_bytes / kCacheShare / block_bytes * kBlockPositions;
    positions = std::clamp(positions, int64_t{0}, std::max(share, std::min(kPositionsMin, context)));
  }
  const CacheSize size{.positions = std::max<int64_t>(positions, kBlockPositions)};
  bytes_ = NodeCosts(plan_, model_.facts, size)[0].total_bytes();
  limits_ = LimitsFor(model_.spec, plan_, size, kDraftStepRows);
  if (options_.memory_bytes == 0 || bytes_ < options_.memory_bytes) return absl::OkStatus();
  return ResourceExhausted(
      "its weights and a cache of {} positions take {}, and this node has {} for both models; choose a "
      "smaller draft model, or leave it out",
      size.positions, FormatBytes(bytes_), FormatBytes(options_.memory_bytes));
}

absl::Status DraftHost::load(std::shared_ptr<NodeHost> host,
                             std::shared_ptr<const PackedCache> packed_cache) {
  LocalCluster::Options options;
  options.weights = model_.weights;
  options.plan = plan_;
  options.limits = limits_;
  options.threads_per_node = options_.compute.chosen_threads();
  ASSIGN_OR_RETURN(options.cpus, options_.compute.chosen_cpus());
  ASSIGN_OR_RETURN(options.isa, options_.compute.chosen_isa());
  options.packed_cache = std::move(packed_cache);
  options.host = std::move(host);
  // The cluster keeps the function, the bar is for now.
  const auto bar = std::make_shared<std::optional<ProgressBar>>(std::in_place, "loading the draft model");
  options.progress = [bar](int64_t done, int64_t total) {
    if (bar->has_value()) (*bar)->update(done, total);
  };
  absl::StatusOr<std::unique_ptr<LocalCluster>> cluster = LocalCluster::Load(std::move(options));
  bar->reset();
  if (!cluster.ok()) return Annotate(cluster.status(), "--draft-model " + options_.folder);
  cluster_ = *std::move(cluster);
  supervisor_ = std::make_unique<Supervisor>(
      *cluster_, engine_, [plan = plan_] { return plan; }, kPauses);
  supervisor_->start();
  while (!engine_.state().status.ok()) {
    RETURN_IF_ERROR(supervisor_->last_attempt());
    std::this_thread::sleep_for(kPoll);
  }
  LogInfo("drafts come from '{}': {} with its cache", model_.facts.name, FormatBytes(bytes_));
  return absl::OkStatus();
}

}  // namespace shoal
