#include "api/retry/answer_record.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

int64_t TokensOf(const AnswerLogEntry& entry) {
  int64_t sum = 0;
  for (const std::vector<int32_t>& choice : entry.choices) sum += std::ssize(choice);
  return sum;
}

}  // namespace

uint64_t SeedOf(const RepeatKey& key) {
  return RandomBits(key.key[0], key.key[1], key.content[0] ^ key.content[1]);
}

absl::StatusOr<std::unique_ptr<AnswerRecords>> AnswerRecords::Open(Options options) {
  std::unique_ptr<AnswerRecords> records(new AnswerRecords(std::move(options)));
  if (records->options_.folder.empty()) return records;
  ReadAnswerLog read;
  ASSIGN_OR_RETURN(records->log_, AnswerLog::Open(records->options_.folder, read));
  const std::lock_guard lock(records->mutex_);
  for (AnswerLogEntry& entry : read.entries) records->add(std::move(entry));
  records->forget_old(UnixSeconds());
  return records;
}

void AnswerRecords::add(AnswerLogEntry entry) {
  const Digest key = entry.key.key;
  tokens_ += TokensOf(entry);
  ages_.push_front(key);
  records_[key] = {std::move(entry), ages_.begin()};
}

bool AnswerRecords::begin(const RepeatKey& key) {
  const std::lock_guard lock(mutex_);
  const int64_t now_s = UnixSeconds();
  forget_old(now_s);
  const auto found = records_.find(key.key);
  if (found == records_.end()) {
    add({.key = key, .asked_s = now_s});
  } else {
    if (found->second.entry.key.content != key.content) return false;
    found->second.entry.asked_s = now_s;
    ages_.splice(ages_.begin(), ages_, found->second.age);
  }
  if (log_ != nullptr) log_->append(EncodeBegin(key, now_s));
  forget_old(now_s);
  return true;
}

std::vector<int32_t> AnswerRecords::tokens(const RepeatKey& key, int choice) const {
  const std::lock_guard lock(mutex_);
  const auto found = records_.find(key.key);
  if (found == records_.end() || found->second.entry.key != key) return {};
  const auto& choices = found->second.entry.choices;
  return choice < std::ssize(choices) ? choices[static_cast<size_t>(choice)] : std::vector<int32_t>();
}

void AnswerRecords::note(const RepeatKey& key, int choice, int64_t at, std::span<const SampledToken> tokens) {
  if (choice >= kLoggedChoicesMax) return;
  const std::lock_guard lock(mutex_);
  const auto found = records_.find(key.key);
  if (found == records_.end() || found->second.entry.key != key) return;
  auto& choices = found->second.entry.choices;
  if (choice >= std::ssize(choices)) choices.resize(static_cast<size_t>(choice) + 1);
  std::vector<int32_t>& known = choices[static_cast<size_t>(choice)];
  if (at > std::ssize(known)) return;
  // Most are on record already where the request came again.
  size_t same = 0;
  const size_t known_behind = known.size() - static_cast<size_t>(at);
  while (same < tokens.size() && same < known_behind &&
         known[static_cast<size_t>(at) + same] == tokens[same].id) {
    ++same;
  }
  if (same == tokens.size()) return;
  const int64_t from = at + static_cast<int64_t>(same);
  tokens_ += from + static_cast<int64_t>(tokens.size() - same) - std::ssize(known);
  known.resize(static_cast<size_t>(from));
  for (const SampledToken& token : tokens.subspan(same)) known.push_back(token.id);
  if (log_ != nullptr) {
    log_->append(EncodeTokens(key.key, choice, from, std::span(known).subspan(static_cast<size_t>(from))));
  }
}

int64_t AnswerRecords::records() const {
  const std::lock_guard lock(mutex_);
  return std::ssize(records_);
}

void AnswerRecords::forget(const Digest& key) {
  const auto found = records_.find(key);
  tokens_ -= TokensOf(found->second.entry);
  ages_.erase(found->second.age);
  records_.erase(found);
  if (log_ != nullptr) log_->append(EncodeForget(key));
}

// The latest one stays, however long it is.
void AnswerRecords::forget_old(int64_t now_s) {
  while (!ages_.empty()) {
    const Record& oldest = records_.at(ages_.back());
    const bool old = now_s - oldest.entry.asked_s > options_.age_max_s;
    const bool many = std::ssize(records_) > options_.records_max;
    const bool long_ones = tokens_ > options_.tokens_max && ages_.size() > 1;
    if (!old && !many && !long_ones) return;
    forget(ages_.back());
  }
}

}  // namespace shoal
