#include "api/openai/chat_order.h"

#include <utility>

#include "api/structure/tool_grammar.h"

namespace shoal {

AnswerOrder OrderWithoutPrompt(const CommonFields& common, std::string id) {
  return {.id = std::move(id),
          .prompt_field = "prompt",
          .sampling = common.sampling,
          .max_tokens = common.max_tokens,
          .min_tokens = common.min_tokens,
          .stop = common.stop,
          .stop_token_ids = common.stop_token_ids,
          .priority = common.priority,
          .ignore_eos = common.ignore_eos};
}

ApiResult<AnswerOrder> OrderOfChat(AnswerService& service, const ChatCompletionRequest& request,
                                   std::string id) {
  auto prompt = service.chat_prompt(request.conversation, "messages");
  if (!prompt.has_value()) return std::unexpected(std::move(prompt.error()));
  AnswerOrder order = OrderWithoutPrompt(request.common, std::move(id));
  order.prompt_field = "messages";
  order.choices_per_prompt = request.common.n;
  order.format = std::move(prompt->format);
  const auto structure = ChatStructure(request.common.structure, request.conversation.tools,
                                       request.tool_choice, prompt->written, service.tokenizer());
  if (!structure.has_value()) return std::unexpected(structure.error());
  if (auto wrong = service.constrain(*structure, order)) return std::unexpected(*std::move(wrong));
  order.prompts.push_back(std::move(prompt->tokens));
  return order;
}

ApiResult<AnswerOrder> OrderOfChat(AnswerService& service, std::string_view chat, std::string id) {
  const auto parsed = ParseChatCompletion(chat, {.vocabulary = service.vocabulary()});
  if (!parsed.has_value()) return std::unexpected(parsed.error());
  return OrderOfChat(service, *parsed, std::move(id));
}

ApiResult<std::vector<int32_t>> TokensOfChat(const AnswerService& service, std::string_view chat) {
  const auto parsed = ParseChatCompletion(chat, {.vocabulary = service.vocabulary()});
  if (!parsed.has_value()) return std::unexpected(parsed.error());
  auto prompt = service.chat_prompt(parsed->conversation, "messages");
  if (!prompt.has_value()) return std::unexpected(std::move(prompt.error()));
  return std::move(prompt->tokens);
}

ApiResult<std::vector<int32_t>> PromptTokens(const AnswerService& service, const PromptField& prompt,
                                             const char* field) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) return *ids;
  return service.text_prompt(std::get<std::string>(prompt), field);
}

ApiResult<AnswerOrder> OrderOfText(AnswerService& service, std::string_view chat, std::string_view text,
                                   std::string id) {
  const auto parsed = ParseChatCompletion(chat, {.vocabulary = service.vocabulary()});
  if (!parsed.has_value()) return std::unexpected(parsed.error());
  auto tokens = service.text_prompt(text, "prompt");
  if (!tokens.has_value()) return std::unexpected(std::move(tokens.error()));
  AnswerOrder order = OrderWithoutPrompt(parsed->common, std::move(id));
  if (auto wrong = service.constrain(parsed->common.structure, order))
    return std::unexpected(*std::move(wrong));
  order.prompts.push_back(*std::move(tokens));
  return order;
}

}  // namespace shoal
