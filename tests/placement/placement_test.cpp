// The logits of a sequence are the same bits for every placement, chunking, batch mix, thread count and
// instruction set (docs/numerics.md). Combinations of these factors are covered pairwise.
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "cluster/local_cluster.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "exec/sequence_cursor.h"
#include "harness/golden.h"
#include "harness/sweep.h"
#include "measure/logits_probe.h"
#include "models/family.h"
#include "placement/pairwise.h"
#include "placement/running_plan.h"
#include "plan/planner.h"

namespace shoal {
namespace {

constexpr int64_t kPromptTokens = 70;  // Crosses block boundaries, and a chunk of 64.
constexpr int64_t kGreedyTokens = 5;

/// A placement as a request to the planner, for any number of layers and experts.
struct Placed {
  std::string name;
  int nodes = 1;
  /// Proportions of the layers per node; 0: no layers.
  std::vector<int> weights;
  ExpertStrategy experts = ExpertStrategy::kWithLayer;
  uint64_t seed = 0;
  int replicas = 0;
};

const std::vector<Placed>& Placements() {
  static const std::vector<Placed> kAll = {
      {"one node", 1, {1}},
      {"uneven pair", 2, {1, 6}},
      {"other uneven pair", 2, {5, 2}},
      {"three stages", 3, {3, 1, 3}},
      {"four stages", 4, {1, 1, 1, 4}},
      {"experts over two", 2, {1, 0}, ExpertStrategy::kContiguous},
      {"experts over four, one stage", 4, {1, 0, 0, 0}, ExpertStrategy::kRoundRobin},
      {"both at random", 3, {2, 4, 1}, ExpertStrategy::kRandom, 11},
      {"both at random, four", 4, {1, 3, 1, 2}, ExpertStrategy::kRandom, 12},
      {"owning each other's", 2, {3, 4}, ExpertStrategy::kRoundRobin},
      {"replicas", 3, {2, 2, 3}, ExpertStrategy::kRandom, 13, 1},
      {"coordinator without layers", 3, {0, 3, 4}, ExpertStrategy::kContiguous},
  };
  return kAll;
}

/// One way to run a model.
struct Way {
  int placement = 0;
  int64_t chunk = 0;
  int threads = 1;
  Isa isa = Isa::kReference;
  TransportKind transport = TransportKind::kInproc;

