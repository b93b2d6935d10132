// What a node keeps of its caches on disk is the same to the last bit when it comes back: every family, on one node
// and several, over a new start, and with damaged files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "kv/disk_store.h"
#include "placement/placed_cluster.h"
#include "sched/scheduler.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

/// A folder of its own, deleted at the end.
class Folder {
 public:
  Folder()
      : path_(fs::temp_directory_path() /
              fmt::format("shoal-disk-tier-{}-{:08x}", getpid(), EntropySeed() & 0xffffffff)) {}
  ~Folder() { fs::remove_all(path_); }
  std::shared_ptr<DiskStore> open() const {
    auto store = DiskStore::Open({.folder = path_.string(), .bytes_max = int64_t{1} << 30});
    EXPECT_TRUE(store.ok()) << ToString(store.status());
    return store.ok() ? *std::move(store) : nullptr;
  }
  /// Changes a byte in the middle of every file.
  void damage() const {
    for (const auto& entry : fs::recursive_directory_iterator(path_)) {
      if (entry.path().extension() != ".kv") continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      const auto middle = static_cast<std::streamoff>(fs::file_size(entry.path()) / 2);
      file.seekg(middle);
      const int byte = file.get();
      file.seekp(middle);
      file.put(static_cast<char>(byte ^ 1));
    }
  }

 private:
  const fs::path path_;
};

/// A process, from its start to its end.
class Life {
 public:
  Life(const OpenedModel& model, const Placed& placed, std::shared_ptr<DiskStore> store)
      : keeps_(store != nullptr),
        cluster_(model, placed, 64, 1, std::move(store)),
        scheduler_(cluster_.engine(), {.batch = {.rows_per_step = 40}}) {
    // What the stages have on disk is known a moment after the start.
    if (keeps_) {
      EXPECT_TRUE(until([this] { return scheduler_.stats().kv_disk.active; }));
    }
  }

  struct Answer {
    std::vector<int32_t> tokens;
    int64_t cached = 0;
  };
  Answer ask(const std::vector<int32_t>& prompt) {
    GenerationRequest request;
    request.prompt = prompt;
    request.max_tokens = 13;
    request.sampling.seed = 7;
    request.deadline = Deadline::after_ms(600'000);
    const auto sink = std::make_shared<RecordingSink>();
    const auto id = scheduler_.submit(std::move(request), sink);
    EXPECT_TRUE(id.ok()) << ToString(id.status());
    EXPECT_TRUE(until([&] { return sink->wait_end(); }));
    EXPECT_TRUE(sink->error().ok()) << ToString(sink->error());
    return {sink->tokens(), sink->cached()};
  }
  /// What is cached is on disk, too.
  void settle() {
    EXPECT_TRUE(until([this] {
      const SchedulerStats stats = scheduler_.stats();
      return stats.kv_disk.blocks >= stats.blocks_cached && stats.steps_in_flight == 0;
    })) << scheduler_.stats().kv_disk.blocks
        << " of " << scheduler_.stats().blocks_cached;
  }
  SchedulerStats stats() const { return scheduler_.stats(); }
  /// Whether both lengths are rotated by the same frequencies: else nothing of the one serves the other.
  bool same_rope(size_t a, size_t b) const {
    const EngineLimits limits = cluster_.limits();
    return limits.long_rope(static_cast<int64_t>(a)) == limits.long_rope(static_cast<int64_t>(b));
  }

 private:
  template <typename Done>
  static bool until(Done done) {
    for (const Deadline deadline = Deadline::after_ms(300'000); !done();) {
      if (deadline.expired()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  const bool keeps_;
  PlacedCluster cluster_;
  Scheduler scheduler_;
};

class DiskTierPlacement : public ::testing::TestWithParam<CachedFamily> {};

TEST_P(DiskTierPlacement, ANewStartGoesOnBehindWhatTheDiskHasWithTheSameTokens) {
  const auto model = OpenModel(TinyCheckpoint(GetParam().family, AffineFormat{4, 64}));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  std::vector<std::vector<int32_t>> prompts;  // A conversation: each has those before it, and the answers.
  std::vector<std::vector<int32_t>> expected;
  {
    Life plain(*model, Placements(GetParam().kv)[0], nullptr);
    std::vector<int32_t> talk;
    RandomStream random(3);
    for (const size_t more : {75, 9, 24}) {
      for (size_t i = 0; i < more; ++i) {
        talk.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(model->spec.vocabulary))));
      }
      prompts.push_back(talk);
      expected.push_back(plain.ask(talk).tokens);
      talk.insert(talk.end(), expected.back().begin(), expected.back().end());
    }
    EXPECT_FALSE(plain.stats().kv_disk.active);
  }
  for (const size_t placement : {0, 1, 3}) {
    SCOPED_TRACE(Placements(GetParam().kv)[placement].name);
    const Folder folder;
    for (size_t turn = 0; turn < prompts.size(); ++turn) {
      Life life(*model, Placements(GetParam().kv)[placement], folder.open());
      const Life::Answer answer = life.ask(prompts[turn]);
      EXPECT_EQ(answer.tokens, expected[turn]);
      // A turn's prompt begins with the prompt before it: all but its last block and an opening are kept.
      if (turn > 0 && life.same_rope(prompts[turn - 1].size(), prompts[turn].size())) {
        EXPECT_GE(answer.cached, std::ssize(prompts[turn - 1]) - 32);
      }
      EXPECT_EQ(life.stats().kv_disk.tokens_restored, answer.cached);
      EXPECT_EQ(life.stats().kv_disk.failures, 0);
      life.settle();
    }
    folder.damage();
    Life life(*model, Placements(GetParam().kv)[placement], folder.open());
    const Life::Answer answer = life.ask(prompts.back());
    EXPECT_EQ(answer.tokens, expected.back());
    EXPECT_EQ(answer.cached, 0);
    EXPECT_EQ(life.stats().kv_disk.failures, 1);
    EXPECT_GT(life.stats().kv_disk.errors, 0);
    if (HasFailure()) return;
  }
}

TEST(DiskTier, BlocksOfOtherSettingsAreNotTaken) {
  const auto model = OpenModel(TinyCheckpoint("qwen3", AffineFormat{4, 64}));
  const auto other = OpenModel(TinyCheckpoint("qwen3", AffineFormat{8, 64}));
  ASSERT_TRUE(model.ok() && other.ok());
  const Folder folder;
  const std::vector<int32_t> prompt(80, 5);
  {
    Life life(*model, Placements()[0], folder.open());
    life.ask(prompt);
    life.settle();
  }
  const auto expect_nothing_of = [&](const OpenedModel& asked, const Placed& placed) {
    Life life(asked, placed, folder.open());
    EXPECT_EQ(life.ask(prompt).cached, 0);
    EXPECT_EQ(life.stats().kv_disk.errors, 0);
  };
  expect_nothing_of(*other, Placements()[0]);
  expect_nothing_of(*model, Placements(Plan::KvDtype::kQ8)[0]);
}

INSTANTIATE_TEST_SUITE_P(Families, DiskTierPlacement, testing::ValuesIn(CachedFamilies()),
                         [](const auto& cached) { return cached.param.name(); });

}  // namespace
}  // namespace shoal
