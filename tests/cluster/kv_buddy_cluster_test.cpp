// A worker with layers is lost while sequences run, and its buddy has copies of what it cached: every family goes on with
// the tokens of an undisturbed run, without a prefill.
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "cluster/model_locator.h"
#include "cluster/remote_cluster.h"
#include "cluster/worker_node.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "plan/planner.h"
#include "sched/scheduler.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

constexpr int kSequences = 2;
constexpr int64_t kPromptTokens = 150;
constexpr int64_t kMaxTokens = 30;
constexpr size_t kHeldAt = 12;
constexpr Duration kPatience = std::chrono::seconds(120);

/// Holds the scheduler when a sequence has so many tokens, until it is let go: what runs then stays as it is.
class Gate {
 public:
  void pass(size_t tokens) {
    std::unique_lock lock(mutex_);
    if (tokens < kHeldAt) return;
    held_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [this] { return released_; });
  }
  bool wait_held() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [this] { return held_; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool released_ = false;
};

class GatedSink final : public RecordingSink {
 public:
  explicit GatedSink(Gate& gate) : gate_(gate) {}
  bool on_tokens(int choice, std::span<const SampledToken> tokens) override {
    const bool more = RecordingSink::on_tokens(choice, tokens);
    gate_.pass(this->tokens().size());
    return more;
  }

 private:
  Gate& gate_;
};

/// A family's tiny model, and what its cache holds.
struct Cached {
  std::string family;
  Plan::KvDtype kv = Plan::KvDtype::kF16;
  std::string name() const {
    return kv == Plan::KvDtype::kF16 ? family : family + "_" + std::string(Name(kv));
  }
};
std::ostream& operator<<(std::ostream& out, const Cached& cached) { return out << cached.name(); }

class KvBuddyCluster : public ::testing::TestWithParam<Cached> {
 protected:
  KvBuddyCluster() {
    folder_ = TinyCheckpoint(GetParam().family, AffineFormat{4, 64});
    auto model = OpenModel(folder_);
    SHOAL_CHECK(model.ok());
    model_ = std::move(*model);
    for (int i = 0; i < 2; ++i) start_worker(i, 0);
    RemoteCluster::Options options;
    options.weights = model_.weights;
    options.members = {{"coordinator", ""}};
    for (const auto& worker : workers_) {
      options.members.push_back(
          {fmt::format("worker-{}", options.members.size()), fmt::format("127.0.0.1:{}", worker->port())});
      ports_.push_back(worker->port());
    }
    options.limits = [this](const Plan& plan) { return limits(plan); };
    options.buddies = [this](const Plan& plan, const StepLimits&, const std::vector<bool>& lost) {
      constexpr int64_t kPlenty = int64_t{1} << 40;
      std::vector<BuddyFacts> facts(plan.nodes.size(), {kPlenty, kPlenty});
      if (!coordinator_keeps_) facts[0].spare_bytes = 0;
      for (size_t i = 0; i < lost.size(); ++i) {
        if (lost[i]) facts[i].spare_bytes = 0;
      }
      return ChooseBuddies(plan, facts, kPlenty);
    };
    options.model_names = ModelNames(folder_, "");
    options.isa = SupportedIsas().back();
    options.expert_timeout = kLocalTimeout;
    auto cluster = RemoteCluster::Start(std::move(options));
    SHOAL_CHECK(cluster.ok());
    cluster_ = std::move(*cluster);
  }
  ~KvBuddyCluster() override {
    gate_.release();
    scheduler_.reset();
    cluster_->close(engine_, Cancelled("done"));
  }

  StepLimits limits(const Plan& plan) const {
    return {
        model_.spec.max_positions, model_.spec.vocabulary, 64, 40,
        KeepsState(model_.spec) ? static_cast<int>(4 * StateSlotsPerSequence(std::ssize(plan.stages))) : 0};
  }

  void start_worker(size_t i, int port) {
    WorkerNode::Options options;
    options.name = fmt::format("worker-{}", i + 1);
    options.listen = fmt::format("127.0.0.1:{}", port);
    options.model_roots = {std::filesystem::path(folder_).parent_path().string()};
    options.isa = SupportedIsas().back();
    options.memory_bytes = memory_bytes_;
    auto worker = WorkerNode::Start(std::move(options));
    SHOAL_CHECK(worker.ok());
    workers_.resize(std::max(workers_.size(), i + 1));
    workers_[i] = std::move(*worker);
  }

  /// Over the coordinator and those of the workers.
  Plan plan_over(const std::vector<size_t>& workers) {
    std::vector<NodeFacts> nodes = {{.name = "coordinator"}};
    for (const size_t i : workers) {
      nodes.push_back(
          {.name = fmt::format("worker-{}", i + 1), .address = fmt::format("127.0.0.1:{}", ports_[i])});
    }
    PlanRequest request;
    request.strategy = LayerStrategy::kUniform;
    request.kv_dtype = GetParam().kv;
    if (model_.facts.top_k > 0) request.experts.strategy = ExpertStrategy::kRoundRobin;
    auto plan = MakePlan(model_.facts, nodes, request);
    SHOAL_CHECK(plan.ok());
    plan->epoch = Epoch{++epoch_};
    return *plan;
  }