  std::string name() const {
    return fmt::format("{}, chunks of {}, {} threads, {}, {}", Placements()[placement].name, chunk, threads,
                       IsaName(isa), transport == TransportKind::kGrpc ? "grpc" : "inproc");
  }
};

#ifdef __SANITIZE_THREAD__
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

/// Without gRPC under ThreadSanitizer, which does not see into the system's gRPC and reports its hand-overs.
std::vector<TransportKind> Transports() {
  if (kThreadSanitizer) return {TransportKind::kInproc};
  return {TransportKind::kInproc, TransportKind::kGrpc};
}

/// Those that models run on. The reference takes twenty times as long and has a way of its own (ReferenceWay). Only one
/// under ThreadSanitizer: all use threads alike.
std::vector<Isa> Isas() {
  if (kThreadSanitizer) return {SupportedIsas().back()};
  std::vector<Isa> isas = SupportedIsas();
  if (isas.size() > 1) std::erase(isas, Isa::kReference);
  return isas;
}

/// Three nodes that own each other's experts, in chunks that don't suit the blocks.
Way ReferenceWay() { return {7, 7, 2, Isa::kReference, TransportKind::kInproc}; }

std::vector<Way> PairwiseWays() {
  static const std::vector<int64_t> kChunks = {1, 7, 64, kPromptTokens};
  const std::vector<Isa> isas = Isas();
  const std::vector<TransportKind> transports = Transports();
  std::vector<Way> ways;
  for (const std::vector<int>& row :
       Pairwise({static_cast<int>(Placements().size()), static_cast<int>(kChunks.size()), 3,
                 static_cast<int>(isas.size()), static_cast<int>(transports.size())})) {
    ways.push_back({row[0], kChunks[row[1]], row[2] + 1, isas[row[3]], transports[row[4]]});
  }
  return ways;
}

/// Every placement once, with the levels of the other factors in turn: a fourth of the pairwise rows.
std::vector<Way> WayPerPlacement() {
  static const std::vector<int64_t> kChunks = {64, 7, kPromptTokens, 1};
  const std::vector<Isa> isas = Isas();
  const std::vector<TransportKind> transports = Transports();
  std::vector<Way> ways;
  for (int i = 0; i < static_cast<int>(Placements().size()); ++i) {
    const auto turn = static_cast<size_t>(i);
    ways.push_back({i, kChunks[turn % kChunks.size()], i % 3 + 1, isas[turn / 2 % isas.size()],
                    transports[turn / 3 % transports.size()]});
  }
  return ways;
}

/// A model under test: a golden folder, or the tiny config of a family with random weights.
struct Subject {
  std::string name;
  std::string folder;  ///< Empty: the tiny config.
  std::string family;
  std::optional<AffineFormat> format;
  /// Whether every pair of factors is tested. How placement, chunks, threads and transport interact does not
  /// depend on the family, so only a few test pairs; the others test every placement.
  bool pairwise = false;
  Plan::KvDtype kv = Plan::KvDtype::kF16;
};

std::vector<Subject> Subjects() {
  static const std::set<std::string_view> kPairwise = {"llama", "qwen3", "qwen3_moe"};
  std::vector<Subject> all;
  for (const std::string& type : FamiliesOfEachKind()) {
    const bool pairwise = kPairwise.contains(type);
    if (pairwise || SweepsAllFamilies()) all.push_back({type + "_tiny_bf16", "", type, std::nullopt});
    all.push_back({type + "_tiny_4bit", "", type, AffineFormat{4, 64}, pairwise});
    if (pairwise) all.push_back({type + "_tiny_8bit", "", type, AffineFormat{8, 64}});
    for (const std::string& folder : GoldenFolders(type).here) {
      std::string name = type + "_" + folder.substr(folder.rfind('/') + 1);
      std::replace(name.begin(), name.end(), '-', '_');
      all.push_back({name, folder, type, std::nullopt});
    }
  }
  for (const std::string& type : FamiliesPerAttention()) {
    all.push_back(
        {type + "_tiny_4bit_kv_q8", "", type, AffineFormat{4, 64}, type == "qwen3", Plan::KvDtype::kQ8});
  }
  return all;
}

/// Families that are like another, in one format, and what else is not in Subjects() in both: `./dev check families` has
/// both everywhere.
std::vector<Subject> SubjectsOfFewWays() {
  std::vector<Subject> all;
  for (const std::string& type : RenamedFamilies()) {
    all.push_back({type + "_tiny_4bit", "", type, AffineFormat{4, 64}});
  }
  std::set<std::string> there;
  for (const Subject& subject : Subjects()) there.insert(subject.name);
  for (const std::string& type : FamiliesToSweep()) {
    for (const auto& format : {std::optional<AffineFormat>(), std::optional(AffineFormat{4, 64})}) {
      const std::string name = type + (format ? "_tiny_4bit" : "_tiny_bf16");
      if (!there.contains(name)) all.push_back({name, "", type, format});
    }
  }
  return all;
}

/// Three stages, and experts and layers at random over four nodes.
std::vector<Way> FewWays() {
  return {{3, 7, 2, SupportedIsas().back(), Transports().back()},
          {8, 64, 1, SupportedIsas().back(), TransportKind::kInproc}};
}

Plan PlanFor(const Placed& placed, const ModelFacts& model, Plan::KvDtype kv) {
  PlanRequest request;
  request.kv_dtype = kv;
  request.strategy = LayerStrategy::kSplit;
  const auto layers = static_cast<int64_t>(model.layers.size());
  // Largest remainders, with at least one layer per node with a weight: goldens have only three layers.
  int total = 0;
  for (const int weight : placed.weights) total += weight;
  std::vector<int64_t> split(placed.weights.size());
  int64_t left = layers;
  for (size_t i = 0; i < split.size(); ++i) {
    if (placed.weights[i] == 0) continue;
    split[i] = std::min<int64_t>(left, std::max<int64_t>(1, layers * placed.weights[i] / total));
    left -= split[i];
  }
  for (size_t i = split.size(); i-- > 0 && left > 0;) {
    if (placed.weights[i] == 0) continue;
    split[i] += left;
    left = 0;
  }
  request.split = split;
  if (model.top_k > 0) {
    request.experts.strategy = placed.experts;
    request.experts.seed = placed.seed;
    request.experts.replicas = placed.replicas;
  }
  std::vector<NodeFacts> nodes;
  for (int i = 0; i < placed.nodes; ++i) nodes.push_back({.name = fmt::format("node-{}", i)});
  const absl::StatusOr<Plan> plan = MakePlan(model, nodes, request);
  SHOAL_CHECK(plan.ok());
  return *plan;
}

class Running : public RunningPlan {
 public:
  Running(const OpenedModel& model, const Way& way, Plan::KvDtype kv = Plan::KvDtype::kF16)
      : RunningPlan(options_for(model, way, kv)) {}

