// One step of the whole cluster: which rows of which sequences run, decided by the coordinator and carried
// from stage to stage together with the rows. A worker is a deterministic function of the steps it receives.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "compute/sampling_params.h"
#include "kv/block_image.h"
#include "kv/block_key.h"
#include "kv/kv_cache.h"

namespace shoal {

/// A sequence as the last stage must know it; sent once, and again after a re-prefill.
struct NewSequence {
  SeqId id;
  SamplingParams sampling;
  std::vector<int32_t> tokens;  ///< All ids known so far: prompt, then generated (after a replay).
  int32_t prompt_tokens = 0;    ///< How many of them are the prompt.
  bool operator==(const NewSequence&) const = default;
};

/// The first position that a row at `position` sees where layers see `window` positions at most.
constexpr int64_t FirstVisible(int64_t position, int64_t window) {
  return position < window ? 0 : position + 1 - window;
}

/// More copies no step orders.
inline constexpr int64_t kCopiesPerStepMax = 1024;

/// In a block table, in the place of a block behind the windows of all layers, which the sequence has given back.
inline constexpr BlockId kNoBlock{-1};

/// SeqSlice::sample_from of a slice of which nothing is sampled.
inline constexpr int32_t kNoSample = -1;

/// SeqSlice::next_token of one that is unknown.
inline constexpr int32_t kNoToken = -1;

/// Tokens that a head for multi-token prediction drafts at once.
inline constexpr int64_t kMtpTokens = 1;

/// What becomes of the rows of a slice, behind the final norm, on their way to the sequence's embedding.
enum class Pool : uint8_t {
  kNone = 0,
  kLast = 1,  ///< The last row is the embedding.
  kSum = 2,   ///< All are added to the sequence's sum: more follow.
  kMean = 3,  ///< So they are, and the sum, divided by its rows, is the embedding.
};

/// Consecutive tokens of one sequence in this step.
struct SeqSlice {
  SeqId id;
  int32_t position = 0;  ///< Absolute position of tokens[0].
  std::vector<int32_t> tokens;
  /// Block table that covers position + tokens.size(). kNoBlock where no row sees a position of it.
  std::vector<BlockId> blocks;
  /// Index, within the slice's rows, of the first row that is sampled; so is every row behind it. Row r gives
  /// the token at position + r + 1.
  int32_t sample_from = kNoSample;
  /// The sequence is longer than EngineLimits::short_rope_positions: its cache holds keys that are rotated by
  /// the long frequencies, from position 0 on. It never changes while a sequence keeps its cache.
  bool long_rope = false;
  /// Of models that keep states (StepSlice, compute/stage_step.h): the slot of the state behind `position` tokens,
  /// and where states go, ascending, the last behind all tokens. One before it, at a block boundary, may be a snapshot,
  /// for others with the same beginning; else the sequence goes on there if what was drafted behind it is wrong.
  SlotId state_from = kNoState;
  std::vector<StateWrite> state_to;
  /// Each sampled row waits for its mask (TokenMask) before a token is drawn from its logits.
  bool masked = false;
  /// Row i says how likely scored[i] was to stand at position + i + 1; rows behind the last of them are not asked.
  std::vector<int32_t> scored;
  Pool pool = Pool::kNone;
  /// Where the last stage predicts (EngineLimits::mtp): the token behind `tokens`, where it is known, as that of a
  /// prompt that is cut here. kNoToken: it is not, or is sampled.
  int32_t next_token = kNoToken;
  /// What may follow the sampled tokens is wanted (SeqResult::drafted).
  bool draft = false;
  bool operator==(const SeqSlice&) const = default;
};

/// The last blocks of a run of tokens, as all stages keep them on their disks, each for its layers.
struct StoredRun {
  SeqId id;                     ///< Whose they are to be, of a restore.
  BlockKey root;                ///< RootKey: where the keys of the blocks begin.
  std::vector<int32_t> tokens;  ///< All from the sequence's first on, up to the end of the last block.
  std::vector<BlockId> blocks;  ///< Of the last 32 * blocks.size() of them.
  /// Of models that keep states: those to be saved, and where they are; or the one behind all tokens, and where it
  /// is to be restored.
  std::vector<StateWrite> states;
  bool operator==(const StoredRun&) const = default;
};

struct Step {
  StepId id;
  std::vector<NewSequence> begins;  ///< Sequences first seen in this step.
  std::vector<SeqId> ends;          ///< Sequences to forget (finished, cancelled).
  std::vector<SeqSlice> slices;     ///< In row order.
  /// What each stage copies out of its caches before its layers run, to keep it on disk. A copy or two may be lost.
  std::vector<StoredRun> saves;
  /// What each stage begins to read from its disk, after that, into blocks that no slice names before the coordinator
  /// has heard from all stages (KvReport).
  std::vector<StoredRun> restores;
  /// What each stage with a buddy copies for it, in its own time, before a later step writes there. Numbered.
  std::vector<CachedPlace> copies;
  bool want_logits =
      false;  ///< Return the logits of every row (shoal logits, the harness). They travel only then.
  bool want_routing = false;  ///< Return every MoE layer's choice.
  bool operator==(const Step&) const = default;

