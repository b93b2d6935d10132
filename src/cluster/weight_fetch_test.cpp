#include "cluster/weight_fetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/status.h"
#include "cluster/weight_shelf.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr char kContent[] = "the first content";

std::vector<std::byte> Copy(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }

void ChangeAll(std::vector<EditableTensor>& tensors) {
  for (EditableTensor& tensor : tensors) {
    for (std::byte& byte : tensor.bytes) byte ^= std::byte{1};
  }
}

/// A node with a model, whose answers a test may change.
class FakeSource final : public ChunkSource {
 public:
  FakeSource(std::string name, const std::string& folder) : name_(std::move(name)) {
    auto checkpoint = Checkpoint::Open(folder);
    SHOAL_CHECK(checkpoint.ok());
    model_ = std::make_unique<ShelvedModel>(*checkpoint, nullptr);
  }

  const std::string& name() const override { return name_; }
  absl::StatusOr<std::vector<std::optional<ContentHash128>>> hashes(
      std::span<const TensorChunk> chunks) override {
    if (away) return Unavailable("{} is away", name_);
    if (before_hashes) RETURN_IF_ERROR(before_hashes());
    std::vector<std::optional<ContentHash128>> hashes;
    for (const TensorChunk& chunk : chunks) {
      ASSIGN_OR_RETURN(hashes.emplace_back(), model_->hash(chunk));
    }
    return hashes;
  }
  absl::Status fetch(std::span<const TensorChunk> chunks, Take take) override {
    for (size_t i = 0; i < chunks.size(); ++i) {
      if (away) return Unavailable("{} is away", name_);
      ASSIGN_OR_RETURN(const auto bytes, model_->bytes(chunks[i]));
      if (lacks && lacks(chunks[i])) {
        RETURN_IF_ERROR(take(i, std::nullopt));
        continue;
      }
      std::vector<std::byte> sent = Copy(*bytes);
      if (change) change(chunks[i], sent);
      sent_bytes += std::ssize(sent);
      RETURN_IF_ERROR(take(i, sent));
    }
    return absl::OkStatus();
  }

  std::atomic<bool> away{false};
  std::function<absl::Status()> before_hashes;
  std::function<bool(const TensorChunk&)> lacks;
  std::function<void(const TensorChunk&, std::vector<std::byte>&)> change;  ///< Of what is sent.
  std::atomic<int64_t> sent_bytes{0};

 private:
  const std::string name_;
  std::unique_ptr<ShelvedModel> model_;
};

class WeightFetchTest : public testing::Test {
 protected:
  WeightFetchTest() { restart(); }

  /// As a new process would find the store.
  void restart() {
    files_.reset();
    store_.reset();
    auto store = FetchedModels::Open({.folder = folder_.path() + "/weights"});
    SHOAL_CHECK(store.ok());
    store_ = *std::move(store);
    auto files = store_->model(coordinator_checkpoint()->hash());
    SHOAL_CHECK(files.ok());
    files_ = *std::move(files);
  }
  std::shared_ptr<const Checkpoint> coordinator_checkpoint() const {
    auto checkpoint = Checkpoint::Open(source_);
    SHOAL_CHECK(checkpoint.ok());
    return *checkpoint;
  }