  void begin() {
    ASSERT_EQ(cluster_->open(plan_over({0, 1}), engine_), absl::OkStatus());
    scheduler_ = std::make_unique<Scheduler>(engine_, SchedulerOptions{.batch = {.rows_per_step = 40}});
    for (int i = 0; i < kSequences; ++i) {
      sinks_.push_back(std::make_shared<GatedSink>(gate_));
      ASSERT_TRUE(scheduler_->submit(request(i), sinks_.back()).ok());
    }
    ASSERT_TRUE(gate_.wait_held());
  }
  GenerationRequest request(int index) const {
    RandomStream random(static_cast<uint64_t>(index));
    GenerationRequest request;
    request.prompt.resize(static_cast<size_t>(kPromptTokens + 9 * index));
    for (int32_t& id : request.prompt) {
      id = static_cast<int32_t>(random.below(static_cast<uint64_t>(model_.spec.vocabulary)));
    }
    request.max_tokens = kMaxTokens;
    request.sampling = {.temperature = index == 0 ? 0 : 0.8f, .presence_penalty = 0.4f, .seed = 7};
    request.deadline = Deadline::after(2 * kPatience);
    return request;
  }

  /// Until the buddies have a copy of each full block of the prompts, of each worker with layers.
  void wait_for_copies(int64_t workers) {
    const int64_t blocks = kSequences * (kPromptTokens / kBlockPositions);
    int64_t copies = 0;
    // States are copied, too, and a node has some only where its layers keep states: until no more come for a while.
    Deadline quiet = Deadline::after_ms(500);
    for (const Deadline deadline = Deadline::after(kPatience);
         !deadline.expired() && (copies < workers * blocks || !quiet.expired());) {
      int64_t now = cluster_->host().report().front().copies.places;
      for (const MemberStatus& member : cluster_->status(Deadline::after_ms(5000))) {
        if (member.facts.has_value()) now += member.facts->copies;
      }
      if (now != copies) quiet = Deadline::after_ms(500);
      copies = now;
    }
    EXPECT_GE(copies, workers * blocks);
  }

  /// Of copies that the worker keeps.
  int64_t copies_bytes(size_t worker) {
    const std::vector<MemberStatus> members = cluster_->status(Deadline::after_ms(5000));
    const auto& facts = members[worker + 1].facts;
    return facts.has_value() ? facts->copies_bytes : 0;
  }
  bool wait_for_some_copies(size_t worker) {
    for (const Deadline deadline = Deadline::after(kPatience); !deadline.expired();) {
      if (copies_bytes(worker) > 0) return true;
    }
    return false;
  }

  /// The plan is opened as a supervisor does, after the session was lost.
  void open_again(const Plan& plan) {
    for (const Deadline deadline = Deadline::after(kPatience);
         engine_.state().status.ok() && !deadline.expired();)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const absl::Status why = engine_.state().status;
    ASSERT_FALSE(why.ok());
    gate_.release();
    cluster_->close(engine_, why);
    (void)cluster_->status(Deadline::after_ms(5000));  // Who is gone is seen to be.
    ASSERT_EQ(cluster_->open(plan, engine_), absl::OkStatus());
  }
  std::vector<std::vector<int32_t>> answers() {
    std::vector<std::vector<int32_t>> answers;
    gate_.release();
    for (const auto& sink : sinks_) {
      for (int waits = 0; waits < 20 && !sink->wait_end();) ++waits;
      EXPECT_TRUE(sink->error().ok()) << ToString(sink->error());
      answers.push_back(sink->tokens());
    }
    stats_ = scheduler_->stats();
    return answers;
  }
  /// The answers are those of one node.
  void expect_undisturbed(const std::vector<std::vector<int32_t>>& answers) {
    scheduler_.reset();
    cluster_->close(engine_, Cancelled("done"));
    sinks_.clear();
    coordinator_keeps_ = true;
    ASSERT_EQ(cluster_->open(plan_over({}), engine_), absl::OkStatus());
    scheduler_ = std::make_unique<Scheduler>(engine_, SchedulerOptions{.batch = {.rows_per_step = 40}});
    for (int i = 0; i < kSequences; ++i) {
      const auto sink = std::make_shared<RecordingSink>();
      ASSERT_TRUE(scheduler_->submit(request(i), sink).ok());
      for (int waits = 0; waits < 20 && !sink->wait_end();) ++waits;
      EXPECT_EQ(answers[static_cast<size_t>(i)], sink->tokens()) << "sequence " << i;
    }
  }
  /// Rows that were computed, beyond those of the prompts and the tokens.
  int64_t computed_again() const {
    int64_t rows = stats_.rows;
    for (int i = 0; i < kSequences; ++i) rows -= kPromptTokens + 9 * i + kMaxTokens - 1;
    return rows;
  }

