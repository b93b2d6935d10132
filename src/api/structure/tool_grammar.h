// Grammars of whole answers: calls of tools as the model's format writes them, and what may stand before them or
// before a structure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/structure/structure.h"
#include "text/output/dialect.h"
#include "text/tokenizer.h"

namespace shoal {

/// How a request's tools may be called.
struct ToolChoice {
  enum class Kind { kAuto, kNone, kRequired, kNamed };
  Kind kind = Kind::kAuto;
  std::string name;                      ///< kNamed: the only tool that may be called.
  bool parallel = true;                  ///< Several calls in one answer.
  std::vector<std::string> strict = {};  ///< Names of the tools whose parameters are enforced exactly.
};

/// tool_choice and parallel_tool_calls, in OpenAI's words.
ToolChoice ReadToolChoice(FieldReader& fields, std::optional<ApiError>& error);

/// The names of those of `tools`, as they came in a request, that are strict.
std::vector<std::string> StrictTools(const Json& tools);

/// What an answer may begin with: the model's reasoning, which no grammar binds.
struct ReasoningMarks {
  std::string open;              ///< "<think>"; empty: the model writes no reasoning.
  std::string close;             ///< "</think>"
  bool begun_in_prompt = false;  ///< The prompt ends within the reasoning.
  std::string after = "";        ///< Stands behind the closing mark; "": spaces may.
  std::string text = "";         ///< Stands in front of an answer's text: the header of a message.
};

/// The format in which a model answers, as far as grammars must know it.
struct AnswerFormat {
  std::string tools = "none";  ///< The name of its format of calls: "hermes"
  ReasoningMarks reasoning;
  const CallWriting* writing = nullptr;  ///< How the model writes calls; null: as most of its format.
  bool call_begun_in_prompt = false;     ///< The prompt ends with a call's opening marker.
  std::vector<std::string> shown = {};   ///< Marks that may stand in an answer's text.
};

/// That of a model with this dialect, whose text goes on from `prompt`.
AnswerFormat AnswerFormatOf(const Dialect& dialect, std::string_view chat_template, std::string_view prompt);

/// What the answer must be so that tools are called as `choice` wants; nothing if any text will do. A call's arguments
/// match the tool's parameters: exactly if the tool is strict, else as far as they can be enforced. With "auto", what
/// follows a call's opening marker is bound if a tool is strict. `tools` as in OpenAI's requests. A 400: the format has
/// no grammar, or there is no such tool.
ApiResult<std::optional<Structure>> ToolStructure(const Json& tools, const ToolChoice& choice,
                                                  const AnswerFormat& format, const Tokenizer& tokenizer);

/// What the answer to a conversation must be: calls, where they are wanted; else what the request says of the text, or,
/// with "auto", calls instead; nothing if any text will do. `tools` is empty or the JSON of a list.
ApiResult<std::optional<Structure>> ChatStructure(const std::optional<Structure>& structure,
                                                  std::string_view tools, const ToolChoice& choice,
                                                  const AnswerFormat& format, const Tokenizer& tokenizer);

/// `structure` behind the reasoning of a model that reasons first. A 400 where that can't be said.
ApiResult<Structure> BehindReasoning(Structure structure, const ReasoningMarks& reasoning,
                                     const Tokenizer& tokenizer);

}  // namespace shoal
