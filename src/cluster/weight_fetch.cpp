#include "cluster/weight_fetch.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

/// Two requests to a source overlap, so that its link never idles between two.
constexpr int kStreamsPerSource = 2;
/// A link that damages one chunk in ten sends ten thousand of them wrong five times in a row with p = 0.1.
constexpr int kDamagedMax = 5;
/// Attempts in a row without a chunk, after which a source counts as gone: some six seconds.
constexpr int kAttemptsMax = 6;
constexpr int kPauseDoublings = 4;
/// A source that had nothing of so many requests in a row is asked no more.
constexpr int kAbsentMax = 3;

struct Wanted {
  TensorChunk chunk;
  FilePlace place;
  int damaged = 0;
};

/// What one request asks for.
struct Batch {
  std::vector<Wanted> chunks;
  std::vector<ContentHash128> hashes;  ///< As stated; empty: not yet.
  std::set<size_t> not_from;           ///< Sources that have none of it.
};

bool IsAway(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

/// Who failed at a batch: one node is not to be blamed, nor given up, for what another did.
enum class FailedAt : uint8_t {
  kSource,     ///< The one that the batch was asked from.
  kAuthority,  ///< The first source, which states hashes.
  kDisk,       ///< Of this node.
};

struct Outcome {
  absl::Status status;
  FailedAt at = FailedAt::kSource;
};

class Fetch {
 public:
  Fetch(FetchedModel& files, const Checkpoint& checkpoint, const FetchOptions& options)
      : files_(files), checkpoint_(checkpoint), options_(options), sent_(options.sources.size()) {}

  absl::Status cut(const std::vector<TensorChunk>& chunks);
  absl::StatusOr<FetchReport> run();

 private:
  /// Of one thread.
  struct Stream {
    size_t source = 0;
    int attempts = 0;  ///< In a row that failed.
    int absent = 0;    ///< Requests in a row of which the source had nothing.
  };

  void serve(Stream stream);
  /// Has the batch's chunks come from the stream's source. What came leaves it.
  Outcome work_on(Batch& batch, Stream& stream);
  std::optional<Batch> take_batch(size_t source);
  void put_back(Batch batch);
  absl::Status state_hashes(Batch& batch);
  /// Drops the chunks that are on the disk as they should be.
  absl::Status drop_present(Batch& batch);
  /// Asks the source for the batch.
  Outcome ask(Batch& batch, Stream& stream);
  Outcome take(Wanted& wanted, const ContentHash128& hash, const std::string& source,
               std::span<const std::byte> bytes, bool& good);
  /// Whether the stream goes on after `outcome`.
  bool go_on(const Outcome& outcome, Batch batch, Stream& stream);
  /// Whether nobody else mends it.
  static bool is_final(const Outcome& outcome, const Stream& stream);
  /// Before the next attempt after so many.
  void pause(int attempts) const;
  void end(const absl::Status& why);
  void note_done(int64_t bytes, bool was_here);
  bool stopped();

  FetchedModel& files_;
  const Checkpoint& checkpoint_;
  const FetchOptions& options_;
  std::mutex mutex_;  ///< Guards what follows.
  std::condition_variable changed_;
  std::deque<Batch> batches_;
  int in_flight_ = 0;   ///< Batches that a thread has.
  bool ended_ = false;  ///< By an error that no other source mends.
  absl::Status why_;    ///< That error.
  FetchReport report_;
  std::vector<bool> sent_;  ///< By source.
  int64_t done_ = 0;
  int64_t total_ = 0;
};

absl::Status Fetch::cut(const std::vector<TensorChunk>& chunks) {
  Batch batch;
  int64_t bytes = 0;
  for (const TensorChunk& chunk : chunks) {
    ASSIGN_OR_RETURN(const std::optional<FilePlace> place, Locate(checkpoint_, chunk));
    if (!place.has_value()) {
      return NotFound("tensor '{}': the model's folder at '{}' is a shard without it",
                      checkpoint_.stored_tensors()[static_cast<size_t>(chunk.tensor)].name,
                      options_.sources.front()->name());
    }
    total_ += chunk.bytes;
    if (files_.verified(*place)) {
      done_ += chunk.bytes;
      report_.here_bytes += chunk.bytes;
      continue;
    }
    const bool full = bytes > 0 && bytes + chunk.bytes > options_.request_bytes;
    if (full || std::ssize(batch.chunks) == kRequestChunksMax) {
      batches_.push_back(std::exchange(batch, {}));
      bytes = 0;
    }
    batch.chunks.push_back({chunk, *place});
    bytes += chunk.bytes;
  }
  if (!batch.chunks.empty()) batches_.push_back(std::move(batch));
  return absl::OkStatus();
}

absl::StatusOr<FetchReport> Fetch::run() {
  if (options_.progress) options_.progress(done_, total_);
  const bool anything = !batches_.empty();  // The first thread takes from them at once.
  std::vector<std::thread> threads;
  for (int i = 0; i < kStreamsPerSource && anything; ++i) {
    for (size_t source = 0; source < options_.sources.size(); ++source) {
      if (i > 0 && source > 0) continue;  // Peers have other things to do.
      try {
        threads.emplace_back([this, source] { serve({.source = source}); });
      } catch (const std::system_error&) {  // The system has no more: fewer will do.
        if (threads.empty()) serve({.source = source});
      }
    }
  }
  for (std::thread& thread : threads) thread.join();
  report_.sources = std::ranges::count(sent_, true);
  if (ended_) return why_;
  if (!batches_.empty()) return Cancelled("fetching weights: it was stopped");
  return report_;
}

bool Fetch::stopped() { return options_.cancelled && options_.cancelled(); }

void Fetch::serve(Stream stream) {
  while (!stopped()) {
    std::optional<Batch> batch = take_batch(stream.source);
    if (!batch.has_value()) return;
    const Outcome outcome = work_on(*batch, stream);
    if (!go_on(outcome, *std::move(batch), stream)) return;
  }
}

Outcome Fetch::work_on(Batch& batch, Stream& stream) {
  if (batch.hashes.empty()) {
    if (absl::Status stated = state_hashes(batch); !stated.ok())
      return {std::move(stated), FailedAt::kAuthority};
  }
  if (absl::Status dropped = drop_present(batch); !dropped.ok()) return {std::move(dropped), FailedAt::kDisk};
  return batch.chunks.empty() ? Outcome() : ask(batch, stream);
}

std::optional<Batch> Fetch::take_batch(size_t source) {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    const auto found =
        std::ranges::find_if(batches_, [&](const Batch& batch) { return !batch.not_from.contains(source); });
    if (found != batches_.end()) {
      Batch batch = std::move(*found);
      batches_.erase(found);
      ++in_flight_;
      return batch;
    }
    // What another thread has may come back.
    if (in_flight_ == 0 || source > 0) return std::nullopt;
    changed_.wait_for(lock, std::chrono::milliseconds(100));
    if (stopped()) return std::nullopt;
  }
  return std::nullopt;
}