  std::string folder_;
  OpenedModel model_;
  std::vector<std::unique_ptr<WorkerNode>> workers_;
  std::vector<int> ports_;
  std::unique_ptr<RemoteCluster> cluster_;
  PipelineEngine engine_{kLocalLiveness};
  Gate gate_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::shared_ptr<GatedSink>> sinks_;
  SchedulerStats stats_;
  int64_t memory_bytes_ = 0;  ///< Of workers that start; 0: no limit.
  uint32_t epoch_ = 0;
  bool coordinator_keeps_ = true;
};

TEST_P(KvBuddyCluster, TheLossOfAWorkerWithLayersCostsNoPrefill) {
  begin();
  wait_for_copies(2);
  workers_[0].reset();
  open_again(plan_over({1}));
  const auto tokens = answers();
  EXPECT_GT(cluster_->restored(), 0);
  EXPECT_GE(computed_again(), 0);
  // Of each sequence the blocks that were not full, or not copied: none of them of its prompt alone.
  EXPECT_LE(computed_again(), kSequences * (kBlockPositions + static_cast<int64_t>(kHeldAt) + 2));
  expect_undisturbed(tokens);
}

TEST_P(KvBuddyCluster, AWorkerThatIsBackGetsWhatItHadCachedFromItsBuddy) {
  begin();
  wait_for_copies(2);
  workers_[0].reset();
  start_worker(0, ports_[0]);
  open_again(plan_over({0, 1}));
  const auto tokens = answers();
  EXPECT_GT(cluster_->restored(), 0);
  EXPECT_LE(computed_again(), kSequences * (kBlockPositions + static_cast<int64_t>(kHeldAt) + 2));
  expect_undisturbed(tokens);
}

TEST_P(KvBuddyCluster, WhereTheBuddyIsLostTooAllIsComputedAgain) {
  coordinator_keeps_ = false;  // The workers are each other's buddies.
  begin();
  wait_for_copies(2);
  workers_[0].reset();
  workers_[1].reset();
  open_again(plan_over({}));
  const auto tokens = answers();
  EXPECT_EQ(cluster_->restored(), 0);
  EXPECT_GE(computed_again(), kSequences * kPromptTokens);
  expect_undisturbed(tokens);
}

using KvBuddyExperts = KvBuddyCluster;
TEST_P(KvBuddyExperts, CopiesGiveWayToWeightsThatAreLoadedBesideTheSession) {
  coordinator_keeps_ = false;  // The workers are each other's buddies.
  const Plan plan = plan_over({0, 1});
  Plan next = plan_over({0, 1});
  for (auto& layer : next.experts) {
    for (ExpertHolders& holders : layer) holders.owner = NodeId{(holders.owner.value + 1) % 3};
  }
  // The worker has room for both shards and the cache, and for nothing beside.
  const NodeShard shard = ShardOf(plan, NodeId{2});
  memory_bytes_ = ShardBytes(model_.spec, model_.footprint, shard) +
                  BytesBeside(model_.spec, model_.footprint, shard, ShardOf(next, NodeId{2}), 0) +
                  CacheBytes(model_.facts, shard, plan.kv_dtype, limits(plan));
  workers_[1].reset();
  start_worker(1, ports_[1]);
  begin();
  ASSERT_TRUE(wait_for_some_copies(1));
  next.epoch = Epoch{++epoch_};
  ASSERT_EQ(cluster_->prepare(next), absl::OkStatus());
  EXPECT_EQ(copies_bytes(1), 0);
  cluster_->close(engine_, Cancelled("a new plan"));
  gate_.release();
  ASSERT_EQ(cluster_->open(next, engine_), absl::OkStatus());
  EXPECT_TRUE(wait_for_some_copies(1));  // What was loaded beside took the place of the other shard.
  expect_undisturbed(answers());
}
INSTANTIATE_TEST_SUITE_P(Tight, KvBuddyExperts, testing::Values(Cached{"qwen3_moe"}));

// A copy knows nothing of the family, only of its cache: keys and values, latent ones, windows, states, or both.
INSTANTIATE_TEST_SUITE_P(Caches, KvBuddyCluster,
                         testing::Values(Cached{"qwen3_moe"}, Cached{"deepseek_v3"}, Cached{"gpt_oss"},
                                         Cached{"gemma4"}, Cached{"qwen3_5_moe"}, Cached{"falcon_h1"},
                                         Cached{"qwen3_moe", Plan::KvDtype::kQ8},
                                         Cached{"deepseek_v3", Plan::KvDtype::kQ8}),
                         [](const auto& cached) { return cached.param.name(); });

}  // namespace
}  // namespace shoal
