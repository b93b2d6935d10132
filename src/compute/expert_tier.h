// Slots of memory for some of many experts, and threads that read others into them. Which expert is in which slot decides
// when a step runs, never what it computes. It knows experts by number, and neither weights nor files.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/expert_tier_stats.h"
#include "cpu/arena.h"

namespace shoal {

/// Its calls may come from any thread; a step's come from one. They take one lock per call and group, none per row. Within
/// a call nothing is allocated but from the arena that it is given.
class ExpertTier {
 public:
  struct Loaded {
    int64_t bytes = 0;
    bool packed_again = false;
  };
  struct Options {
    int64_t experts = 0;     ///< Their numbers are [0, experts).
    int64_t slots = 0;       ///< >= 1
    int64_t slot_bytes = 0;  ///< A multiple of 64.
    int readers = 1;         ///< Threads that read.
    /// Reads an expert into a slot's memory, on a reader's thread; several at a time.
    std::function<absl::StatusOr<Loaded>(int64_t expert, std::byte* memory)> read;
    /// Told, under the lock, that the expert is going to lie there, whenever that has changed.
    std::function<void(int64_t expert, const std::shared_ptr<std::byte>& memory)> place;
    std::function<std::string(int64_t expert)> name;  ///< For errors.
    Duration read_max = std::chrono::seconds(30);     ///< A step waits no longer for the next read to end.
  };
  /// ResourceExhausted: there is no memory for the slots, or no thread.
  static absl::StatusOr<std::unique_ptr<ExpertTier>> Create(Options options);
  /// Waits for reads that have begun.
  ~ExpertTier();
  ExpertTier(const ExpertTier&) = delete;
  ExpertTier& operator=(const ExpertTier&) = delete;

  /// Has so many threads read from now on, of the calling thread's priority. Not while a step runs. ResourceExhausted.
  absl::Status start_readers(int readers);

  /// Reads the first experts of this list, as many as there are free slots, and waits for them. The error of a read, or
  /// Cancelled: `cancelled`, which may be empty, said so between two reads.
  absl::Status warm(std::span<const int64_t> experts, const std::function<bool()>& cancelled = {});

  /// The step will call with() for these experts, each once: reads of those that are not here begin, as far as there is
  /// room. Returns at once.
  void expect(std::span<const int64_t> experts);

  /// Some step may want these experts next: reads begin, as far as a quarter of the slots goes and nothing is in use there.
  /// Returns at once. What was guessed before and did not come true loses its protection.
  void read_ahead(std::span<const int64_t> experts);

  /// Calls compute(which) for groups of indices into `experts` (each once, in ascending order within a group) until all
  /// were in one: the experts of a group stay in their places during the call. Those that are here come first, while
  /// others are being read. The error of a read, of compute, or DeadlineExceeded.
  absl::Status with(Arena& arena, std::span<const int64_t> experts,
                    absl::FunctionRef<absl::Status(std::span<const int64_t> which)> compute);

  /// All but total_bytes.
  ExpertTierStats stats() const;
  int64_t slots() const { return std::ssize(slots_); }

 private:
  enum class State : uint8_t { kFree, kQueued, kReading, kReady, kFailed };
  struct Slot {
    std::shared_ptr<std::byte> memory;
    State state = State::kFree;
    int64_t expert = -1;
    int pins = 0;           ///< Calls of with() that use it, or wait for it.
    bool expected = false;  ///< A call of with() is announced.
    bool ahead = false;     ///< Read on a guess, and not wanted since;
    bool guessed = false;   ///< the guess is the latest one.
    absl::Status status;    ///< Of kFailed.
  };
  struct Expert {
    int32_t slot = -1;
    uint32_t uses = 0;  ///< Halved now and then: how often it was wanted lately, in memory or not.
    uint64_t used_at = 0;
    bool counted = false;  ///< As wanted by a step whose call of with() is yet to come.
  };
  /// A call of with().
  struct Call {
    std::span<const int64_t> experts;
    std::span<uint8_t> stage;  ///< As Stage, by index.
    std::span<int64_t> group;
    int64_t left = 0;
  };
  enum Stage : uint8_t { kWanted, kPinned, kDone };

  explicit ExpertTier(Options options) : options_(std::move(options)) {}
  void stop_readers();

  /// All below: with the lock held.
  Slot* slot_of(int64_t expert);
  Slot* live_slot_of(int64_t expert);
  void count_use(int64_t expert);
  void count_wanted(Slot* slot);
  /// A slot that is free, or of the expert that was wanted least often, of these longest ago; nullptr where all are in use.
  Slot* make_room(bool for_guess);
  void begin_read(Slot& slot, int64_t expert, bool guess);
  void promote(Slot& slot);
  void empty(Slot& slot);
  void unpin(Slot& slot);
  void clear_expected();
  void clear_counted();
  void pin_wanted(Call& call, bool first);
  absl::StatusOr<int64_t> collect(Call& call);
  absl::Status run(std::unique_lock<std::mutex>& lock, Call& call,
                   absl::FunctionRef<absl::Status(std::span<const int64_t> which)> compute);
  void serve();

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable to_read_;
  std::condition_variable changed_;  ///< A read ended, or a slot is no longer in use.
  std::vector<Slot> slots_;
  std::vector<Expert> experts_;
  std::vector<int32_t> wanted_queue_;  ///< Slots to be read, in order; guesses come after all of these.
  std::vector<int32_t> ahead_queue_;
  std::vector<int32_t> expected_;
  std::vector<int64_t> counted_;  ///< Experts: those of the last expect().
  uint64_t clock_ = 0;
  int64_t uses_ = 0;  ///< Sum of all Expert::uses, about.
  ExpertTierStats stats_;
  bool stopping_ = false;
  std::vector<std::thread> readers_;
};

}  // namespace shoal