 private:
  static LocalCluster::Options options_for(const OpenedModel& model, const Way& way, Plan::KvDtype kv) {
    LocalCluster::Options options = OptionsFor(model, PlanFor(Placements()[way.placement], model.facts, kv));
    options.threads_per_node = way.threads;
    options.isa = way.isa;
    options.transport = way.transport;
    return options;
  }
};

std::vector<int32_t> Prompt(const OpenedModel& model, uint64_t stream, int64_t tokens = kPromptTokens) {
  return RandomPrompt(model, stream, tokens);
}

class Placement : public testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    const Subject& subject = GetParam();
    auto model =
        OpenModel(subject.folder.empty() ? TinyCheckpoint(subject.family, subject.format) : subject.folder);
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
  }
  absl::StatusOr<ProbeResult> probe(const Way& way) {
    Running running(model_, way, GetParam().kv);
    return ProbeLogits(
        running.engine(),
        {.ids = Prompt(model_, 0), .greedy = kGreedyTokens, .chunk = way.chunk, .routing = true});
  }
  void expect_bits_of_one_node(const std::vector<Way>& ways);

  OpenedModel model_;
};

void Placement::expect_bits_of_one_node(const std::vector<Way>& ways) {
  const auto one_node = probe({0, kPromptTokens, 1, SupportedIsas().back(), TransportKind::kInproc});
  ASSERT_TRUE(one_node.ok()) << ToString(one_node.status());
  std::set<int> placements;
  for (const Way& way : ways) {
    placements.insert(way.placement);
    const auto got = probe(way);
    ASSERT_TRUE(got.ok()) << way.name() << ": " << ToString(got.status());
    EXPECT_TRUE(SameBits(got->logits, one_node->logits)) << way.name();
    EXPECT_EQ(got->greedy, one_node->greedy) << way.name();
    EXPECT_EQ(got->routing, one_node->routing) << way.name();
  }
  if (HasFailure()) return;
  // For the table of docs/models.md.
  fmt::print("placed {} {}: the same bits on {} placements in {} ways\n", GetParam().family, GetParam().name,
             placements.size(), ways.size());
}

TEST_P(Placement, EveryPlacementChunkThreadAndIsaGivesTheBitsOfOneNodeInOneShot) {
  std::vector<Way> ways = GetParam().pairwise && !kThreadSanitizer ? PairwiseWays() : WayPerPlacement();
  if (!kThreadSanitizer) ways.push_back(ReferenceWay());
  expect_bits_of_one_node(ways);
}

class PlacementInFewWays : public Placement {};