absl::Status Fetch::state_hashes(Batch& batch) {
  ChunkSource& authority = *options_.sources.front();
  std::vector<TensorChunk> chunks;
  for (const Wanted& wanted : batch.chunks) chunks.push_back(wanted.chunk);
  ASSIGN_OR_RETURN(const auto hashes, authority.hashes(chunks));
  if (hashes.size() != chunks.size()) {
    return InvalidArgument("'{}' stated {} hashes for {} chunks", authority.name(), hashes.size(),
                           chunks.size());
  }
  for (size_t i = 0; i < hashes.size(); ++i) {
    if (!hashes[i].has_value()) {
      batch.hashes.clear();
      return NotFound("tensor '{}': '{}' does not have it",
                      checkpoint_.stored_tensors()[static_cast<size_t>(chunks[i].tensor)].name,
                      authority.name());
    }
    batch.hashes.push_back(*hashes[i]);
  }
  return absl::OkStatus();
}

absl::Status Fetch::drop_present(Batch& batch) {
  std::vector<std::byte> bytes;
  Batch left{.chunks = {}, .hashes = {}, .not_from = std::move(batch.not_from)};
  for (size_t i = 0; i < batch.chunks.size(); ++i) {
    const Wanted& wanted = batch.chunks[i];
    if (files_.written(wanted.place)) {
      bytes.resize(static_cast<size_t>(wanted.chunk.bytes));
      RETURN_IF_ERROR(files_.read(wanted.place, bytes));
      if (LongContentHash(bytes) == batch.hashes[i]) {
        files_.note_verified(wanted.place);
        note_done(wanted.chunk.bytes, true);
        continue;
      }
    }
    left.chunks.push_back(wanted);
    left.hashes.push_back(batch.hashes[i]);
  }
  batch = std::move(left);
  return absl::OkStatus();
}

Outcome Fetch::take(Wanted& wanted, const ContentHash128& hash, const std::string& source,
                    std::span<const std::byte> bytes, bool& good) {
  good = std::ssize(bytes) == wanted.chunk.bytes && LongContentHash(bytes) == hash;
  {
    const std::lock_guard lock(mutex_);
    report_.bytes += std::ssize(bytes);
    if (!good) ++report_.damaged;
  }
  if (good) {
    if (absl::Status written = files_.write(wanted.place, bytes); !written.ok())
      return {std::move(written), FailedAt::kDisk};
    files_.note_verified(wanted.place);
    note_done(wanted.chunk.bytes, false);
    return {};
  }
  const std::string& tensor = checkpoint_.stored_tensors()[static_cast<size_t>(wanted.chunk.tensor)].name;
  LogWarning("tensor '{}': {} bytes from {} on came damaged from '{}'; asking again", tensor,
             wanted.chunk.bytes, wanted.chunk.begin, source);
  if (++wanted.damaged < kDamagedMax) return {};
  return {
      DataLoss("tensor '{}': {} bytes from {} on came damaged {} times, last from '{}'. Is a network card "
               "or the memory of that machine faulty?",
               tensor, wanted.chunk.bytes, wanted.chunk.begin, kDamagedMax, source)};
}