  bool has_orders() const { return !saves.empty() || !restores.empty() || !copies.empty(); }
  int64_t rows() const {
    int64_t n = 0;
    for (const SeqSlice& slice : slices) n += static_cast<int64_t>(slice.tokens.size());
    return n;
  }
};

/// Which tokens may take one position of one sequence. It goes straight to the node that samples, while the layers
/// of its step run.
struct TokenMask {
  SeqId id;
  int32_t position = 0;  ///< That the token will take.
  /// Bit i % 32 of words[i / 32]: token i may come. Ids without a bit may not. At least one word.
  std::vector<uint32_t> words;
  absl::Status status;  ///< Why there is no mask, which ends the sequence; `words` is then empty.
  bool operator==(const TokenMask&) const = default;
};

/// Why a sequence can't go on: an error of its own, which ends no other. It says where, and what to do.
struct SeqFailure {
  SeqId id;
  absl::Status status;
  bool operator==(const SeqFailure&) const = default;
};

/// What a step gave one sequence: of those of which something was asked, and of those that failed.
struct SeqResult {
  SeqId id;
  std::vector<SampledToken> tokens;  ///< One per sampled row, in row order.
  absl::Status status;               ///< Why the sequence can't go on; all else is then empty.
  std::vector<SampledToken>
      scores;                    ///< One per token of SeqSlice::scored, with SamplingParams::top_logprobs.
  std::vector<float> embedding;  ///< [D], where SeqSlice::pool is kLast or kMean.
  /// What may follow `tokens`, up to the first of them that is not the one in the slice, where SeqSlice::draft asks for
  /// it: kMtpTokens at most.
  std::vector<int32_t> drafted;
  bool operator==(const SeqResult&) const = default;
};

/// The experts chosen at one layer, ids [rows, top_k].
struct RoutingTrace {
  LayerId layer;
  int32_t top_k = 0;
  std::vector<int32_t> ids;
  bool operator==(const RoutingTrace&) const = default;
};

/// What a step took on one stage.
struct StageTiming {
  NodeId node;
  int64_t busy_ns = 0;             ///< From rows in to rows out, without waiting for others.
  int64_t expert_wait_ns = 0;      ///< Waiting for remote experts.
  int64_t expert_overhead_ns = 0;  ///< As PlannedExchange::overhead_ns.
  int64_t kv_saturated = 0;        ///< Keys and values that left the range of an f16 cache, and were clamped.
  int64_t mask_wait_ns = 0;        ///< Waiting for masks.

  /// From rows in to rows out, but for masks. A real number: a peer may tell any two integers.
  double elapsed_ns() const { return static_cast<double>(busy_ns) + static_cast<double>(expert_wait_ns); }
  bool operator==(const StageTiming&) const = default;
};

struct StepResult {
  StepId id;
  std::vector<SeqResult> sequences;
  std::vector<StageTiming> timings;
  /// [rows, V] when asked for, and the experts chosen: of the rows of sequences that did not fail.
  std::vector<float> logits;
  std::vector<RoutingTrace> routing;
};

}  // namespace shoal