TEST_P(PlacementInFewWays, SomePlacementsGiveTheBitsOfOneNodeInOneShot) {
  expect_bits_of_one_node(FewWays());
}

absl::StatusOr<StepResult> RunStep(Engine& engine, Step step) {
  std::promise<absl::StatusOr<StepResult>> done;
  auto result = done.get_future();
  engine.submit(engine.state().generation, std::move(step),
                [&done](absl::StatusOr<StepResult> value) { done.set_value(std::move(value)); });
  return result.get();  // The engine ends every step, at the latest by its liveness timeout.
}

/// Cursors of sequences 1, 2, ..., with block `block(i, k)` as block k of the i-th, and with slots if the
/// model keeps states.
std::vector<SequenceCursor> CursorsOf(const EngineLimits& limits,
                                      const std::vector<std::vector<int32_t>>& prompts,
                                      const std::function<int64_t(int64_t i, int64_t k)>& block) {
  std::vector<SequenceCursor> cursors;
  for (int64_t i = 0; i < std::ssize(prompts); ++i) {
    const int slots = limits.state_slots_each();
    SequenceRoom room{.slots = IdsFrom(SlotId{static_cast<int32_t>(i * slots)}, slots)};
    for (int64_t k = 0; k < BlocksFor(std::ssize(prompts[static_cast<size_t>(i)])); ++k)
      room.blocks.push_back(BlockId{static_cast<int32_t>(block(i, k))});
    cursors.emplace_back(SeqId{static_cast<uint64_t>(i + 1)}, std::move(room));
  }
  return cursors;
}

/// Runs sequences of different lengths together, with `chunks[i]` tokens of sequence i per step until its
/// end. Returns the logits of each.
absl::StatusOr<std::vector<std::vector<float>>> RunTogether(Engine& engine,
                                                            const std::vector<std::vector<int32_t>>& prompts,
                                                            const std::vector<int64_t>& chunks) {
  std::vector<std::vector<float>> logits(prompts.size());
  const EngineLimits limits = engine.state().limits;
  const int64_t vocabulary = limits.vocabulary;
  // Tables that interleave.
  std::vector<SequenceCursor> cursors =
      CursorsOf(limits, prompts, [&](int64_t i, int64_t k) { return k * std::ssize(prompts) + i; });
  for (StepId id{1};; ++id.value) {
    Step step;
    step.id = id;
    step.want_logits = true;
    std::vector<size_t> members;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const int64_t at = cursors[i].position();
      const int64_t take = std::min(std::ssize(prompts[i]) - at, chunks[i]);
      if (take <= 0) continue;
      step.slices.push_back(
          cursors[i].next({prompts[i].begin() + at, prompts[i].begin() + at + take}, false));
      members.push_back(i);
    }
    if (members.empty()) return logits;
    std::vector<size_t> rows;
    for (const SeqSlice& slice : step.slices) rows.push_back(slice.tokens.size());
    ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, std::move(step)));
    auto from = result.logits.begin();
    for (size_t m = 0; m < members.size(); ++m) {
      const auto count = static_cast<int64_t>(rows[m]) * vocabulary;
      logits[members[m]].insert(logits[members[m]].end(), from, from + count);
      from += count;
    }
  }
}

