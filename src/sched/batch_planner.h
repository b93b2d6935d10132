// Which sequences run in the next step, with how many tokens, in which blocks. Continuous batching: sequences
// join and leave at every step; long prompts are cut into chunks; when blocks run out the youngest sequence of the
// lowest priority gives its own back. Source: Yu et al. 2022 (Orca), iteration-level scheduling; Kwon et al. 2023,
// arXiv:2309.06180, paged KV; Agrawal et al. 2024, arXiv:2403.02310, chunked prefill that rides along with
// decodes.
#pragma once

#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "exec/engine.h"
#include "kv/block_pool.h"
#include "sched/cache_ledger.h"
#include "sched/drafter.h"
#include "sched/fits.h"
#include "sched/load_cost.h"
#include "sched/pipeline_model.h"
#include "sched/prefill_pacer.h"
#include "sched/prompt_results.h"
#include "sched/sequence.h"
#include "sched/wait_predictor.h"
#include "sched/waiting_queue.h"

namespace shoal {

struct BatchPlannerOptions {
  int rows_per_step = 256;   ///< Token budget of one step: decode rows first, prefill chunks fill the rest.
  int sequences_max = 256;   ///< Sequences that hold blocks at once; never more than rows_per_step.
  bool prefix_cache = true;  ///< Sequences start from what others have computed.
  int draft_max = 0;         ///< Tokens drafted for one sequence in one step at most; 0: none.
  DraftWhen draft_when = DraftWhen::kPays;
  /// While sequences decode, prompts get no more of a step than keeps it within this time; 0: as much as there is.
  Duration target_itl{};
};

/// Prompt rows of the next step, where `rows_left` rows of prompts wait. One stage takes as many as it may.
/// Of S stages in a row all work only while n > S - 1 chunks are on their way: n chunks take as long as n + S
/// - 1, so that more and smaller ones waste less, until the cost of a step as such tells. As the rows left
/// grow fewer the chunks grow smaller, which drains the stages evenly.
int64_t PrefillChunkRows(int64_t rows_left, int stages, int64_t rows_per_step);

/// What becomes of started sequences when their engine is lost.
struct LossPolicy {
  /// They wait for the next generation, to begin again from their tokens; else they end.
  bool resume = true;
  /// A sequence that was in the failing step so often in a row, without a token between, ends: it may be what
  /// brings the cluster down.
  int losses_in_a_row_max = 5;
  /// What is in the caches may be used again where they are kept. It is not, in any case, where a sequence was in the
  /// failing step twice in a row: the reason may lie there.
  bool trust_caches = true;
};

/// The state of all sequences, and their room in the caches. Belongs to the scheduler's thread; does no I/O and calls
/// nobody.
class BatchPlanner {
 public:
  explicit BatchPlanner(BatchPlannerOptions options);

  /// A new generation of the engine, which keeps so much of the caches of the one before it
  /// (Engine::State::keeps_caches, but for what is `missing`); if any, this planner composed all steps of that one. No
  /// sequence may hold blocks (lose_generation first). CHECKs CheckLimits. All sequences must fit the new limits
  /// (CheckFits) before the next compose.
  void reset(const EngineLimits& limits, KeptCaches kept = KeptCaches::kNone,
             std::span<const uint64_t> missing = {});
  /// After lose_generation(): CacheLedger::want() of the sequences that wait to continue.
  CacheLedger::Wanted wanted();
  /// As CacheLedger::copy_all(): a node has another buddy.
  void copy_again() { caches_.copy_all(); }

  /// Puts a fresh sequence into the queue.
  void enqueue(std::unique_ptr<Sequence> sequence);

  /// The sequence that waits or runs under this id; nullptr where it is unknown or has ended.
  Sequence* find(SeqId id) const;

  /// The next step, or nullopt if no sequence can use one now. Marks what it takes as in flight.
  std::optional<Step> compose(StepId id);

  /// What a step gave one sequence.
  struct Outcome {
    SeqId id;
    /// Those of the result, to the first that was drafted otherwise; none where status is not OK.
    std::span<const SampledToken> tokens;
    absl::Status status;                        ///< Why the sequence can't go on; whoever hears it ends it.
    std::span<const SampledToken> scores = {};  ///< Of its prompt, those that nobody has been told.
    std::span<const float> embedding = {};
    std::span<const int32_t> drafted = {};  ///< Behind `tokens`.
    bool complete = false;  ///< Its prompt was all that was asked for: whoever hears it ends it.
  };
  /// The oldest step in flight (of which there is one) came back, `elapsed_ns` after it was submitted (0: nobody
  /// looked). Appends the sampled ids to their sequences, returns those of sequences that have not ended, and gives
  /// blocks back that no step in flight names. A sequence that failed with drafts among its rows goes on without.
  /// Internal if the result does not match the step: then nothing has changed. `result` must outlive what is returned.
  absl::StatusOr<std::vector<Outcome>> acknowledge(const StepResult& result, int64_t elapsed_ns = 0);

  /// What a stage told of its disk, after the engine's generation began: sequences whose blocks were restored on all
  /// stages go on.
  void disk_report(NodeId node, const KvReport& report);

  /// The draft model's engine is up, as a new generation, or gone. Sequences go on without it.
  void reset_draft_model(const EngineLimits& limits) { drafter_.reset_model(limits); }
  void lose_draft_model() { drafter_.lose_model(); }
  /// The next step for the draft model's engine, of which one is in flight at a time; nullopt if there is none to do.
  std::optional<Step> compose_draft() { return drafter_.compose(); }
  /// It came back. Internal if the result does not match it: then the draft model is to be lost.
  absl::Status acknowledge_draft(const StepResult& result, int64_t rows, int64_t ns) {
    return drafter_.acknowledge(result, rows, ns);
  }

