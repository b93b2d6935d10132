#include "client.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "compute/testing/fake_backend.h"
#include "turns.h"

namespace shoal::sim {
namespace {

constexpr int kBeginnings = 3;
constexpr int64_t kBeginningTokens = 120;
constexpr Duration kPatience = std::chrono::minutes(5);

/// Which ids may come behind a token: two of three, or one alone.
class TwoOfThree final : public TokenConstraint {
 public:
  TwoOfThree(int32_t vocabulary, uint64_t salt) : vocabulary_(vocabulary), salt_(salt) {}

  absl::Status mask(std::vector<uint32_t>& words) override {
    words = mask_behind(last());
    return absl::OkStatus();
  }
  absl::Status consume(int32_t token) override {
    taken_.push_back(token);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<TokenConstraint>> clone() const override {
    return std::make_unique<TwoOfThree>(*this);
  }
  absl::Status rewind(int64_t count) override {
    if (count > std::ssize(taken_)) return InvalidArgument("only {} tokens were taken", taken_.size());
    taken_.resize(taken_.size() - static_cast<size_t>(count));
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int32_t>> forced() override {
    std::vector<int32_t> tokens;
    for (int32_t at = last(); forces(at) && std::ssize(tokens) < kForcedMax; at = tokens.back()) {
      tokens.push_back(only(at));
    }
    return tokens;
  }

  std::vector<uint32_t> mask_of(std::span<const int32_t> generated) const {
    return mask_behind(generated.empty() ? -1 : generated.back());
  }

 private:
  static constexpr int64_t kForcedMax = 8;

  int32_t last() const { return taken_.empty() ? -1 : taken_.back(); }
  uint64_t bits(int32_t behind, int32_t of) const {
    return RandomBits(salt_, static_cast<uint64_t>(behind + 1), static_cast<uint64_t>(of + 1));
  }
  bool forces(int32_t behind) const { return bits(behind, -1) % 3 == 0; }
  int32_t only(int32_t behind) const {
    return static_cast<int32_t>(bits(behind, vocabulary_) % static_cast<uint64_t>(vocabulary_));
  }
  std::vector<uint32_t> mask_behind(int32_t last) const {
    std::vector<uint32_t> words(static_cast<size_t>((vocabulary_ + 31) / 32));
    for (int32_t id = 0; id < vocabulary_; ++id) {
      const bool allowed = forces(last) ? id == only(last) : id == kAlways || bits(last, id) % 3 != 0;
      if (allowed) words[static_cast<size_t>(id / 32)] |= 1u << (id % 32);
    }
    return words;
  }

  static constexpr int32_t kAlways = 3;  // So that one is left.
  const int32_t vocabulary_;
  const uint64_t salt_;
  std::vector<int32_t> taken_;
};

Duration Seconds(RandomStream& random, double from, double to) {
  return FromSeconds(from + (to - from) * random.uniform());
}

}  // namespace

AskMaker::AskMaker(uint64_t seed, const ModelSpec& spec)
    : random_(seed, /*stream=*/3), vocabulary_(static_cast<int32_t>(spec.vocabulary)) {
  for (int i = 0; i < kBeginnings; ++i) beginnings_.push_back(random_tokens(kBeginningTokens));
}

std::vector<int32_t> AskMaker::random_tokens(int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random_.below(static_cast<uint64_t>(vocabulary_))));
  }
  return tokens;
}

std::vector<int32_t> AskMaker::prompt() {
  std::vector<int32_t> prompt;
  if (random_.below(4) != 0) {
    prompt = beginnings_[random_.below(kBeginnings)];
    prompt.resize(random_.below(kBeginningTokens + 1));
  }
  const std::vector<int32_t> own = random_tokens(static_cast<int64_t>(1 + random_.below(40)));
  prompt.insert(prompt.end(), own.begin(), own.end());
  return prompt;
}

GenerationRequest AskMaker::request(uint32_t choice, const std::vector<int32_t>& prompt) {
  GenerationRequest request;
  request.id = fmt::format("ask-{}-{}", asked_, choice);
  request.prompt = prompt;
  request.max_tokens = static_cast<int64_t>(random_.below(50));
  request.sampling.temperature = random_.below(2) == 0 ? 0.0f : 1.0f;
  request.sampling.seed = random_.bits();
  request.sampling.choice = choice;
  request.eos_ids = {2};
  request.ignore_eos = random_.below(3) != 0;
  request.priority = static_cast<int>(random_.below(3)) - 1;
  request.party = random_.below(2) == 0 ? "" : "other";
  request.score_prompt = random_.below(8) == 0;
  if (random_.below(6) == 0) request.constraint = std::make_shared<TwoOfThree>(vocabulary_, random_.bits());
  return request;
}