TEST_P(Placement, ARowInABatchHasTheBitsOfTheRowAloneOnAnyPlacement) {
  const std::vector<std::vector<int32_t>> prompts = {Prompt(model_, 1, 50), Prompt(model_, 2, 9),
                                                     Prompt(model_, 3, 33), Prompt(model_, 4, 1),
                                                     Prompt(model_, 5, 20)};
  std::vector<std::vector<float>> alone;
  {
    Running running(model_, {0, 0, 1, SupportedIsas().back(), TransportKind::kInproc}, GetParam().kv);
    StepId next{1};
    for (const auto& prompt : prompts) {
      const auto result =
          ProbeLogits(running.engine(), {.ids = prompt, .sequence = SeqId{next.value}, .first_step = next});
      ASSERT_TRUE(result.ok()) << ToString(result.status());
      next = result->next_step;
      alone.push_back(result->logits);
    }
  }
  const std::vector<std::vector<int64_t>> mixes = {{50, 9, 33, 1, 20}, {1, 1, 1, 1, 1}, {7, 1, 16, 1, 3}};
  for (size_t mix = 0; mix < mixes.size(); ++mix) {
    for (const int placement : {0, 3, 8}) {
      const Way way{placement, 0, 1 + static_cast<int>(mix), SupportedIsas().back(), TransportKind::kInproc};
      Running running(model_, way, GetParam().kv);
      const auto together = RunTogether(running.engine(), prompts, mixes[mix]);
      ASSERT_TRUE(together.ok()) << way.name() << ": " << ToString(together.status());
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_TRUE(SameBits((*together)[i], alone[i]))
            << "sequence " << i << ", mix " << mix << ", " << way.name();
      }
    }
  }
}

/// Submits all chunks of all sequences, in turn, and only then waits, so that all steps are in flight at
/// once.
absl::StatusOr<std::vector<std::vector<float>>> RunInFlight(Engine& engine,
                                                            const std::vector<std::vector<int32_t>>& prompts,
                                                            int64_t chunk) {
  std::vector<std::promise<absl::StatusOr<StepResult>>> done(1000);
  std::vector<size_t> owner;
  const Engine::State session = engine.state();
  std::vector<SequenceCursor> cursors =
      CursorsOf(session.limits, prompts, [](int64_t i, int64_t k) { return i * 8 + k; });
  StepId id{1};
  for (int64_t at = 0;; at += chunk) {
    const size_t before = owner.size();
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto left = static_cast<int64_t>(prompts[i].size()) - at;
      if (left <= 0) continue;
      const int64_t take = std::min(left, chunk);
      Step step;
      step.id = id;
      step.want_logits = true;
      step.slices.push_back(
          cursors[i].next({prompts[i].begin() + at, prompts[i].begin() + at + take}, false));
      auto& promise = done[owner.size()];
      engine.submit(session.generation, std::move(step),
                    [&promise](absl::StatusOr<StepResult> value) { promise.set_value(std::move(value)); });
      owner.push_back(i);
      ++id.value;
    }
    if (owner.size() == before) break;
  }
  std::vector<std::vector<float>> logits(prompts.size());
  absl::Status failed;
  for (size_t s = 0; s < owner.size(); ++s) {
    const absl::StatusOr<StepResult> result = done[s].get_future().get();
    if (!result.ok()) {
      failed = result.status();
    } else {
      logits[owner[s]].insert(logits[owner[s]].end(), result->logits.begin(), result->logits.end());
    }
  }
  RETURN_IF_ERROR(failed);
  return logits;
}

TEST_P(Placement, SeveralStepsInFlightGiveTheBitsOfOneAtATimeEvenIfNodesOwnEachOthersExperts) {
  const std::vector<std::vector<int32_t>> prompts = {Prompt(model_, 1, 60), Prompt(model_, 2, 23),
                                                     Prompt(model_, 3, 41)};
  std::vector<std::vector<float>> alone;
  {
    Running running(model_, {0, 0, 1, SupportedIsas().back(), TransportKind::kInproc}, GetParam().kv);
    const auto result = RunTogether(running.engine(), prompts, {60, 23, 41});
    ASSERT_TRUE(result.ok()) << ToString(result.status());
    alone = *result;
  }
  for (const int placement : {3, 8, 9}) {
    for (const TransportKind transport : Transports()) {
      const Way way{placement, 5, 1, SupportedIsas().back(), transport};
      Running running(model_, way, GetParam().kv);
      const auto got = RunInFlight(running.engine(), prompts, 5);
      ASSERT_TRUE(got.ok()) << way.name() << ": " << ToString(got.status());
      for (size_t i = 0; i < prompts.size(); ++i) EXPECT_TRUE(SameBits((*got)[i], alone[i])) << way.name();
    }
  }
}

