// The masks of one sequence: each is computed on the pool as soon as the token before it is known or drafted, and sent
// when a step waits for it. Which of the two comes first does not matter.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "exec/engine.h"
#include "sched/mask_pool.h"
#include "sched/token_constraint.h"

namespace shoal {

/// Its calls come from the scheduler's thread and return at once. Masks stay until the next token is known: a
/// step that is lost with its cluster is composed again, and gets them again. Whatever was drafted, the masks of
/// rows that count are functions of the tokens before them.
class SequenceMasks : public std::enable_shared_from_this<SequenceMasks> {
 public:
  /// `prototype` is cloned on the pool. Pool and engine must outlive it, jobs on the pool included.
  SequenceMasks(SeqId id, std::shared_ptr<const TokenConstraint> prototype, MaskPool& pool, Engine& engine);

  /// Computes the mask of the first token. Call once.
  void begin();

  /// The next token is known.
  void accept(int32_t token);

  /// Tokens that must come next, as far as it is known already.
  std::vector<int32_t> forced() const;

  /// `step` of `generation` samples the token at `position`, and one more behind each token of `draft`, which is fed to
  /// follow it. All of those rows wait for their masks. A row behind a drafted token that may not come gets some mask:
  /// what it gives is never read.
  void wanted_by(uint64_t generation, StepId step, int64_t position, std::span<const int32_t> draft = {});

 private:
  /// A step that waits.
  struct Want {
    uint64_t generation = 0;
    StepId step;
    int64_t position = 0;
    std::vector<int32_t> draft;
  };
  /// What a job leaves to the next. masks[i] is that of the token behind ahead[0] to ahead[i - 1].
  struct Known {
    std::deque<int32_t> ahead;  ///< Drafted tokens that the constraint has taken.
    std::deque<TokenMask> masks;
    std::vector<int32_t> draft;  ///< Looked at as far as it may come.
    std::deque<int32_t> forced;  ///< That must come next.

    bool covers(std::span<const int32_t> wanted) const;
  };

  void post_locked();
  void run();
  void go_on(const std::deque<int32_t>& tokens, Known& known);
  absl::Status take(int32_t token, Known& known);
  absl::Status go_back(size_t kept, Known& known);
  void look_ahead(const std::vector<int32_t>& draft, Known& known);
  absl::Status rebuild();
  void compute_mask(Known& known);
  void send(const Want& want, const std::deque<TokenMask>& masks) const;

  const SeqId id_;
  const std::shared_ptr<const TokenConstraint> prototype_;
  MaskPool& pool_;
  Engine& engine_;
  // These belong to the job, of which there is one at a time.
  std::unique_ptr<TokenConstraint> constraint_;
  std::vector<int32_t> taken_;  ///< Accepted tokens that the constraint has taken.
  bool looked_ahead_ = false;   ///< The constraint has taken back tokens.
  bool may_look_ahead_ = true;  ///< Until that goes wrong.

  mutable std::mutex mutex_;      ///< Guards all below.
  std::deque<int32_t> accepted_;  ///< Tokens that no job has taken yet.
  bool running_ = false;          ///< A job is posted; it has known_.
  bool ready_ = false;            ///< known_ is of all accepted tokens.
  Known known_;
  std::deque<int32_t> forced_;
  std::optional<Want> want_;
};

}  // namespace shoal
