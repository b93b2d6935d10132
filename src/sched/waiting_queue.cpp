#include "sched/waiting_queue.h"

#include <algorithm>
#include <optional>
#include <tuple>

namespace shoal {

// Where nobody waits it is the one that waited last.
int64_t WaitingQueue::Level::given_least() const {
  std::optional<int64_t> least;
  for (const auto& [name, party] : parties) {
    if (!party.fresh.empty()) least = std::min(least.value_or(party.given), party.given);
  }
  if (least.has_value()) return *least;
  return left_last == nullptr ? 0 : left_last->given;
}

void WaitingQueue::insert(Sequence& sequence) {
  Level& level = levels_[sequence.request.priority];
  ++size_;
  if (sequence.started) {
    level.begun.emplace(sequence.id, &sequence);
    return;
  }
  Party& party = level.parties[sequence.request.party];
  if (party.fresh.empty()) party.given = std::max(party.given, level.given_least());
  party.fresh.emplace(sequence.id, &sequence);
  ++fresh_;
  fresh_tokens_ += std::ssize(sequence.request.prompt);
}

void WaitingQueue::erase(const Sequence& sequence) {
  const auto level = levels_.find(sequence.request.priority);
  if (level == levels_.end()) return;
  const auto party = level->second.parties.find(sequence.request.party);
  if (party != level->second.parties.end() && party->second.fresh.erase(sequence.id) == 1) {
    --size_;
    --fresh_;
    fresh_tokens_ -= std::ssize(sequence.request.prompt);
    level->second.left_last = &party->second;
  } else if (level->second.begun.erase(sequence.id) == 1) {
    --size_;
  }
}

void WaitingQueue::charge(const Sequence& sequence, int64_t tokens) {
  levels_[sequence.request.priority].parties[sequence.request.party].given += tokens;
}

std::vector<SeqId> WaitingQueue::ids() const {
  std::vector<SeqId> ids;
  Walk walk(*this);
  while (const Sequence* sequence = walk.next()) ids.push_back(sequence->id);
  return ids;
}

WaitingQueue::Walk::Walk(const WaitingQueue& queue)
    : level_(queue.levels_.begin()), end_(queue.levels_.end()) {
  if (level_ != end_) open();
}

void WaitingQueue::Walk::open() {
  const Level& level = level_->second;
  if (!level.begun.empty()) cursors_.push_back({nullptr, level.begun.begin(), level.begun.end()});
  for (const auto& [name, party] : level.parties) {
    if (!party.fresh.empty()) cursors_.push_back({&party, party.fresh.begin(), party.fresh.end()});
  }
}

Sequence* WaitingQueue::Walk::next() {
  while (cursors_.empty()) {
    if (level_ == end_ || ++level_ == end_) return nullptr;
    open();
  }
  const auto first = std::ranges::min_element(cursors_, {}, [](const Cursor& cursor) {
    const bool begun = cursor.party == nullptr;
    return std::tuple(!begun, begun ? 0 : cursor.party->given, cursor.at->first);
  });
  Sequence* sequence = first->at->second;
  if (++first->at == first->end) cursors_.erase(first);
  return sequence;
}

}  // namespace shoal