/// Tokens [at, at + rows) of `tokens` as a slice of sequence `id`, which has blocks [8 id, 8 id + 8).
SeqSlice ShardOf(uint64_t id, const std::vector<int32_t>& tokens, int64_t at, int64_t rows, bool long_rope) {
  SeqSlice slice{
      SeqId{id}, static_cast<int32_t>(at), {tokens.begin() + at, tokens.begin() + at + rows}, {}, kNoSample,
      long_rope};
  for (int64_t k = 0; k < BlocksFor(at + rows); ++k) {
    slice.blocks.push_back(BlockId{static_cast<int32_t>(8 * static_cast<int64_t>(id) + k)});
  }
  return slice;
}

/// The logits of a step of these slices, by row of the slice.
absl::StatusOr<std::vector<std::vector<float>>> LogitsOf(Engine& engine, StepId id,
                                                         std::vector<SeqSlice> slices) {
  std::vector<size_t> rows;
  for (const SeqSlice& slice : slices) rows.push_back(slice.tokens.size());
  Step step;
  step.id = id;
  step.want_logits = true;
  step.slices = std::move(slices);
  ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, std::move(step)));
  std::vector<std::vector<float>> logits;
  auto from = result.logits.begin();
  for (const size_t count : rows) {
    const auto end = from + static_cast<std::ptrdiff_t>(count) * engine.state().limits.vocabulary;
    logits.emplace_back(from, end);
    from = end;
  }
  return logits;
}

/// Models that rotate long sequences by other frequencies.
class LongRopePlacement : public Placement {};

