// Answers and errors as Ollama's API has them: one JSON object, or one a line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"
#include "base/clock.h"

namespace shoal {

struct OllamaHeader {
  std::string model;
  bool chat = true;  ///< Of /api/chat; else of /api/generate.
  int64_t started_ns = NowNs();
};

std::unique_ptr<AnswerWriter> OllamaWholeWriter(OllamaHeader header, std::shared_ptr<ResponseWriter> writer);
std::unique_ptr<AnswerWriter> OllamaStreamWriter(OllamaHeader header, std::shared_ptr<ResponseWriter> writer);

/// The answer to a request that has nothing to answer: the model is loaded.
std::string OllamaLoadedBody(const OllamaHeader& header);

/// {"error": "..."}
std::string OllamaErrorBody(const ApiError& error);
/// Answers with it.
void SendOllamaError(ResponseWriter& writer, const ApiError& error);

}  // namespace shoal
