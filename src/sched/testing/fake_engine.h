// An engine without a model: the next token is a function of the sequence's tokens, read back from fake KV
// blocks. It checks every step as strictly as a real cluster would suffer from it, and can be slow, fail, or
// be away.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "exec/engine.h"

namespace shoal {

/// The pseudo-model: the next id after `tokens`, the first `prompt_tokens` of which are the prompt.
using NextTokenFn = std::function<int32_t(std::span<const int32_t> tokens, int32_t prompt_tokens,
                                          const SamplingParams& sampling)>;

/// Default pseudo-model: a hash of all tokens and the seed, below `vocabulary`.
NextTokenFn HashModel(int vocabulary);

/// What `model` generates after `prompt` in `count` steps: the answer every schedule must give.
std::vector<int32_t> ExpectedTokens(const NextTokenFn& model, std::vector<int32_t> prompt, int count,
                                    const SamplingParams& sampling = {});

/// What the pseudo-model says of a prompt: of its last token, or of all.
std::vector<float> FakeEmbedding(std::span<const int32_t> tokens, Pool pool);

/// `token` with the log-probability that the pseudo-model gives to its id, and those of the ids below `top`.
SampledToken WithLogprobs(int32_t token, int32_t top);

struct FakeEngineOptions {
  EngineLimits limits{.blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = 101};
  Duration step_time{};  ///< Each step takes this long.
  bool up = true;        ///< State at the start.
  /// Runs steps by itself. Where not, a step stays in flight until run_step(), and the listener is called
  /// with each submit, so that a scheduler that has nothing else to do looks at state() again.
  bool threaded = true;
  /// Stages that keep blocks on disk, over all generations; 0, or as many as steps may be in flight.
  int disks = 0;
  /// Where limits.mtp says that the last stage drafts: how often it is right.
  double mtp_right = 0.7;
};

/// What a scheduler calls.
enum class EngineCall : uint8_t { kState, kSubmit, kGiveUp };

class FakeEngine : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options);
  FakeEngine(FakeEngineOptions options, NextTokenFn model);
  ~FakeEngine() override;

  State state() const override;
  void submit(uint64_t generation, Step step, StepDone done) override;
  void send_masks(uint64_t generation, StepId step, std::span<const TokenMask> masks) override;
  void give_up(uint64_t generation, const absl::Status& why) override;
  void set_state_listener(std::function<void()> listener) override;
  void set_kv_listener(KvListener listener) override;

  /// Has the disks tell what they have, as a new generation's stages do.
  void tell_disks();
  /// Tells the oldest report of a disk in this thread; false if there is none. Where the engine is threaded, it does
  /// so itself.
  bool run_disk();
  /// Says whether a record is not written, or not read. Set before the first submit.
  void set_disk_fault(std::function<bool()> fault) { disk_fault_ = std::move(fault); }
  int64_t restored() const;  ///< Blocks read from all disks.

  /// The steps in flight and all later ones fail with `status`, until recover().
  void lose(const absl::Status& status);
  /// Up again with empty caches, as a new generation.
  void recover(EngineLimits limits) { recover(limits, KeptCaches::kNone); }
  /// As recover(), with the caches as they were (State::keeps_caches). Of the steps that were in flight it wrote
  /// rubbish.
  void recover_with_caches(EngineLimits limits) { recover(limits, KeptCaches::kAll); }
  /// As recover_with_caches(), but only of what was wanted of the last generation: the rest is rubbish, and all is
  /// where nobody said.
  void recover_with_wanted(EngineLimits limits) { recover(limits, KeptCaches::kWanted); }
  /// As recover_with_wanted(), after the loss of a node whose buddy had copied what it had come to.
  void recover_with_copies(EngineLimits limits) {
    from_copies_ = true;
    recover(limits, KeptCaches::kWanted);
  }
  void want_caches(uint64_t generation, std::vector<CachedPlace> places, Duration worth) override;
  /// While held, steps are accepted but none is executed.
  void hold(bool held);
  /// Runs (or fails) the oldest step in flight in this thread; false if there is none.
  bool run_step();
  int64_t masks() const;  ///< Masks that steps have used.
  /// Changes results before they are told. Set before the first submit.
  void set_tamper(std::function<void(StepResult&)> tamper) { tamper_ = std::move(tamper); }
  /// Called, unlocked, before state(), submit() and give_up() do anything: may lose, recover, run_step. Set before the
  /// scheduler is made.
  void set_call_hook(std::function<void(EngineCall)> hook) { call_hook_ = std::move(hook); }

  /// As state(), but no call of the scheduler: safe within the hook.
  State state_now() const;
  /// Calls the listener, as if the state had changed.
  void notify();
  int in_flight() const;
  /// What a real cluster would not have survived; empty if the scheduler behaves.
  std::vector<std::string> violations() const;
  int64_t steps() const;
  int64_t rows_max() const;  ///< Most rows seen in one step.
  int in_flight_max() const;
  int64_t ends() const;         ///< Sequences that the workers were told to forget.
  int known_sequences() const;  ///< Sequences that the workers remember now.
  int64_t stale() const;        ///< Steps refused because their generation had ended.

 private:
  struct Known {
    SamplingParams sampling;
    std::vector<int32_t> tokens;
    int32_t prompt_tokens = 0;
    std::vector<int32_t> pooled = {};  // Whose rows are in its sum.
  };
  struct Pending {
    Step step;
    StepDone done;
  };

  using MaskKey = std::tuple<StepId, SeqId, int64_t>;  // And the position.

  void run();
  void recover(EngineLimits limits, KeptCaches keep);
  void keep_wanted();
  void execute_copies(const Step& step);
  void copy(const CachePlace& place, uint64_t entry);
  std::vector<uint64_t> restore_copies();
  void tear(const Step& step);
  bool has_masks(const Step& step) const;
  void finish_oldest(std::unique_lock<std::mutex>& lock);
  StepResult execute(const Step& step);
  void execute_slice(StepId step, const SeqSlice& slice, StepResult& result);
  absl::StatusOr<SampledToken> sample(StepId step, const SeqSlice& slice, const Known& known,
                                      std::span<const int32_t> tokens);
  void execute_prompt(const SeqSlice& slice, Known& known, StepResult& result);
  absl::StatusOr<int32_t> masked(const MaskKey& key, int32_t token) const;
  void execute_head(const SeqSlice& slice, const Known& known, StepResult& result);
  void execute_state(const SeqSlice& slice, const std::vector<int32_t>& cached);
  void check_submitted(const Step& step);
  void check_blocks(const Step& step);
  void check_slots(const Step& step);
  void check_restoring(const Step& step);
  void execute_saves(const Step& step);
  void execute_restore(const StoredRun& run);
  /// Keys of the blocks of a run's tokens.
  static std::vector<BlockKey> keys_of(const StoredRun& run);
  void violation(std::string text) { violations_.push_back(std::move(text)); }

  FakeEngineOptions options_;
  const NextTokenFn model_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::function<void()> listener_;
  std::function<void(EngineCall)> call_hook_;
  std::function<void(StepResult&)> tamper_;
  State state_;
  uint64_t next_step_ = 1;
  std::deque<Pending> queue_;
  bool held_ = false;
  bool stopping_ = false;
  std::unordered_map<SeqId, Known> known_;
  struct Cell {
    int32_t token = 0;        // Whose K and V it would hold,
    bool long_rope = false;   // rotated by these frequencies.
    int32_t next = kNoToken;  // What the head that drafts took for the token behind it.
  };
  std::map<std::pair<int32_t, int64_t>, Cell> cells_;        // By (block, offset).
  std::unordered_map<SlotId, std::vector<int32_t>> states_;  // By slot: the tokens that its state has seen.
  std::map<MaskKey, TokenMask> masks_;
  std::optional<std::vector<CachedPlace>> wanted_;  // Of the generation that has ended.
  struct Copied {
    uint64_t entry = 0;
    std::map<int64_t, Cell> cells = {};  // Of a block, by offset.
    std::vector<int32_t> state = {};
  };
  std::map<CachePlace, uint64_t> to_copy_;  // As KvCopier's.
  std::map<CachePlace, Copied> copied_;     // By the buddy.
  bool from_copies_ = false;
  KvListener kv_listener_;
  std::function<bool()> disk_fault_;
  std::vector<std::map<BlockKey, std::vector<int32_t>>> disks_;  // Of each stage: the tokens of its records.
  std::deque<std::tuple<uint64_t, NodeId, KvReport>> disk_reports_;
  std::map<SeqId, std::pair<std::vector<BlockId>, int>>
      restoring_;  // Blocks, and reports that are still to come.
  int64_t restored_ = 0;
  std::vector<std::string> violations_;
  int64_t steps_ = 0;
  int64_t masks_used_ = 0;
  int64_t rows_max_ = 0;
  int in_flight_max_ = 0;
  int64_t ends_ = 0;
  int64_t stale_ = 0;
  std::thread thread_;
};

}  // namespace shoal
