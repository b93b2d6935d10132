#include "api/openai/chat_order.h"

#include <utility>

#include "api/openai/request.h"

namespace shoal {
namespace {

/// All of the order but the prompt.
AnswerOrder OrderWithout(const ChatCompletionRequest& request, std::string id) {
  const CommonFields& common = request.common;
  return {.id = std::move(id),
          .prompt_field = "messages",
          .sampling = common.sampling,
          .max_tokens = common.max_tokens,
          .min_tokens = common.min_tokens,
          .stop = common.stop,
          .stop_token_ids = common.stop_token_ids,
          .ignore_eos = common.ignore_eos};
}

}  // namespace

ApiResult<AnswerOrder> OrderOfChat(const AnswerService& service, std::string_view chat, std::string id) {
  auto parsed = ParseChatCompletion(chat, {.vocabulary = service.vocabulary()});
  if (!parsed.has_value()) return std::unexpected(std::move(parsed.error()));
  auto prompt = service.chat_prompt(parsed->conversation, "messages");
  if (!prompt.has_value()) return std::unexpected(std::move(prompt.error()));
  AnswerOrder order = OrderWithout(*parsed, std::move(id));
  order.format = std::move(prompt->format);
  order.prompts.push_back(std::move(prompt->tokens));
  return order;
}

ApiResult<AnswerOrder> OrderOfText(const AnswerService& service, std::string_view chat, std::string_view text,
                                   std::string id) {
  const auto parsed = ParseChatCompletion(chat, {.vocabulary = service.vocabulary()});
  if (!parsed.has_value()) return std::unexpected(parsed.error());
  auto tokens = service.text_prompt(text, "prompt");
  if (!tokens.has_value()) return std::unexpected(std::move(tokens.error()));
  AnswerOrder order = OrderWithout(*parsed, std::move(id));
  order.prompt_field = "prompt";
  order.prompts.push_back(*std::move(tokens));
  return order;
}

}  // namespace shoal
