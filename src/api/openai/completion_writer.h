// Answers of /v1/completions and of /generate.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"
#include "api/openai/response.h"

namespace shoal {

struct CompletionFormat {
  AnswerHeader header;
  int prompts = 1;
  int n = 1;        ///< Choices shown of each prompt,
  int best_of = 1;  ///< of so many that are generated: those with the best mean log-probability.
  std::vector<std::string> echo =
      {};  ///< What goes before the text of each prompt's choices; empty for nothing.
  /// Ids of each prompt, whose log-probabilities go before those of its choices (AnswerWriter::prompt_scores); empty
  /// for none.
  std::vector<std::vector<int32_t>> scored = {};
  const Tokenizer* tokenizer = nullptr;  ///< Must outlive the writer; names tokens in log-probabilities.
};

/// best_of = n: what is not shown can't be known before the end.
std::unique_ptr<AnswerWriter> CompletionStreamWriter(CompletionFormat format,
                                                     std::shared_ptr<ResponseWriter> writer);
std::unique_ptr<AnswerWriter> CompletionWholeWriter(CompletionFormat format,
                                                    std::shared_ptr<ResponseWriter> writer);

/// One choice, as plain as can be: {"text", "finish_reason", "model", "usage"}.
std::unique_ptr<AnswerWriter> GenerateStreamWriter(const AnswerHeader& header,
                                                   std::shared_ptr<ResponseWriter> writer);
std::unique_ptr<AnswerWriter> GenerateWholeWriter(const AnswerHeader& header,
                                                  std::shared_ptr<ResponseWriter> writer);

}  // namespace shoal
