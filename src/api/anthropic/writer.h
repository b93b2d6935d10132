// Answers and errors as Anthropic's messages API has them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"

namespace shoal {

/// What all parts of one answer share.
struct MessageHeader {
  std::string id;  ///< "msg_..."
  std::string model;
  int64_t prompt_tokens = 0;
};

/// The whole message at once.
std::unique_ptr<AnswerWriter> MessageWholeWriter(MessageHeader header,
                                                 std::shared_ptr<ResponseWriter> writer);
/// As events: message_start, the blocks one after another, message_delta, message_stop.
std::unique_ptr<AnswerWriter> MessageStreamWriter(MessageHeader header,
                                                  std::shared_ptr<ResponseWriter> writer);

/// {"type": "error", "error": {"type", "message"}}
std::string MessageErrorBody(const ApiError& error);
/// Answers with it.
void SendMessageError(ResponseWriter& writer, const ApiError& error);

}  // namespace shoal