  /// Fetches layers 1 and up, and every second expert of layer 0.
  static bool Needed(const WeightUse& use) {
    return use.layer > 0 || (use.layer == 0 && use.expert >= 0 && use.expert % 2 == 0);
  }
  absl::StatusOr<FetchReport> fetch(std::vector<ChunkSource*> sources,
                                    const std::string& content = kContent) {
    if (!files_->begun_for(content)) {
      ASSIGN_OR_RETURN(const ModelSkeleton skeleton, SkeletonOf(*coordinator_checkpoint()));
      RETURN_IF_ERROR(files_->begin(skeleton, content));
    }
    ASSIGN_OR_RETURN(weights_, ResolvedWeights::Open(files_->path(), content));
    FetchOptions options{.sources = std::move(sources), .progress = {}, .cancelled = {}};
    options.request_bytes = 5'000;
    options.pause = std::chrono::milliseconds(1);
    const auto report = FetchChunks(*files_, weights_->checkpoint(), ChunksOf(*weights_, Needed), options);
    if (report.ok()) RETURN_IF_ERROR(files_->keep());
    return report;
  }
  int64_t needed_bytes() const {
    auto whole = ResolvedWeights::Open(source_);
    SHOAL_CHECK(whole.ok());
    int64_t sum = 0;
    for (const TensorChunk& chunk : ChunksOf(**whole, Needed)) sum += chunk.bytes;
    return sum;
  }
  /// Whether all chunks that were asked for are those of the model in `folder`.
  void expect_same(const std::string& folder) const {
    auto whole = ResolvedWeights::Open(folder);
    ASSERT_TRUE(whole.ok());
    const ShelvedModel expected((*whole)->shared_checkpoint(), nullptr);
    const ShelvedModel got(weights_->shared_checkpoint(), files_);
    int chunks = 0;
    for (const TensorChunk& chunk : ChunksOf(**whole, Needed)) {
      const auto there = got.bytes(chunk);
      ASSERT_TRUE(there.ok() && there->has_value());
      ASSERT_EQ(Copy(**there), Copy(**expected.bytes(chunk)));
      ++chunks;
    }
    EXPECT_GT(chunks, 20);
  }

  const std::string source_ = TinyCheckpoint("qwen3_moe", AffineFormat{4, 64});
  const TempFolder folder_;
  std::shared_ptr<FetchedModels> store_;
  std::shared_ptr<FetchedModel> files_;
  std::shared_ptr<const ResolvedWeights> weights_;
};

TEST_F(WeightFetchTest, TheFilesOpenAsTheSameModelAndHaveTheBytesAskedForAndNoOthers) {
  FakeSource coordinator("coordinator", source_);
  const auto report = fetch({&coordinator});
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  EXPECT_EQ(report->bytes, needed_bytes());
  EXPECT_EQ(weights_->checkpoint().hash(), coordinator_checkpoint()->hash());
  EXPECT_EQ(weights_->checkpoint().content_identity(), kContent);
  expect_same(source_);
  const ShelvedModel got(weights_->shared_checkpoint(), files_);
  for (const TensorChunk& chunk :
       ChunksOf(*weights_, [](const WeightUse& use) { return use.layer == 0 && use.expert == 1; })) {
    EXPECT_FALSE(got.bytes(chunk)->has_value()) << "what nobody asked for is given to others";
  }
}

TEST_F(WeightFetchTest, AFlippedBitIsFoundAndFetchedAgain) {
  FakeSource coordinator("coordinator", source_);
  std::atomic<int> chunks{0};
  coordinator.change = [&](const TensorChunk&, std::vector<std::byte>& bytes) {
    if (++chunks == 7) bytes[bytes.size() / 2] ^= std::byte{4};
  };
  const auto report = fetch({&coordinator});
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  EXPECT_EQ(report->damaged, 1);
  EXPECT_GT(report->bytes, needed_bytes());
  expect_same(source_);
}

TEST_F(WeightFetchTest, WhatAlwaysComesDamagedEndsWithTensorAndSource) {
  FakeSource coordinator("coordinator", source_);
  const int32_t bad = ChunksOf(**ResolvedWeights::Open(source_), Needed).back().tensor;
  coordinator.change = [&](const TensorChunk& chunk, std::vector<std::byte>& bytes) {
    if (chunk.tensor == bad) bytes.pop_back();
  };
  const auto report = fetch({&coordinator});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss);
  const std::string name = coordinator_checkpoint()->stored_tensors()[static_cast<size_t>(bad)].name;
  EXPECT_THAT(ToString(report.status()), AllOf(HasSubstr(name), HasSubstr("'coordinator'")));
}

