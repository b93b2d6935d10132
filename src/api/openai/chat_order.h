// A conversation that is to be answered, from a request in the words of /v1/chat/completions. Other APIs put their
// requests into these words, so that each field means the same everywhere.
#pragma once

#include <string>
#include <string_view>

#include "api/answer/answer_service.h"
#include "api/api_error.h"

namespace shoal {

/// The order, ready to be started. `chat`: the request as JSON; its "model", if any, has been checked. Errors name the fields
/// of `chat`.
ApiResult<AnswerOrder> OrderOfChat(const AnswerService& service, std::string_view chat, std::string id);

/// As OrderOfChat, but `text` is continued as it is; the messages of `chat` are not used.
ApiResult<AnswerOrder> OrderOfText(const AnswerService& service, std::string_view chat, std::string_view text,
                                   std::string id);

}  // namespace shoal
