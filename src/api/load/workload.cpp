#include "api/load/workload.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/charconv.h"
#include "api/json.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr int64_t kLengthMax = 10'000'000;
/// Streams of the random numbers; that of request i is kFirstRequest + i.
constexpr uint64_t kArrivals = 0;
constexpr uint64_t kFirstHead = 1;
constexpr uint64_t kFirstRequest = uint64_t{1} << 32;

/// Common words, each one token in most vocabularies.
constexpr std::array<const char*, 64> kWords = {
    "the", "of",  "and",   "to",   "in",   "that", "was",   "his",   "with",  "for",  "as",   "had",  "you",
    "not", "be",  "her",   "on",   "at",   "by",   "which", "have",  "or",    "from", "this", "him",  "but",
    "all", "she", "they",  "were", "my",   "are",  "me",    "one",   "their", "so",   "an",   "said", "them",
    "we",  "who", "would", "been", "will", "no",   "when",  "there", "if",    "more", "out",  "up",   "into",
    "do",  "any", "your",  "what", "has",  "man",  "could", "other", "than",  "our",  "some", "time"};

bool ParseNumber(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value >= 1 && value <= kLengthMax;
}

std::vector<int64_t> TokenIds(RandomStream& random, int64_t count, int64_t below) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int64_t>(random.below(static_cast<uint64_t>(below))));
  return ids;
}

std::string Words(RandomStream& random, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += kWords.at(random.below(kWords.size()));
  }
  return text;
}

}  // namespace

absl::StatusOr<LengthMix> LengthMix::Parse(std::string_view text) {
  LengthMix mix;
  for (const std::string& part : Split(text, ',')) {
    Range range;
    const size_t colon = part.find(':');
    const std::string_view lengths = std::string_view(part).substr(0, colon);
    const size_t dash = lengths.find('-');
    bool good = ParseNumber(lengths.substr(0, dash), range.low);
    range.high = range.low;
    if (dash != std::string_view::npos) good = good && ParseNumber(lengths.substr(dash + 1), range.high);
    if (colon != std::string::npos) {
      const char* end = part.data() + part.size();
      const auto parsed = absl::from_chars(part.data() + colon + 1, end, range.weight);
      good = good && parsed.ec == std::errc{} && parsed.ptr == end && range.weight > 0 && range.weight < 1e9;
    }
    if (!good || range.low > range.high) {
      return InvalidArgument(
          "lengths '{}': expected N, LOW-HIGH, or several of these with weights, as '64-256:0.7,2048:0.3', "
          "got '{}'",
          text, part);
    }
    mix.ranges_.push_back(range);
  }
  if (mix.ranges_.empty()) return InvalidArgument("lengths: expected such as '64-256', got nothing");
  return mix;
}

int64_t LengthMix::draw(RandomStream& random) const {
  double total = 0;
  for (const Range& range : ranges_) total += range.weight;
  double at = random.uniform() * total;
  const Range* chosen = &ranges_.back();
  for (const Range& range : ranges_) {
    if (at < range.weight) {
      chosen = &range;
      break;
    }
    at -= range.weight;
  }
  return chosen->low +
         static_cast<int64_t>(random.below(static_cast<uint64_t>(chosen->high - chosen->low + 1)));
}

absl::StatusOr<Workload> Workload::Create(WorkloadOptions options) {
  Workload workload;
  ASSIGN_OR_RETURN(workload.prompt_, LengthMix::Parse(options.prompt_words));
  ASSIGN_OR_RETURN(workload.output_, LengthMix::Parse(options.output_tokens));
  if (!options.extra.empty()) {
    const auto extra = ParseJson(options.extra);
    if (!extra.has_value() || !extra->is_object()) {
      return InvalidArgument("extra fields: expected a JSON object, got '{}'", options.extra);
    }
  }
  if (options.token_ids > 0 && (options.endpoint != LoadEndpoint::kCompletions || options.prefix_words > 0))
    return InvalidArgument("prompts of token ids: only of completions, and without shared prefixes");
  for (int64_t i = 0; options.prefix_words > 0 && i < options.prefixes; ++i) {
    RandomStream random(options.seed, kFirstHead + static_cast<uint64_t>(i));
    workload.heads_.push_back(Words(random, options.prefix_words));
  }
  workload.options_ = std::move(options);
  return workload;
}

std::string Workload::path() const {
  return options_.endpoint == LoadEndpoint::kChat ? "/v1/chat/completions" : "/v1/completions";
}

std::string Workload::body(int64_t index) const {
  RandomStream random(options_.seed, kFirstRequest + static_cast<uint64_t>(index));
  const std::string head = heads_.empty() ? "" : heads_[random.below(heads_.size())];
  const int64_t length = prompt_.draw(random);
  const std::string own = options_.token_ids > 0 ? "" : Words(random, length);
  Json json;
  json["model"] = options_.model;
  if (options_.token_ids > 0) {
    json["prompt"] = TokenIds(random, length, options_.token_ids);
  } else if (options_.endpoint == LoadEndpoint::kChat) {
    json["messages"] = Json::array();
    if (!head.empty()) json["messages"].push_back({{"role", "system"}, {"content", head}});
    json["messages"].push_back({{"role", "user"}, {"content", own}});
  } else {
    json["prompt"] = head.empty() ? own : head + " " + own;
  }
  json["max_tokens"] = output_.draw(random);
  json["temperature"] = options_.temperature;
  json["stream"] = true;
  json["stream_options"]["include_usage"] = true;
  if (!options_.extra.empty()) json.update(*ParseJson(options_.extra));
  return DumpJson(json);
}

PoissonArrivals::PoissonArrivals(double rate, uint64_t seed) : rate_(rate), random_(seed, kArrivals) {}

double PoissonArrivals::next() {
  at_ += -std::log1p(-random_.uniform()) / rate_;
  return at_;
}

}  // namespace shoal
