// Answers as llama-server's own completions have them: streamed in pieces, or whole.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"
#include "api/json.h"
#include "base/clock.h"

namespace shoal {

struct LlamaAnswerFormat {
  std::string model;
  std::string prompt;           ///< Its text, with control tokens.
  std::string settings = "{}";  ///< JSON of "generation_settings".
  bool return_tokens = false;
  /// What the last object shows: keys, or paths to inner ones ("timings/prompt_ms"), which then stand outside; empty:
  /// everything.
  std::vector<std::string> response_fields;
  int64_t started_ns = NowNs();
};

std::unique_ptr<AnswerWriter> LlamaWholeWriter(LlamaAnswerFormat format,
                                               std::shared_ptr<ResponseWriter> writer);
std::unique_ptr<AnswerWriter> LlamaStreamWriter(LlamaAnswerFormat format,
                                                std::shared_ptr<ResponseWriter> writer);

}  // namespace shoal
