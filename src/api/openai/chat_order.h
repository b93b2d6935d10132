// A conversation that is to be answered, from a request in the words of /v1/chat/completions. Other APIs put their
// requests into these words, so that each field means the same everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/api_error.h"
#include "api/openai/request.h"

namespace shoal {

/// All that requests have in common; its prompts are to be added.
AnswerOrder OrderWithoutPrompt(const CommonFields& common, std::string id);

/// The order, ready to be started, with the grammar that the request asks for. The request's "model", if any, has been
/// checked. Errors name the fields of a chat completion.
ApiResult<AnswerOrder> OrderOfChat(AnswerService& service, const ChatCompletionRequest& request,
                                   std::string id);
/// The same of a request that is still JSON.
ApiResult<AnswerOrder> OrderOfChat(AnswerService& service, std::string_view chat, std::string id);

/// The tokens of its prompt alone: no grammar is made, since nothing will be answered.
ApiResult<std::vector<int32_t>> TokensOfChat(const AnswerService& service, std::string_view chat);

/// The tokens of a prompt that is text or has tokens already. Errors name `field`.
ApiResult<std::vector<int32_t>> PromptTokens(const AnswerService& service, const PromptField& prompt,
                                             const char* field);

/// As OrderOfChat, but `text` is continued as it is; the messages of `chat` are not used.
ApiResult<AnswerOrder> OrderOfText(AnswerService& service, std::string_view chat, std::string_view text,
                                   std::string id);

}  // namespace shoal
