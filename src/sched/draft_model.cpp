#include "sched/draft_model.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "sched/fits.h"

namespace shoal {
namespace {

int64_t CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

}  // namespace

void DraftModel::reset(const EngineLimits& limits) {
  SHOAL_CHECK(CheckLimits(limits).ok() && limits.state_slots == 0);  // DraftRunner takes no others.
  lose();
  up_ = true;
  limits_ = limits;
  pool_ = BlockPool(limits.blocks);
  next_step_ = StepId{1};
}

void DraftModel::lose() {
  up_ = false;
  in_flight_ = false;
  pool_ = BlockPool(0);
  round_.clear();
  drafted_.clear();
  copies_.clear();
  ends_.clear();
}

bool DraftModel::drafts_for(SeqId id) const {
  return std::ranges::find(round_, id, &Member::id) != round_.end();
}

// The tokens of a sequence are only ever appended to, so what agreed once still does.
void DraftModel::agree(Copy& copy, const Sequence& sequence) const {
  const auto from = static_cast<size_t>(copy.agreed);
  copy.agreed += CommonPrefix(std::span(copy.tokens).subspan(from), std::span(sequence.tokens).subspan(from));
}

std::map<SeqId, DraftModel::Copy>::iterator DraftModel::most_alike(const Sequence& sequence) {
  auto best = copies_.end();
  int64_t longest = kBlockPositions - 1;  // Less is not worth its blocks.
  for (auto it = copies_.begin(); it != copies_.end(); ++it) {
    const Copy& copy = it->second;
    if (!copy.ended || copy.cursor.long_rope() != limits_.long_rope(std::ssize(sequence.tokens))) continue;
    const int64_t common = CommonPrefix(copy.tokens, sequence.tokens);
    if (common <= longest) continue;
    longest = common;
    best = it;
  }
  return best;
}

// One that is new goes on with the cache of one that has ended and began alike.
DraftModel::Copy& DraftModel::copy_of(const Sequence& sequence) {
  const bool long_rope = limits_.long_rope(std::ssize(sequence.tokens));
  const auto [it, fresh] = copies_.try_emplace(sequence.id);
  Copy& copy = it->second;
  if (fresh) {
    const auto alike = most_alike(sequence);
    SequenceRoom room{.long_rope = long_rope};
    if (alike != copies_.end()) {
      room.blocks = alike->second.cursor.blocks();
      copy.tokens = std::move(alike->second.tokens);
      copies_.erase(alike);
    }
    copy.cursor = SequenceCursor(sequence.id, std::move(room));
    copy.cursor.start_at(std::ssize(copy.tokens), kNoState);
  } else if (copy.cursor.long_rope() != long_rope) {  // Its keys are rotated by the other frequencies.
    clear(copy);
    copy.cursor = SequenceCursor(sequence.id, {.long_rope = long_rope});
  }
  agree(copy, sequence);
  return copy;
}

DraftOffer DraftModel::offer(const Sequence& sequence, int64_t tokens) {
  SHOAL_CHECK(idle());  // Drafter asks first; a round has blocks that must stay as they are.
  const auto length = std::ssize(sequence.tokens);
  // Those that it draws take positions, too, but for the last.
  const int64_t positions = std::min(limits_.context, static_cast<int64_t>(limits_.blocks) * kBlockPositions);
  tokens = std::min(tokens, positions - length + 1);
  if (!limits_.long_rope(length)) tokens = std::min(tokens, limits_.short_rope_positions - length + 1);
  if (tokens <= 0) return {};
  const Copy& copy = copy_of(sequence);
  if (copy.refused) return {};
  return {.tokens = tokens, .behind = length - std::min<int64_t>(copy.agreed, length - 1)};
}

bool DraftModel::begin(std::span<const Wish> wishes, int32_t vocabulary) {
  SHOAL_CHECK(idle());
  vocabulary_ = vocabulary;
  drafted_.clear();
  ++clock_;
  for (const Wish& wish : wishes) copies_.at(wish.sequence.id).used_at = clock_;  // offer() made it.
  for (const Wish& wish : wishes) {
    if (std::optional<Member> one = member(wish)) round_.push_back(*std::move(one));
  }
  return !round_.empty();
}

std::optional<DraftModel::Member> DraftModel::member(const Wish& wish) {
  const Sequence& sequence = wish.sequence;
  Copy& copy = copies_.at(sequence.id);
  const auto length = std::ssize(sequence.tokens);
  const int64_t begin = std::min<int64_t>(copy.agreed, length - 1);
  const int64_t end = begin + wish.share.rows;
  SHOAL_CHECK(wish.share.rows > 0 && end <= length);     // As offered,
  SHOAL_CHECK(wish.share.tokens == 0 || end == length);  // and as DraftShare says.
  const std::span<const int32_t> all(sequence.tokens);
  const auto feed = all.subspan(static_cast<size_t>(begin), static_cast<size_t>(wish.share.rows));
  if (std::ranges::any_of(feed, [&](int32_t id) { return id >= limits_.vocabulary; })) {
    clear(copy);
    copy.refused = true;
    return std::nullopt;
  }
  if (!make_room(sequence.id, copy, std::max(end, end + wish.share.tokens - 1))) return std::nullopt;
  copy.cursor.go_back_to(begin);
  copy.tokens.resize(static_cast<size_t>(begin));
  copy.agreed = begin;
  Member member{
      .id = sequence.id, .length = length, .feed = {feed.begin(), feed.end()}, .wanted = wish.share.tokens};
  if (!sequence.request.ignore_eos) member.ends = sequence.request.eos_ids;
  // What is drawn behind rows of which nothing was drawn must be told the tokens of those rows.
  if (!copy.told || copy.withheld != sequence.withheld) member.begin = introduce(sequence);
  copy.told = member.wanted > 0;
  copy.known = true;
  copy.withheld = sequence.withheld;
  return member;
}

// Drawn as the sequence is: with its parameters and random numbers, as far as the model knows their ids.
NewSequence DraftModel::introduce(const Sequence& sequence) const {
  NewSequence begin{.id = sequence.id,
                    .sampling = sequence.request.sampling,
                    .tokens = sequence.tokens,
                    .prompt_tokens = static_cast<int32_t>(sequence.request.prompt.size())};
  begin.sampling.top_logprobs = kNoLogprobs;
  std::erase_if(begin.sampling.logit_bias,
                [&](const auto& bias) { return bias.first >= limits_.vocabulary; });
  return begin;
}

// Takes free blocks, and then those of the copy that was used least lately and is not wished for now.
bool DraftModel::make_room(SeqId id, Copy& copy, int64_t positions) {
  const int64_t need = BlocksFor(positions) - std::ssize(copy.cursor.blocks());
  if (need <= 0) return true;
  while (pool_.free_count() < need) {
    auto oldest = copies_.end();
    for (auto it = copies_.begin(); it != copies_.end(); ++it) {
      if (it->first == id || it->second.used_at == clock_ || it->second.cursor.blocks().empty()) continue;
      if (oldest == copies_.end() || it->second.used_at < oldest->second.used_at) oldest = it;
    }
    if (oldest == copies_.end()) return false;
    drop(oldest);
  }
  copy.cursor.add_blocks(pool_.allocate(static_cast<int>(need)).value());
  return true;
}

void DraftModel::drop(std::map<SeqId, Copy>::iterator copy) {
  clear(copy->second);
  if (copy->second.known && !copy->second.ended) ends_.push_back(copy->first);
  copies_.erase(copy);
}

void DraftModel::clear(Copy& copy) {
  pool_.release(copy.cursor.blocks());
  copy.cursor = {};
  copy.tokens.clear();
  copy.agreed = 0;
  copy.told = false;
}

std::optional<Step> DraftModel::compose() {
  if (round_.empty() || in_flight_) return std::nullopt;
  Step step{.id = next_step_, .ends = std::exchange(ends_, {})};
  ++next_step_.value;
  for (Member& member : round_) {
    if (member.feed.empty()) continue;
    Copy& copy = copies_.at(member.id);  // None is dropped during a round.
    if (member.begin.has_value()) step.begins.push_back(*std::exchange(member.begin, std::nullopt));
    step.slices.push_back(copy.cursor.next(member.feed, member.wanted > 0));
    copy.tokens.insert(copy.tokens.end(), member.feed.begin(), member.feed.end());
  }
  in_flight_ = true;
  ++stats_.steps;
  stats_.rows += step.rows();
  return step;
}

absl::Status DraftModel::read(const SeqResult& one, Member& member) {
  if (!one.status.ok()) {
    LogInfo("no drafts by the draft model for sequence {}: {}", one.id, Message(one.status));
    member.feed.clear();
    member.drafted.clear();
    copies_.at(one.id).refused = true;
    return absl::OkStatus();
  }
  const bool drawn = one.tokens.size() == 1;
  if (!drawn || member.wanted == 0 || one.tokens[0].id < 0 || one.tokens[0].id >= limits_.vocabulary) {
    return Internal("draft model, sequence {}: got {} tokens{}, expected {} of a vocabulary of {}", one.id,
                    one.tokens.size(), drawn ? fmt::format(", {}", one.tokens[0].id) : "",
                    member.wanted == 0 ? 0 : 1, limits_.vocabulary);
  }
  const int32_t id = one.tokens[0].id;
  member.feed.clear();
  if (id >= vocabulary_ || std::ranges::count(member.ends, id) > 0) return absl::OkStatus();
  member.drafted.push_back(id);
  if (std::ssize(member.drafted) < member.wanted) member.feed = {id};
  return absl::OkStatus();
}

absl::Status DraftModel::acknowledge(const StepResult& result, int64_t ns) {
  SHOAL_CHECK(in_flight_);  // DraftRunner drops results of which it has submitted no step.
  const StepId expected{next_step_.value - 1};
  if (result.id != expected) {
    return Internal("draft model, step {}: got the result of step {}", expected, result.id);
  }
  std::unordered_map<SeqId, Member*> fed;
  for (Member& member : round_) {
    if (!member.feed.empty()) fed.emplace(member.id, &member);
  }
  for (const SeqResult& one : result.sequences) {
    const auto found = fed.extract(one.id);
    if (found.empty()) {
      return Internal("draft model, step {}: got a result of sequence {}, which is not in it, or twice",
                      result.id, one.id);
    }
    RETURN_IF_ERROR(read(one, *found.mapped()));
  }
  for (const auto& [id, member] : fed) {
    if (member->wanted > 0) {
      return Internal("draft model, step {}: got no token for sequence {}", result.id, id);
    }
    member->feed.clear();  // It is caught up with, as far as it was to be.
  }
  in_flight_ = false;
  stats_.ns += ns;
  if (std::ranges::all_of(round_, [](const Member& member) { return member.feed.empty(); })) end_round();
  return absl::OkStatus();
}

void DraftModel::end_round() {
  for (Member& member : round_) {
    if (copies_.at(member.id).ended) ends_.push_back(member.id);
    drafted_[member.id] = {member.length, std::move(member.drafted)};
  }
  round_.clear();
  for (auto it = copies_.begin(); it != copies_.end();) {
    if (it->second.refused) clear(it->second);
    const bool useless = it->second.ended && it->second.cursor.blocks().empty();
    it = useless ? copies_.erase(it) : std::next(it);
  }
}

const std::vector<int32_t>* DraftModel::drafted(const Sequence& sequence) const {
  const auto found = drafted_.find(sequence.id);
  const bool current = found != drafted_.end() && found->second.length == std::ssize(sequence.tokens);
  return current ? &found->second.tokens : nullptr;
}

void DraftModel::forget(SeqId id) {
  const auto found = copies_.find(id);
  if (found == copies_.end()) return;
  found->second.ended = true;
  const auto member = std::ranges::find(round_, id, &Member::id);
  if (member !=
      round_.end()) {  // The engine must know it until the round is over, which need not wait for it.
    member->wanted = std::min<int64_t>(member->wanted, 1);
    return;
  }
  if (found->second.known) ends_.push_back(id);
  if (found->second.cursor.blocks().empty()) copies_.erase(found);
}

absl::Status DraftModel::verify() const {
  RETURN_IF_ERROR(pool_.verify());
  int64_t held = 0;
  for (const auto& [id, copy] : copies_) held += std::ssize(copy.cursor.blocks());
  if (held == pool_.used_count()) return absl::OkStatus();
  return Internal("draft model: {} blocks are held, and {} in use", held, pool_.used_count());
}

}  // namespace shoal