// Steps as the batch planner composes them: a sequence that outgrows short rope is prefilled again in its old
// blocks, while its neighbours in the batch continue to decode.
TEST_P(LongRopePlacement, ASequenceThatOutgrowsShortRopeHasTheBitsOfAFreshOneAndItsNeighboursKeepTheirs) {
  const int64_t border = ShortRopePositions(model_.spec);
  const std::vector<int32_t> grows = Prompt(model_, 1, border + 2);
  const std::vector<int32_t> neighbour = Prompt(model_, 2, 40);
  using Rows = std::vector<std::vector<float>>;
  Rows fresh;
  Rows alone;
  {
    Running running(model_, {0, 0, 1, SupportedIsas().back(), TransportKind::kInproc}, GetParam().kv);
    for (int64_t rows : {border + 1, int64_t{1}}) {
      const int64_t at = rows == 1 ? border + 1 : 0;
      const auto got =
          LogitsOf(running.engine(), StepId{fresh.size() + 1}, {ShardOf(1, grows, at, rows, true)});
      ASSERT_TRUE(got.ok()) << ToString(got.status());
      fresh.push_back((*got)[0]);
    }
    const auto got = LogitsOf(running.engine(), StepId{3}, {ShardOf(2, neighbour, 0, 40, false)});
    ASSERT_TRUE(got.ok()) << ToString(got.status());
    alone = *got;
  }
  for (const int placement : {0, 3, 8, 11}) {
    const Way way{placement, 0, 2, SupportedIsas().back(), TransportKind::kInproc};
    Running running(model_, way, GetParam().kv);
    const std::vector<std::vector<SeqSlice>> steps = {
        {ShardOf(1, grows, 0, border - 1, false), ShardOf(2, neighbour, 0, 37, false)},
        {ShardOf(1, grows, border - 1, 1, false)},
        {ShardOf(2, neighbour, 37, 1, false), ShardOf(1, grows, 0, 40, true)},
        {ShardOf(1, grows, 40, border - 39, true), ShardOf(2, neighbour, 38, 1, false)},
        {ShardOf(2, neighbour, 39, 1, false), ShardOf(1, grows, border + 1, 1, true)}};
    std::vector<float> again;
    std::vector<float> beside;
    for (size_t i = 0; i < steps.size(); ++i) {
      const auto got = LogitsOf(running.engine(), StepId{i + 1}, steps[i]);
      ASSERT_TRUE(got.ok()) << way.name() << ": " << ToString(got.status());
      for (size_t s = 0; s < steps[i].size(); ++s) {
        std::vector<float>& all = steps[i][s].id == SeqId{2} ? beside : again;
        if (steps[i][s].id == SeqId{2} || steps[i][s].long_rope) {
          all.insert(all.end(), (*got)[s].begin(), (*got)[s].end());
        }
      }
    }
    std::vector<float> expected = fresh[0];
    expected.insert(expected.end(), fresh[1].begin(), fresh[1].end());
    EXPECT_TRUE(SameBits(again, expected)) << way.name();
    EXPECT_TRUE(SameBits(beside, alone[0])) << way.name();
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Placement, testing::ValuesIn(Subjects()),
                         [](const auto& subject) { return subject.param.name; });

INSTANTIATE_TEST_SUITE_P(Models, PlacementInFewWays, testing::ValuesIn(SubjectsOfFewWays()),
                         [](const auto& subject) { return subject.param.name; });

std::vector<Subject> LongRopeSubjects() {
  std::vector<Subject> all = Subjects();
  std::erase_if(all, [](const Subject& subject) {
    const auto config = ModelConfig::Parse((*FindFamily(subject.family))->tiny(), "tiny");
    return ShortRopePositions(*SpecFor(*config)) == std::numeric_limits<int64_t>::max();
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Models, LongRopePlacement, testing::ValuesIn(LongRopeSubjects()),
                         [](const auto& subject) { return subject.param.name; });

// A future prefix cache: a sequence reuses the blocks of another with the same beginning, and the snapshot of
// its state at a block boundary.
TEST(States, ASequenceThatStartsFromTheSnapshotOfAnotherHasItsBits) {
  const auto model = OpenModel(TinyCheckpoint("qwen3_5_moe", AffineFormat{4, 64}));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  const std::vector<int32_t> prompt = Prompt(*model, 1);
  for (const int placement : {0, 3, 8}) {
    Running running(*model, {placement, 0, 2, SupportedIsas().back(), TransportKind::kInproc});
    const auto run = [&](uint64_t id, std::vector<BlockId> blocks, StateWrite from,
                         std::vector<StateWrite> to) {
      SeqSlice slice{
          SeqId{id}, from.position, {prompt.begin() + from.position, prompt.end()}, std::move(blocks)};
      slice.state_from = from.slot;
      slice.state_to = std::move(to);
      return RunStep(running.engine(), {.id = StepId{id}, .slices = {slice}, .want_logits = true})->logits;
    };
    const auto whole = run(1, {{9}, {4}, {7}}, {0, kNoState}, {{32, {3}}, {64, {1}}, {70, {0}}});
    const auto behind = [&](int64_t position) {
      return std::vector<float>(whole.begin() + position * model->spec.vocabulary, whole.end());
    };
    // Each has its own blocks after the shared ones, so that the blocks of the first stay unchanged.
    EXPECT_TRUE(SameBits(run(2, {{9}, {4}, {21}}, {64, {1}}, {{70, {5}}}), behind(64))) << placement;
    EXPECT_TRUE(SameBits(run(3, {{9}, {20}, {22}}, {32, {3}}, {{70, {6}}}), behind(32))) << placement;
  }
}

TEST(Pairwise, EveryPairOfLevelsAppearsInSomeRow) {
  const std::vector<int> levels = {5, 3, 4, 2};
  const auto rows = Pairwise(levels);
  for (size_t a = 0; a < levels.size(); ++a) {
    for (size_t b = a + 1; b < levels.size(); ++b) {
      std::set<std::pair<int, int>> seen;
      for (const auto& row : rows) seen.emplace(row[a], row[b]);
      EXPECT_EQ(seen.size(), static_cast<size_t>(levels[a] * levels[b]));
    }
  }
}

}  // namespace
}  // namespace shoal