  /// Ends a waiting or running sequence. Its blocks return once no step in flight names them.
  void end(SeqId id);

  /// The engine is gone, with the caches and the steps in flight. Sequences that hold blocks go back to the
  /// queue, ahead of all younger ones, to begin again from their tokens; those that `policy` gives up are
  /// removed and returned. The queue stays, preempted sequences included.
  std::vector<std::unique_ptr<Sequence>> lose_generation(const LossPolicy& policy);

  /// Ids of all sequences that wait (in the order in which they would be admitted now) or run.
  std::vector<SeqId> waiting_ids() const;
  std::vector<SeqId> live_ids() const;
  /// Of the sequences that hold blocks and have not ended, in the order in which their prompts are computed.
  std::vector<RemainingWork> remaining_work() const;

  int waiting() const { return waiting_.size(); }
  /// Those of them that never held blocks, and the tokens of their prompts.
  int queued() const { return waiting_.fresh(); }
  int64_t queued_tokens() const { return waiting_.fresh_tokens(); }
  /// Sequences that hold blocks and have not ended.
  int running() const { return static_cast<int>(running_.size()) + draining_; }
  int steps_in_flight() const { return static_cast<int>(in_flight_.size()); }
  /// Restores of sequences from disk that have not ended.
  int restores_in_flight() const { return caches_.disk().outstanding(); }
  int64_t preemptions() const { return preemptions_; }
  int64_t restarts() const { return restarts_; }  ///< Sequences put back by lose_generation.
  const CacheLedger& caches() const { return caches_; }
  const DraftTotals& drafts() const { return drafter_.totals(); }
  const DraftTotals& model_drafts() const { return drafter_.model_totals(); }  ///< Those of the draft model.
  const DraftTotals& mtp_drafts() const { return drafter_.mtp_totals(); }  ///< Those of the model's own head.
  const DraftModelStats& draft_model() const { return drafter_.model().stats(); }

  /// I7; and that each block and slot has as many owners as sequences that hold it.
  absl::Status verify() const;

 private:
  /// A sequence with a slice in a step.
  struct Named {
    SeqId id;
    int64_t begin = 0;     // The first position of its slice,
    int64_t end = 0;       // and behind the last that holds what the sequence has.
    bool sampled = false;  // It gets a token, and one for each that is drafted.
    PromptDue due = {};
    bool completes = false;  // It ends with this slice.
    Draft draft = {};        // Behind the tokens of the slice that the sequence has.
    bool asks_head = false;  // SeqSlice::draft

    int64_t tokens_max() const { return sampled ? 1 + std::ssize(draft.tokens) : 0; }
    /// Those of `tokens` that the sequence gets: to the first that was drafted otherwise.
    int64_t accepted(std::span<const SampledToken> tokens) const;
    /// The result says something of it.
    bool told() const { return sampled || due.any(); }
  };
  struct InFlight {
    StepId id;
    std::vector<Named> named;
    int64_t rows = 0;
    StepLoad load;
    bool decoding = false;  // Sequences decoded when it was composed, in it or in another step.
    bool decodes_only = false;
    bool alone = false;  // No other step has been in flight with it.
  };

  static BatchPlannerOptions Bounded(BatchPlannerOptions options);
  absl::StatusOr<Outcome> read_one(const Named* named, const SeqResult& one, StepId step) const;
  void tell_of_prompts(const std::vector<Named>& named, std::vector<Outcome>& outcomes);
  absl::StatusOr<std::vector<Outcome>> read(const InFlight& record, const StepResult& result) const;
  bool settle(Named& named, const Outcome& outcome);
  void observe(const InFlight& record, std::span<const StageTiming> timings, int64_t elapsed_ns);
  void add_decodes(Step& step, InFlight& record);
  std::optional<std::vector<Draft>> draft(std::span<Sequence* const> decodes, bool alone);
  int64_t prefill_rows(int64_t rows_left) const;
  void add_prefills(Step& step, InFlight& record);
  void admit();
  void charge(Sequence& sequence);
  void add_slice(Sequence& sequence, int64_t rows, Step& step, InFlight& record);
  void add_draft_slice(Sequence& sequence, Draft draft, Step& step, InFlight& record);
  void note_slice(Sequence& sequence, StepId step, SeqSlice& slice, Named& named);
  void begin(Sequence& sequence, Step& step);
  void make_room(Sequence& sequence, std::vector<int32_t>& draft);
  bool grow(Sequence& sequence, int64_t positions);
  bool shed_blocks();
  bool sheds_later() const;
  void preempt(Sequence& sequence);
  void requeue(Sequence& sequence);
  bool outgrown(const Sequence& sequence) const;
  void step_returned(Sequence& sequence);
  void forget_workers();
  int64_t rows_left(const Step& step) const { return options_.rows_per_step - step.rows(); }

  const BatchPlannerOptions options_;
  EngineLimits limits_;
  PipelineModel model_{1};
  PrefillPacer pacer_{{}, 1};
  CacheLedger caches_;
  Drafter drafter_;
  std::unordered_map<SeqId, std::unique_ptr<Sequence>> sequences_;
  WaitingQueue waiting_;
  using Rank = std::pair<int, SeqId>;  // Priority, then arrival: the last one is preempted first.
  static Rank RankOf(const Sequence& sequence) { return {sequence.request.priority, sequence.id}; }
  std::map<Rank, Sequence*> running_;
  int draining_ = 0;
  int64_t returning_blocks_ =
      0;  // Held by draining and ended sequences: they come back with steps in flight.
  std::deque<InFlight> in_flight_;
  std::vector<SeqId> ends_;  // To be told to the workers with the next step.
  int64_t preemptions_ = 0;
  int64_t restarts_ = 0;
};

}  // namespace shoal