Ask AskMaker::make() {
  ++asked_;
  Ask ask;
  const std::vector<int32_t> prompt = this->prompt();
  const uint64_t choices = random_.below(6) == 0 ? 2 : 1;
  for (uint32_t i = 0; i < choices; ++i) ask.choices.push_back(request(i, prompt));
  ask.begins_after = Seconds(random_, 0, 12);
  ask.impatient = random_.below(8) == 0;
  ask.patience = ask.impatient ? Seconds(random_, 0.1, 20) : kPatience;
  if (random_.below(5) == 0) ask.cancels_after = Seconds(random_, 0, 6);
  return ask;
}

Ask AskMaker::patient() {
  ++asked_;
  Ask ask;
  ask.choices.push_back(request(0, prompt()));
  ask.patience = kPatience;
  return ask;
}

std::vector<int32_t> ExpectedTokens(const ModelSpec& spec, const GenerationRequest& request) {
  FakeDraw draw{.sampling = request.sampling, .mask = {}};
  if (const auto* constraint = dynamic_cast<const TwoOfThree*>(request.constraint.get())) {
    draw.mask = [constraint](std::span<const int32_t> generated) { return constraint->mask_of(generated); };
  }
  std::vector<int32_t> tokens = FakeText(spec, request.prompt, static_cast<int>(request.max_tokens), draw);
  if (request.ignore_eos && request.constraint == nullptr) return tokens;
  const auto end = std::ranges::find_first_of(tokens, request.eos_ids);
  tokens.erase(end, tokens.end());
  return tokens;
}

CheckingSink::Choice& CheckingSink::open_choice(int choice, const char* what) {
  Choice& open = choices_.at(static_cast<size_t>(choice));
  if (!error_.ok() || open.reason.has_value()) {
    FailSeed(fmt::format("request {}: {} after its end", ask_.choices.front().id, what));
  }
  return open;
}

void CheckingSink::on_begin(int choice, int64_t /*cached*/) {
  const std::lock_guard lock(mutex_);
  Choice& open = open_choice(choice, "on_begin");
  if (std::exchange(open.begun, true)) FailSeed("a choice begins twice");
}

bool CheckingSink::on_tokens(int choice, std::span<const SampledToken> tokens) {
  const std::lock_guard lock(mutex_);
  Choice& open = open_choice(choice, "on_tokens");
  if (!open.begun || tokens.empty()) FailSeed("tokens before the begin, or none");
  for (const SampledToken& token : tokens) open.tokens.push_back(token.id);
  return true;
}

void CheckingSink::on_scores(int choice, std::span<const SampledToken> scores) {
  const std::lock_guard lock(mutex_);
  Choice& open = open_choice(choice, "on_scores");
  if (!open.tokens.empty()) FailSeed("scores of a prompt behind the first token");
  const std::vector<int32_t>& prompt = ask_.choices[static_cast<size_t>(choice)].prompt;
  for (const SampledToken& score : scores) {
    if (++open.scores >= prompt.size() || score.id != prompt[open.scores]) FailSeed("scores out of order");
  }
}

void CheckingSink::on_finish(int choice, FinishReason reason) {
  const std::lock_guard lock(mutex_);
  open_choice(choice, "on_finish").reason = reason;
  changed_.notify_all();
}

void CheckingSink::on_error(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (ended()) FailSeed("an error after the end: " + status.ToString());
  if (status.ok()) FailSeed("an error that is OK");
  error_ = status;
  changed_.notify_all();
}

bool CheckingSink::ended() const {
  return !error_.ok() ||
         std::ranges::all_of(choices_, [](const Choice& choice) { return choice.reason.has_value(); });
}

bool CheckingSink::wait_until(Clock::time_point until) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, until, [this] { return ended(); });
}

absl::Status CheckingSink::outcome() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

std::vector<int32_t> CheckingSink::tokens(int choice) const {
  const std::lock_guard lock(mutex_);
  return choices_.at(static_cast<size_t>(choice)).tokens;
}

FinishReason CheckingSink::reason(int choice) const {
  const std::lock_guard lock(mutex_);
  return choices_.at(static_cast<size_t>(choice)).reason.value();
}

size_t CheckingSink::scores(int choice) const {
  const std::lock_guard lock(mutex_);
  return choices_.at(static_cast<size_t>(choice)).scores;
}

}  // namespace shoal::sim
