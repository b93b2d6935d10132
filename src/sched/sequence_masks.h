// The masks of one sequence: each is computed on the pool as soon as the token before it is known, and sent when
// a step waits for it. Which of the two comes first does not matter.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "exec/engine.h"
#include "sched/mask_pool.h"
#include "sched/token_constraint.h"

namespace shoal {

/// Its calls come from the scheduler's thread and return at once. A mask stays until the next token is known: a
/// step that is lost with its cluster is composed again, and gets it again.
class SequenceMasks : public std::enable_shared_from_this<SequenceMasks> {
 public:
  /// `prototype` is cloned on the pool. Pool and engine must outlive it, jobs on the pool included.
  SequenceMasks(SeqId id, std::shared_ptr<const TokenConstraint> prototype, MaskPool& pool, Engine& engine);

  /// Computes the mask of the first token. Call once.
  void begin();

  /// The next token is known.
  void accept(int32_t token);

  /// `step` of `generation` samples the token at `position` and waits for its mask.
  void wanted_by(uint64_t generation, StepId step, int64_t position);

 private:
  /// A step that waits.
  struct Want {
    uint64_t generation = 0;
    StepId step;
    int64_t position = 0;
  };

  void post_locked();
  void run();
  absl::Status advance(const std::deque<int32_t>& tokens, std::vector<uint32_t>& words);
  void send(const Want& want, TokenMask mask) const;

  const SeqId id_;
  const std::shared_ptr<const TokenConstraint> prototype_;
  MaskPool& pool_;
  Engine& engine_;
  std::unique_ptr<TokenConstraint> constraint_;  ///< Belongs to the job, of which there is one at a time.

  std::mutex mutex_;              ///< Guards all below.
  std::deque<int32_t> accepted_;  ///< Tokens that no job has taken yet.
  bool running_ = false;          ///< A job is posted.
  bool ready_ = false;            ///< mask_ is that of the next token.
  TokenMask mask_;
  std::optional<Want> want_;
};

}  // namespace shoal
