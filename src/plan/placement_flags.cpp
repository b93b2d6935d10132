// Parses the values of --strategy, --experts and --split.
#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/text.h"
#include "plan/id_list.h"
#include "plan/planner.h"

namespace shoal {
namespace {

template <typename Enum>
struct Word {
  std::string_view text;
  Enum value;
};

// The first word of a value is its name; the others are aliases.
constexpr std::array<Word<LayerStrategy>, 9> kLayerWords = {{
    {"uniform", LayerStrategy::kUniform},
    {"memory", LayerStrategy::kMemory},
    {"memory_proportional", LayerStrategy::kMemory},
    {"compute", LayerStrategy::kCompute},
    {"compute_proportional", LayerStrategy::kCompute},
    {"balanced", LayerStrategy::kBalanced},
    {"custom", LayerStrategy::kCustom},
    {"split", LayerStrategy::kSplit},
    {"fastest", LayerStrategy::kFastest},
}};
constexpr std::array<Word<Objective>, 3> kObjectiveWords = {{
    {"throughput", Objective::kThroughput},
    {"latency", Objective::kLatency},
    {"ttft", Objective::kTtft},
}};
constexpr std::array<Word<NodeUse>, 2> kNodeUseWords = {{{"all", NodeUse::kAll}, {"best", NodeUse::kBest}}};
constexpr std::array<Word<ExpertStrategy>, 8> kExpertWords = {{
    {"with_layer", ExpertStrategy::kWithLayer},
    {"contiguous", ExpertStrategy::kContiguous},
    {"even", ExpertStrategy::kContiguous},
    {"round_robin", ExpertStrategy::kRoundRobin},
    {"explicit", ExpertStrategy::kExplicit},
    {"random", ExpertStrategy::kRandom},
    {"by_load", ExpertStrategy::kByLoad},
    {"by_locality", ExpertStrategy::kByLocality},
}};
constexpr int32_t kListedExpertsMax = 4096;

template <typename Enum, size_t N>
absl::StatusOr<Enum> Find(std::string_view what, std::string_view text,
                          const std::array<Word<Enum>, N>& words) {
  std::vector<std::string> known;
  for (const Word<Enum>& word : words) {
    if (word.text == text) return word.value;
    known.emplace_back(word.text);
  }
  const std::string near = NearestWord(text, known);
  return InvalidArgument("{} '{}' is unknown{}; known: {}", what, text,
                         near.empty() ? "" : fmt::format("; did you mean {}?", near), Join(known, ", "));
}

template <typename Enum, size_t N>
std::string_view NameOf(Enum value, const std::array<Word<Enum>, N>& words) {
  return std::find_if(words.begin(), words.end(), [&](const Word<Enum>& word) { return word.value == value; })
      ->text;
}

absl::Status ReadArgument(std::string_view argument, ExpertRequest& request) {
  switch (request.strategy) {
    case ExpertStrategy::kWithLayer:
      return InvalidArgument("expected no argument after with_layer, got '{}'", argument);
    case ExpertStrategy::kContiguous:
    case ExpertStrategy::kRoundRobin:
    case ExpertStrategy::kByLoad:
    case ExpertStrategy::kByLocality: {
      const auto nodes = ParseInteger(argument);
      if (!nodes.ok() || *nodes < 1 || *nodes > INT32_MAX) {
        return InvalidArgument("expected a number of nodes after the colon, got '{}'", argument);
      }
      request.over_nodes = static_cast<int32_t>(*nodes);
      return absl::OkStatus();
    }
    case ExpertStrategy::kRandom: {
      const auto [rest, error] =
          std::from_chars(argument.data(), argument.data() + argument.size(), request.seed);
      if (error == std::errc() && rest == argument.data() + argument.size()) return absl::OkStatus();
      return InvalidArgument("expected a seed after the colon, got '{}'", argument);
    }
    case ExpertStrategy::kExplicit:
      for (const std::string& list : Split(argument, ';')) {
        ASSIGN_OR_RETURN(std::vector<int32_t> ids, ParseIdList(list, kListedExpertsMax));
        request.lists.push_back(std::move(ids));
      }
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LayerStrategy> ParseLayerStrategy(std::string_view text) {
  return Find("strategy", text, kLayerWords);
}
std::string_view Name(LayerStrategy strategy) { return NameOf(strategy, kLayerWords); }
absl::StatusOr<ExpertStrategy> ParseExpertStrategy(std::string_view text) {
  return Find("expert strategy", text, kExpertWords);
}
absl::StatusOr<Objective> ParseObjective(std::string_view text) {
  return Find("objective", text, kObjectiveWords);
}
absl::StatusOr<NodeUse> ParseNodeUse(std::string_view text) {
  return Find("use of nodes", text, kNodeUseWords);
}
std::string_view Name(NodeUse use) { return NameOf(use, kNodeUseWords); }
std::string_view Name(Objective objective) { return NameOf(objective, kObjectiveWords); }
std::string_view Name(ExpertStrategy strategy) { return NameOf(strategy, kExpertWords); }

absl::StatusOr<ExpertRequest> ParseExpertRequest(std::string_view text) {
  const size_t colon = text.find(':');
  ExpertRequest request{.asked = true};
  ASSIGN_OR_RETURN(request.strategy, ParseExpertStrategy(text.substr(0, colon)));
  const bool needs_lists = request.strategy == ExpertStrategy::kExplicit;
  if (colon == std::string_view::npos) {
    if (needs_lists) return InvalidArgument("experts 'explicit' needs lists: explicit:0-3;4-7");
    return request;
  }
  const absl::Status status = ReadArgument(text.substr(colon + 1), request);
  if (!status.ok()) return Annotate(status, fmt::format("experts '{}'", text));
  return request;
}

absl::Status ParseExpertReplicas(std::string_view text, ExpertRequest& request) {
  constexpr std::string_view kHot = "hot:";
  constexpr int64_t kReplicasMax = 4095;
  if (text.starts_with(kHot)) {
    ASSIGN_OR_RETURN(const int64_t bytes, ParseBytes(text.substr(kHot.size())));
    if (bytes < 1) return InvalidArgument("expert replicas '{}': expected a size above 0", text);
    request.hot_bytes = bytes;
    request.replicas = 0;
    return absl::OkStatus();
  }
  const auto count = ParseInteger(text);
  if (!count.ok() || *count < 0 || *count > kReplicasMax) {
    return InvalidArgument("expert replicas '{}': expected a number, 0 to {}, or hot:SIZE, such as hot:2GiB",
                           text, kReplicasMax);
  }
  request.replicas = static_cast<int32_t>(*count);
  request.hot_bytes = 0;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> ParseSplit(std::string_view text) {
  std::vector<int64_t> split;
  for (const std::string& item : Split(text, ',')) {
    const auto count = ParseInteger(item);
    if (!count.ok() || *count < 0) {
      return InvalidArgument("split '{}': expected layers per node such as 3,2,1, got '{}'", text, item);
    }
    split.push_back(*count);
  }
  if (split.empty()) return InvalidArgument("split '': expected layers per node such as 3,2,1");
  return split;
}

}  // namespace shoal
