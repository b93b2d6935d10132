// Answers of /v1/chat/completions.
#pragma once

#include <memory>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"
#include "api/openai/response.h"

namespace shoal {

struct ChatFormat {
  AnswerHeader header;
  int choices = 1;
  const Tokenizer* tokenizer = nullptr;  ///< Must outlive the writer; names tokens in log-probabilities.
};

std::unique_ptr<AnswerWriter> ChatStreamWriter(ChatFormat format, std::shared_ptr<ResponseWriter> writer);
std::unique_ptr<AnswerWriter> ChatWholeWriter(ChatFormat format, std::shared_ptr<ResponseWriter> writer);

}  // namespace shoal
