#include "sched/request.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr char kPromptTokens[] = "shoal/prompt_tokens";
constexpr char kPositions[] = "shoal/positions";

std::optional<int64_t> NumberOf(const absl::Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  int64_t number = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &number)) return std::nullopt;
  return number;
}

}  // namespace

absl::Status ContextExceeded(int64_t prompt_tokens, int64_t positions) {
  absl::Status status = InvalidArgument(
      "This model's maximum context length is {} tokens. However, your prompt has {} tokens, and an answer "
      "needs one "
      "more; shorten the prompt.",
      positions, prompt_tokens);
  status.SetPayload(kPromptTokens, absl::Cord(std::to_string(prompt_tokens)));
  status.SetPayload(kPositions, absl::Cord(std::to_string(positions)));
  return status;
}

std::optional<ContextOverflow> ContextOverflowOf(const absl::Status& status) {
  const auto prompt_tokens = NumberOf(status, kPromptTokens);
  const auto positions = NumberOf(status, kPositions);
  if (!prompt_tokens.has_value() || !positions.has_value()) return std::nullopt;
  return ContextOverflow{*prompt_tokens, *positions};
}

}  // namespace shoal