Outcome Fetch::ask(Batch& batch, Stream& stream) {
  ChunkSource& source = *options_.sources[stream.source];
  std::vector<TensorChunk> chunks;
  for (const Wanted& wanted : batch.chunks) chunks.push_back(wanted.chunk);
  std::vector<bool> came(chunks.size(), false);
  bool any = false;
  FailedAt at = FailedAt::kSource;
  const absl::Status status = source.fetch(
      chunks, [&](size_t index, std::optional<std::span<const std::byte>> bytes) -> absl::Status {
        if (index >= chunks.size() || came[index]) {
          return InvalidArgument("'{}' sent chunk {} of {}, which nobody waits for", source.name(), index,
                                 chunks.size());
        }
        if (!bytes.has_value()) return absl::OkStatus();
        any = true;
        bool good = false;
        const Outcome taken = take(batch.chunks[index], batch.hashes[index], source.name(), *bytes, good);
        came[index] = good && taken.status.ok();
        at = taken.at;
        return taken.status;
      });
  Batch left{.chunks = {}, .hashes = {}, .not_from = std::move(batch.not_from)};
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (came[i]) continue;
    left.chunks.push_back(batch.chunks[i]);
    // A hash may have come damaged, too: it is asked for again, with the chunk.
    if (batch.chunks[i].damaged == 0) left.hashes.push_back(batch.hashes[i]);
  }
  if (left.hashes.size() != left.chunks.size()) left.hashes.clear();
  if (any) stream.attempts = stream.absent = 0;
  if (status.ok() && !any && !left.chunks.empty()) ++stream.absent;
  if (status.ok() && !any) left.not_from.insert(stream.source);
  batch = std::move(left);
  const std::lock_guard lock(mutex_);
  if (any) sent_[stream.source] = true;
  return {status, at};
}

void Fetch::put_back(Batch batch) {
  const std::lock_guard lock(mutex_);
  --in_flight_;
  if (!batch.chunks.empty()) batches_.push_front(std::move(batch));
  changed_.notify_all();
}

void Fetch::end(const absl::Status& why) {
  const std::lock_guard lock(mutex_);
  if (!ended_) why_ = why;
  ended_ = true;
}

bool Fetch::is_final(const Outcome& outcome, const Stream& stream) {
  const absl::Status& status = outcome.status;
  if (status.ok()) return false;
  if (outcome.at == FailedAt::kDisk || absl::IsDataLoss(status)) return true;
  if (IsAway(status)) return stream.source == 0 && stream.attempts + 1 >= kAttemptsMax;
  return stream.source == 0 || outcome.at == FailedAt::kAuthority;
}

bool Fetch::go_on(const Outcome& outcome, Batch batch, Stream& stream) {
  const absl::Status& status = outcome.status;
  const bool is_authority = stream.source == 0;
  const bool of_authority = is_authority || outcome.at == FailedAt::kAuthority;
  const std::string& name = options_.sources[of_authority ? 0 : stream.source]->name();
  const bool absent_here = batch.not_from.contains(stream.source);
  const std::string tensor =
      batch.chunks.empty()
          ? ""
          : checkpoint_.stored_tensors()[static_cast<size_t>(batch.chunks.front().chunk.tensor)].name;
  if (status.ok() && absent_here && is_authority) {
    end(NotFound("tensor '{}': '{}' stated its hash, but did not send it", tensor, name));
  } else if (is_final(outcome, stream)) {
    const std::string from = outcome.at == FailedAt::kDisk ? "" : fmt::format(" from '{}'", name);
    end(Annotate(status, fmt::format("fetching tensor '{}' and others{}", tensor, from)));
  }
  put_back(std::move(batch));
  if (status.ok()) return stream.absent < kAbsentMax;
  // The first source's own streams count its failures: they end the fetch, where it stays away.
  const bool of_another = of_authority && !is_authority;
  if (!IsAway(status) || (!of_another && ++stream.attempts >= kAttemptsMax)) {
    if (!of_authority) LogInfo("'{}' sends no weights: {}", name, Message(status));
    return false;
  }
  pause(std::max(stream.attempts, 1));
  return true;
}

void Fetch::pause(int attempts) const {
  std::this_thread::sleep_for(options_.pause * (1 << std::min(attempts - 1, kPauseDoublings)));
}

void Fetch::note_done(int64_t bytes, bool was_here) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  if (was_here) report_.here_bytes += bytes;
  if (options_.progress) options_.progress(done_, total_);
}

}  // namespace

absl::StatusOr<FetchReport> FetchChunks(FetchedModel& files, const Checkpoint& checkpoint,
                                        std::vector<TensorChunk> chunks, const FetchOptions& options) {
  SHOAL_CHECK(!options.sources.empty() && files.has_files_of(checkpoint));
  Fetch fetch(files, checkpoint, options);
  RETURN_IF_ERROR(fetch.cut(chunks));
  return fetch.run();
}

}  // namespace shoal