TEST_F(WeightFetchTest, ASourceThatDiesInTheMiddleLeavesTheRestToTheOthers) {
  FakeSource coordinator("coordinator", source_);
  FakeSource peer("peer", source_);
  // The coordinator sends nothing until the peer has died.
  coordinator.change = [&](const TensorChunk&, std::vector<std::byte>&) {
    const Deadline deadline = Deadline::after_ms(10000);
    while (!peer.away && !deadline.expired()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  peer.change = [&](const TensorChunk&, std::vector<std::byte>& bytes) {
    if (peer.sent_bytes + std::ssize(bytes) > needed_bytes() / 4) peer.away = true;
  };
  const auto report = fetch({&coordinator, &peer});
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  EXPECT_EQ(report->sources, 2);
  EXPECT_EQ(report->bytes, needed_bytes());
  EXPECT_GT(peer.sent_bytes, 0);
  EXPECT_EQ(peer.sent_bytes + coordinator.sent_bytes, needed_bytes());
  expect_same(source_);
}

TEST_F(WeightFetchTest, APeerIsNotGivenUpForWhatTheCoordinatorFailsAt) {
  FakeSource coordinator("coordinator", source_);
  FakeSource peer("peer", source_);
  const auto wait_until = [](const std::function<bool()>& condition) {
    const Deadline deadline = Deadline::after_ms(10000);
    while (!condition() && !deadline.expired()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  // The coordinator's two streams, and the peer's, begin together; then the coordinator's wait for the peer, so that
  // the peer's alone asks for more hashes.
  constexpr int kStreams = 3;
  std::atomic<int> asked{0};
  coordinator.before_hashes = [&]() -> absl::Status {
    const int call = ++asked;
    if (call <= kStreams) wait_until([&] { return asked >= kStreams; });
    return call > kStreams && call <= kStreams + 8 ? Unavailable("no route") : absl::OkStatus();
  };
  coordinator.change = [&](const TensorChunk&, std::vector<std::byte>&) {
    wait_until([&] { return peer.sent_bytes > 0; });
  };
  peer.lacks = [&](const TensorChunk&) { return asked <= kStreams; };
  const auto report = fetch({&coordinator, &peer});
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  EXPECT_GT(peer.sent_bytes, 0);
  expect_same(source_);
}

TEST_F(WeightFetchTest, WhatTheDiskRefusesIsNoFaultOfASource) {
  FakeSource coordinator("coordinator", source_);
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  signal(SIGXFSZ, SIG_IGN);
  coordinator.change = [&](const TensorChunk&, std::vector<std::byte>&) {
    const rlimit none = {0, limit.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  };
  const auto report = fetch({&coordinator});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_FALSE(report.ok());
  EXPECT_THAT(ToString(report.status()), AllOf(HasSubstr("fetching tensor"), Not(HasSubstr("coordinator"))));
}

TEST_F(WeightFetchTest, APeerGivesWhatItHasAndIsNotBelieved) {
  const TempFolder other;
  CopyCheckpoint(source_, other.path(), [](std::vector<EditableTensor>& tensors) { ChangeAll(tensors); });
  FakeSource coordinator("coordinator", source_);
  FakeSource some("some", source_);
  FakeSource wrong("wrong", other.path());
  some.lacks = [](const TensorChunk& chunk) { return chunk.tensor % 2 == 0; };
  // Another fine-tune sends the wrong bytes, but not so often that anybody gives up.
  std::atomic<int> wrong_chunks{0};
  wrong.lacks = [&](const TensorChunk&) { return ++wrong_chunks > 3; };
  const auto report = fetch({&coordinator, &some, &wrong});
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  expect_same(source_);
}

TEST_F(WeightFetchTest, AfterAKillOnlyWhatIsMissingIsFetched) {
  FakeSource dying("coordinator", source_);
  dying.change = [&](const TensorChunk&, std::vector<std::byte>&) {
    if (dying.sent_bytes > needed_bytes() / 2) dying.away = true;
  };
  const auto first = fetch({&dying});
  EXPECT_EQ(first.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(ToString(first.status()), HasSubstr("'coordinator'"));
  restart();
  FakeSource coordinator("coordinator", source_);
  const auto second = fetch({&coordinator});
  ASSERT_TRUE(second.ok()) << ToString(second.status());
  EXPECT_EQ(coordinator.sent_bytes + dying.sent_bytes, needed_bytes());
  EXPECT_LE(coordinator.sent_bytes, needed_bytes() * 55 / 100);
  EXPECT_EQ(second->here_bytes, dying.sent_bytes);
  expect_same(source_);
}

TEST_F(WeightFetchTest, WhatIsHereNeedsNoSourceAtTheNextStart) {
  FakeSource coordinator("coordinator", source_);
  ASSERT_TRUE(fetch({&coordinator}).ok());
  restart();
  coordinator.away = true;
  const auto again = fetch({&coordinator});
  ASSERT_TRUE(again.ok()) << ToString(again.status());
  EXPECT_EQ(again->bytes, 0);
  EXPECT_EQ(again->here_bytes, needed_bytes());
  expect_same(source_);
}

TEST_F(WeightFetchTest, WhatWasChangedOnTheDiskIsFoundAndFetchedAgain) {
  FakeSource coordinator("coordinator", source_);
  ASSERT_TRUE(fetch({&coordinator}).ok());
  const TensorChunk chunk = ChunksOf(*weights_, Needed)[5];
  const FilePlace place = **Locate(weights_->checkpoint(), chunk);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // File systems count time in ticks.
  const std::vector<std::byte> zeros(static_cast<size_t>(chunk.bytes));
  ASSERT_TRUE(files_->write(place, zeros).ok());
  restart();
  coordinator.sent_bytes = 0;
  ASSERT_TRUE(fetch({&coordinator}).ok());
  EXPECT_EQ(coordinator.sent_bytes, chunk.bytes);
  expect_same(source_);
}

TEST_F(WeightFetchTest, AnotherFineTuneOfTheSameConfigReplacesTheBytes) {
  FakeSource first("coordinator", source_);
  ASSERT_TRUE(fetch({&first}).ok());
  const TempFolder other;
  const std::string tuned = other.path();
  CopyCheckpoint(source_, tuned, [](std::vector<EditableTensor>& tensors) { ChangeAll(tensors); });
  FakeSource second("coordinator", tuned);
  ASSERT_EQ(Checkpoint::Open(tuned).value()->hash(), coordinator_checkpoint()->hash());
  const auto report = fetch({&second}, "another content");
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  EXPECT_EQ(report->bytes, needed_bytes());
  expect_same(tuned);
  EXPECT_FALSE(files_->begun_for(kContent));
}

TEST_F(WeightFetchTest, ATensorThatTheSourceLacksIsNamed) {
  FakeSource coordinator("coordinator", source_);
  coordinator.lacks = [](const TensorChunk&) { return true; };
  const auto report = fetch({&coordinator});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ToString(report.status()), AllOf(HasSubstr("model.layers."), HasSubstr("'coordinator'")));
}

TEST_F(WeightFetchTest, HashesAreKeptOfABoundedNumberOfChunks) {
  auto whole = ResolvedWeights::Open(source_);
  ASSERT_TRUE(whole.ok());
  const ShelvedModel model((*whole)->shared_checkpoint(), nullptr);
  const std::vector<TensorChunk> chunks = ChunksOf(**whole, Needed);
  // Whoever asks may cut a tensor anywhere.
  size_t asked = 0;
  for (const TensorChunk& chunk : chunks) {
    for (int64_t begin = 0; begin < chunk.bytes && asked <= ShelvedModel::kHashesKept; ++begin, ++asked) {
      ASSERT_TRUE(model.hash({chunk.tensor, chunk.begin + begin, 1}).ok());
    }
  }
  EXPECT_GT(asked, ShelvedModel::kHashesKept);
  EXPECT_LE(model.hashes_kept(), ShelvedModel::kHashesKept);
  EXPECT_EQ(*model.hash(chunks[3]), *model.hash(chunks[3]));
}

TEST(ByteRate, SpacesBytesAndSavesATenthOfASecondAtMost) {
  ByteRate rate(1000);
  const Clock::time_point now = Clock::now();
  EXPECT_EQ(rate.reserve(100, now), Duration());
  EXPECT_EQ(rate.reserve(500, now), std::chrono::milliseconds(500));
  EXPECT_EQ(rate.reserve(500, now + std::chrono::milliseconds(400)), std::chrono::milliseconds(600));
  EXPECT_EQ(rate.reserve(100, now + std::chrono::seconds(100)), Duration());
  EXPECT_EQ(rate.reserve(100, now + std::chrono::seconds(100)), std::chrono::milliseconds(100));
  EXPECT_EQ(ByteRate(0).reserve(1 << 30, now), Duration());
}

}  // namespace
}  // namespace shoal
