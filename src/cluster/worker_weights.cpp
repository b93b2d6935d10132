#include "cluster/worker_weights.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/content_hash.h"

namespace shoal {
namespace {

constexpr Duration kTurnMax = std::chrono::seconds(2);
constexpr size_t kSourcesMax = 9;  ///< The coordinator and some peers: more fill no link better.
constexpr int kSkeletonAttempts = 5;
constexpr Duration kSkeletonPause = std::chrono::milliseconds(300);
/// A chunk may have a few bytes, and each report is a message to the coordinator.
constexpr int64_t kReportPauseNs = 100'000'000;

/// What this node's copy is called: the same bytes give the same name on every node and after every start.
std::string IdentityOf(const PrepareOrder& order) {
  return ContentHashHex(fmt::format("fetched {} {}", order.model_hash, order.weights_content));
}

}  // namespace

void WorkerWeights::use(const PrepareOrder& order, const std::function<bool()>& cancelled) {
  Sources sources;
  for (size_t i = 0; i < order.plan.nodes.size() && sources.size() < kSourcesMax; ++i) {
    const PlanNode& node = order.plan.nodes[i];
    if (NodeId{static_cast<int32_t>(i)} == order.node) continue;
    sources.push_back(std::make_unique<RemoteShelf>(
        RemoteShelf::Options{node.name, node.address, options_.key, order.model_hash}));
  }
  const std::lock_guard lock(mutex_);
  sources_ = std::move(sources);
  beside_of_ = order.beside ? order.model_hash : "";
  if (stopped_ || cancelled()) {
    for (const auto& source : sources_) source->cancel();
  }
}

absl::Status WorkerWeights::begin(const PrepareOrder& order, FetchedModel& files) {
  absl::StatusOr<ModelSkeleton> skeleton = Unavailable("nobody was asked");
  for (int attempt = 0; attempt < kSkeletonAttempts && absl::IsUnavailable(skeleton.status()); ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kSkeletonPause * attempt);
    skeleton = sources_.front()->skeleton();
  }
  RETURN_IF_ERROR(skeleton.status());
  RETURN_IF_ERROR(options_.store->make_room(order.model_hash, skeleton->bytes()));
  return files.begin(*skeleton, order.weights_content);
}

absl::StatusOr<OpenedModel> WorkerWeights::open(const PrepareOrder& order, FetchedModel& files) {
  const bool begun = files.begun_for(order.weights_content);
  if (!begun) RETURN_IF_ERROR(begin(order, files));
  auto weights = ResolvedWeights::Open(files.path(), IdentityOf(order));
  if (begun && (!weights.ok() || (*weights)->checkpoint().hash() != order.model_hash)) {
    LogWarning("{}: damaged, asked for again", files.path());
    RETURN_IF_ERROR(begin(order, files));
    weights = ResolvedWeights::Open(files.path(), IdentityOf(order));
  }
  RETURN_IF_ERROR(weights.status());
  if ((*weights)->checkpoint().hash() != order.model_hash) {
    return FailedPrecondition("the coordinator's files are of the model with hash {}, its plan of {}",
                              (*weights)->checkpoint().hash(), order.model_hash);
  }
  if (!files.has_files_of((*weights)->checkpoint())) {
    return InvalidArgument(
        "the coordinator named its model's files in another order than they are opened in");
  }
  return MeasureModel(*std::move(weights), order.model_names.empty() ? "" : order.model_names.back());
}

absl::Status WorkerWeights::fetch_chunks(const OpenedModel& model, const NodeShard& shard,
                                         FetchedModel& files, const PrepareProgress& progress,
                                         const std::function<bool()>& cancelled) {
  const Checkpoint& checkpoint = *model.checkpoint;
  std::vector<TensorChunk> chunks =
      ChunksOf(*model.weights, [&](const WeightUse& use) { return shard.holds(use); });
  int64_t lacking = 0;
  for (const TensorChunk& chunk : chunks) {
    ASSIGN_OR_RETURN(const std::optional<FilePlace> place, Locate(checkpoint, chunk));
    if (place.has_value() && !files.verified(*place) && !files.written(*place)) lacking += chunk.bytes;
  }
  RETURN_IF_ERROR(options_.store->make_room(checkpoint.hash(), lacking));
  FetchOptions options;
  const std::string table = TensorTableHash(checkpoint);
  for (const auto& source : sources_) {
    source->set_table(table);
    options.sources.push_back(source.get());
  }
  options.cancelled = [&] { return stopped() || cancelled(); };
  int64_t told_ns = 0;
  options.progress = [&](int64_t done, int64_t total) {
    {
      const std::lock_guard lock(mutex_);
      progress_ = {done, total};
    }
    if (done < total && NowNs() - told_ns < kReportPauseNs) return;
    told_ns = NowNs();
    if (progress) progress(done, total);
  };
  const int64_t began_ns = NowNs();
  const absl::StatusOr<FetchReport> report = FetchChunks(files, checkpoint, std::move(chunks), options);
  RETURN_IF_ERROR(report.status());
  RETURN_IF_ERROR(files.keep());
  LogInfo("fetched {} of weights ({} bytes) from {} nodes in {:.2f} s; {} were here; {} chunks came damaged",
          FormatBytes(report->bytes), report->bytes, report->sources,
          static_cast<double>(NowNs() - began_ns) * 1e-9, FormatBytes(report->here_bytes), report->damaged);
  return absl::OkStatus();
}

absl::StatusOr<WorkerWeights::Fetched> WorkerWeights::fetch(
    const PrepareOrder& order, const NodeShard& shard,
    const std::function<absl::Status(const OpenedModel&)>& check, const PrepareProgress& progress,
    const std::function<bool()>& cancelled) {
  const std::unique_lock turn(turn_, kTurnMax);
  if (!turn.owns_lock()) return Unavailable("weights are being fetched, try again");
  if (stopped()) return Cancelled("the worker is stopping");
  ASSIGN_OR_RETURN(const std::shared_ptr<FetchedModel> files, options_.store->model(order.model_hash));
  use(order, cancelled);
  Fetched fetched{.model = {}, .files = files};
  const absl::Status status = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(fetched.model, open(order, *files));
    RETURN_IF_ERROR(check(fetched.model));
    RETURN_IF_ERROR(fetch_chunks(fetched.model, shard, *files, progress, cancelled));
    // Not every file system shows in a map what was written after it was made.
    ASSIGN_OR_RETURN(fetched.model, open(order, *files));
    return absl::OkStatus();
  }();
  Sources ended;
  {
    const std::lock_guard lock(mutex_);
    progress_ = {};
    beside_of_.clear();
    ended = std::exchange(sources_, {});
  }
  RETURN_IF_ERROR(status);
  return fetched;
}

WorkerWeights::Progress WorkerWeights::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

bool WorkerWeights::stopped() const {
  const std::lock_guard lock(mutex_);
  return stopped_;
}

void WorkerWeights::interrupt(const std::string& model_hash) {
  const std::lock_guard lock(mutex_);
  if (beside_of_ != model_hash) return;
  for (const auto& source : sources_) source->cancel();
}

void WorkerWeights::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  for (const auto& source : sources_) source->cancel();
}

}  // namespace shoal
