// Answers of the OpenAI API as JSON texts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sched/request.h"

namespace shoal {

enum class AnswerKind : uint8_t { kChat, kCompletion, kGenerate };

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;  ///< Tokens given out; the end-of-text token is not among them.
};

/// What all texts of one answer share.
struct AnswerHeader {
  AnswerKind kind = AnswerKind::kChat;
  std::string id;  ///< "chatcmpl-..."
  std::string model;
  int64_t created = 0;         ///< Unix seconds.
  bool include_usage = false;  ///< Each chunk then has "usage", null but in the last.
};

std::string_view FinishReasonName(FinishReason reason);

/// The whole answer.
std::string AnswerBody(const AnswerHeader& header, const std::string& text, FinishReason reason,
                       const Usage& usage);

/// One server-sent event: "data: {...}\n\n".
std::string SseEvent(std::string_view data);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// The chunk that opens a chat stream (the role); "" for completions, which have none.
std::string OpeningChunk(const AnswerHeader& header);
std::string TextChunk(const AnswerHeader& header, const std::string& text);
std::string FinishChunk(const AnswerHeader& header, FinishReason reason);
/// The chunk without choices that stream_options.include_usage asks for.
std::string UsageChunk(const AnswerHeader& header, const Usage& usage);

}  // namespace shoal
