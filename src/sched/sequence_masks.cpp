#include "sched/sequence_masks.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {

bool Allows(const TokenMask& mask, int32_t token) {
  const auto id = static_cast<size_t>(token);
  return id / 32 < mask.words.size() && (mask.words[id / 32] >> (id % 32) & 1) != 0;
}

/// `token` has come: of what was forced, the rest is left, or nothing.
void PassForced(int32_t token, std::deque<int32_t>& forced) {
  if (!forced.empty() && forced.front() == token) {
    forced.pop_front();
  } else {
    forced.clear();
  }
}

}  // namespace

bool SequenceMasks::Known::covers(std::span<const int32_t> wanted) const {
  if (std::ranges::equal(wanted, draft)) return true;
  return wanted.size() <= ahead.size() && std::equal(wanted.begin(), wanted.end(), ahead.begin());
}

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
  PassForced(token, forced_);
  accepted_.push_back(token);
  if (!running_) post_locked();
}

std::vector<int32_t> SequenceMasks::forced() const {
  const std::lock_guard lock(mutex_);
  return {forced_.begin(), forced_.end()};
}

void SequenceMasks::post_locked() {
  running_ = true;
  pool_.post([self = shared_from_this()] { self->run(); });
}

void SequenceMasks::wanted_by(uint64_t generation, StepId step, int64_t position,
                              std::span<const int32_t> draft) {
  Want want{generation, step, position, {draft.begin(), draft.end()}};
  std::deque<TokenMask> masks;
  {
    const std::lock_guard lock(mutex_);
    if (!ready_ || !known_.covers(want.draft)) {
      want_ = std::move(want);
      if (!running_) post_locked();
      return;
    }
    masks = known_.masks;
  }
  send(want, masks);
}

/// The pool's job: until there is no token that the masks do not know of, and no step that waits for others.
void SequenceMasks::run() {
  std::unique_lock lock(mutex_);
  Known known = std::exchange(known_, {});
  while (true) {
    const std::deque<int32_t> tokens = std::exchange(accepted_, {});
    const std::optional<Want> want = want_;
    lock.unlock();
    go_on(tokens, known);
    if (want.has_value() && !known.covers(want->draft)) look_ahead(want->draft, known);
    lock.lock();
    if (accepted_.empty() && (!want_.has_value() || known.covers(want_->draft))) break;
  }
  forced_ = known.forced;
  const std::optional<Want> want = std::exchange(want_, std::nullopt);
  const std::deque<TokenMask> masks = want.has_value() ? known.masks : std::deque<TokenMask>{};
  known_ = std::move(known);
  ready_ = true;
  running_ = false;
  lock.unlock();
  if (want.has_value()) send(*want, masks);
}

void SequenceMasks::go_on(const std::deque<int32_t>& tokens, Known& known) {
  absl::Status status = constraint_ == nullptr ? rebuild() : absl::OkStatus();
  for (const int32_t token : tokens) {
    if (status.ok()) status = take(token, known);
  }
  if (!status.ok()) {
    known = {.ahead = {}, .masks = {TokenMask{.id = id_, .status = std::move(status)}}};
  } else if (known.masks.empty()) {
    compute_mask(known);
  }
}

/// A token that was drafted, and its mask, are there already. A constraint that has looked ahead may have reached a
/// limit by that alone: then it is asked again without, here as in compute_mask().
absl::Status SequenceMasks::take(int32_t token, Known& known) {
  PassForced(token, known.forced);
  known.draft.clear();
  if (!known.ahead.empty() && known.ahead.front() == token) {
    known.ahead.pop_front();
    known.masks.pop_front();
    taken_.push_back(token);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(go_back(0, known));
  known.masks.clear();
  absl::Status consumed = constraint_->consume(token);
  if (!consumed.ok() && looked_ahead_) {
    may_look_ahead_ = false;
    RETURN_IF_ERROR(rebuild());
    consumed = constraint_->consume(token);
  }
  // Sampled under a mask of this very constraint: that it does not fit is no fault of the request.
  if (!consumed.ok()) {
    return Internal("the grammar refused a token that it had allowed: {}", Message(consumed));
  }
  taken_.push_back(token);
  return absl::OkStatus();
}

/// Only the first `kept` of the drafted tokens stay.
absl::Status SequenceMasks::go_back(size_t kept, Known& known) {
  if (known.ahead.size() <= kept) return absl::OkStatus();
  const absl::Status status = constraint_->rewind(std::ssize(known.ahead) - static_cast<int64_t>(kept));
  known.ahead.resize(kept);
  known.masks.resize(kept + 1);
  return status.ok() ? status : rebuild();
}

/// Takes drafted tokens as far as they may come. Without an error: what goes wrong there is as if nothing had been
/// drafted.
void SequenceMasks::look_ahead(const std::vector<int32_t>& draft, Known& known) {
  known.draft = draft;
  if (!known.masks.front().status.ok()) return;
  const auto differs = std::ranges::mismatch(known.ahead, draft).in1;
  absl::Status status = go_back(static_cast<size_t>(differs - known.ahead.begin()), known);
  while (status.ok() && may_look_ahead_ && known.ahead.size() < draft.size()) {
    const int32_t token = draft[known.ahead.size()];
    if (!Allows(known.masks.back(), token)) return;
    looked_ahead_ = true;
    status = constraint_->consume(token);
    if (!status.ok()) break;
    known.ahead.push_back(token);
    TokenMask mask{.id = id_};
    status = constraint_->mask(mask.words);
    if (status.ok()) known.masks.push_back(std::move(mask));
  }
  if (status.ok()) return;
  may_look_ahead_ = false;
  known.ahead.clear();
  known.masks.resize(1);
  status = rebuild();
  if (!status.ok()) known.masks.front() = {.id = id_, .status = std::move(status)};
}

/// The state behind the accepted tokens, from the beginning.
absl::Status SequenceMasks::rebuild() {
  looked_ahead_ = false;
  ASSIGN_OR_RETURN(constraint_, prototype_->clone());
  for (const int32_t token : taken_) RETURN_IF_ERROR(constraint_->consume(token));
  return absl::OkStatus();
}

/// That of the token behind the accepted ones.
void SequenceMasks::compute_mask(Known& known) {
  TokenMask& mask = known.masks.emplace_back(TokenMask{.id = id_});
  const auto ask = [&]() -> absl::Status {
    const absl::StatusOr<std::vector<int32_t>> forced = constraint_->forced();
    known.forced.clear();
    if (forced.ok()) known.forced.assign(forced->begin(), forced->end());
    return constraint_->mask(mask.words);
  };
  mask.status = ask();
  if (!mask.status.ok() && looked_ahead_) {
    may_look_ahead_ = false;
    mask.status = rebuild();
    if (mask.status.ok()) mask.status = ask();
  }
  if (mask.status.ok() && mask.words.empty())
    mask.status = Internal("the grammar gave a mask without a word");
  if (!mask.status.ok()) mask.words.clear();
}

// Rows behind a draft that may not come get the last mask that there is.
void SequenceMasks::send(const Want& want, const std::deque<TokenMask>& masks) const {
  std::vector<TokenMask> sent;
  for (size_t i = 0; i <= want.draft.size(); ++i) {
    sent.push_back(masks[std::min(i, masks.size() - 1)]);
    sent.back().position = static_cast<int32_t>(want.position + static_cast<int64_t>(i));
  }
  engine_.send_masks(want.generation, want.step, sent);
}

}  // namespace shoal
