#include "sched/sequence_masks.h"

#include <utility>

#include "base/status.h"

namespace shoal {

SequenceMasks::SequenceMasks(SeqId id, std::shared_ptr<const TokenConstraint> prototype, MaskPool& pool,
                             Engine& engine)
    : id_(id), prototype_(std::move(prototype)), pool_(pool), engine_(engine) {}

void SequenceMasks::begin() {
  const std::lock_guard lock(mutex_);
  post_locked();
}

void SequenceMasks::accept(int32_t token) {
  const std::lock_guard lock(mutex_);
  ready_ = false;
  accepted_.push_back(token);
  if (!running_) post_locked();
}

void SequenceMasks::post_locked() {
  running_ = true;
  pool_.post([self = shared_from_this()] { self->run(); });
}

void SequenceMasks::wanted_by(uint64_t generation, StepId step, int64_t position) {
  const Want want{generation, step, position};
  TokenMask mask;
  {
    const std::lock_guard lock(mutex_);
    if (!ready_) {
      want_ = want;
      return;
    }
    mask = mask_;
  }
  send(want, std::move(mask));
}

/// The pool's job: until no token is left that the mask does not know of.
void SequenceMasks::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    const std::deque<int32_t> tokens = std::exchange(accepted_, {});
    lock.unlock();
    TokenMask mask{.id = id_};
    mask.status = advance(tokens, mask.words);
    if (!mask.status.ok()) mask.words.clear();
    lock.lock();
    if (!accepted_.empty()) continue;
    mask_ = std::move(mask);
    ready_ = true;
    running_ = false;
    break;
  }
  if (!want_.has_value()) return;
  const Want want = *std::exchange(want_, std::nullopt);
  TokenMask sent = mask_;
  lock.unlock();
  send(want, std::move(sent));
}

absl::Status SequenceMasks::advance(const std::deque<int32_t>& tokens, std::vector<uint32_t>& words) {
  if (constraint_ == nullptr) {
    ASSIGN_OR_RETURN(constraint_, prototype_->clone());
  }
  for (const int32_t token : tokens) {
    // Sampled under a mask of this very constraint: that it does not fit is no fault of the request.
    const absl::Status taken = constraint_->consume(token);
    if (!taken.ok()) return Internal("the grammar refused a token that it had allowed: {}", Message(taken));
  }
  RETURN_IF_ERROR(constraint_->mask(words));
  return words.empty() ? Internal("the grammar gave a mask without a word") : absl::OkStatus();
}

void SequenceMasks::send(const Want& want, TokenMask mask) const {
  mask.position = static_cast<int32_t>(want.position);
  engine_.send_masks(want.generation, want.step, {&mask, 1});
}

}  // namespace shoal
