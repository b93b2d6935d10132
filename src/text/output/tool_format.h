// A format in which models write calls of tools: what its templates look like, how to read it, and how it is written.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/output/call_syntax.h"
#include "text/output/tool_parser.h"
#include "text/output/tool_schemas.h"

namespace shoal {

struct ToolFormat {
  std::string_view name;
  /// A template is of this format if it has all texts of one of these lists.
  std::vector<std::vector<std::string_view>> recognized_by;
  std::vector<std::string> openers;
  /// As in ToolSyntax.
  std::string first = "";
  std::vector<std::string> dropped = {};
  CallsSyntax calls;
  /// The first whose texts a model's template has is the one that the model is held to.
  std::vector<CallWriting> writings;
  /// Marks within calls that may be special tokens.
  std::vector<std::string> inner_marks = {};
  /// The model's template takes only ids of nine letters and digits.
  bool short_ids = false;
  /// The prompt ends with the opening marker of an answer, which has one whether or not it calls a tool.
  bool opened_by_prompt = false;

  ToolSyntax syntax() const;
  std::unique_ptr<CallGrammar> grammar(const ToolSchemas& schemas) const;
  /// How a model with this template writes calls.
  const CallWriting& writing(std::string_view chat_template) const;
};

/// The marks of <PREFIXinvoke name="..."><PREFIXparameter name="...">VALUE</PREFIXparameter></PREFIXinvoke>, and of what
/// ends the calls.
XmlCallsSyntax InvokeTags(const std::string& prefix, std::vector<std::string> close);
/// How calls between such tags are written, each tag on a line of its own, behind `opener` and before `closer`.
CallWriting InvokeWriting(const XmlCallsSyntax& syntax, std::string opener, std::string closer);

// Each is defined in formats/.
ToolFormat ApertusFormat();
ToolFormat AprielFormat();
ToolFormat AtemFormat();
ToolFormat CommandRFormat();
ToolFormat CommandRPlusFormat();
ToolFormat DeepSeekFormat();
ToolFormat DeepSeekDsmlFormat();
ToolFormat FirefunctionFormat();
ToolFormat FunctionaryFormat();
ToolFormat FunctionaryRecipientFormat();
ToolFormat Gemma4Format();
ToolFormat FunctionGemmaFormat();
ToolFormat GemmaCodeFormat();
ToolFormat GigaChatFormat();
ToolFormat GlmFormat();
ToolFormat GraniteFormat();
ToolFormat HermesFormat();
ToolFormat HunyuanFormat();
ToolFormat KimiK2Format();
ToolFormat KimiK3Format();
ToolFormat Lfm2Format();
ToolFormat Llama3Format();
ToolFormat Llama4Format();
ToolFormat MiniCpmFormat();
ToolFormat MiniMaxM2Format();
ToolFormat MiniMaxM3Format();
ToolFormat MistralFormat();
ToolFormat NemotronFormat();
ToolFormat Qwen3CoderFormat();
ToolFormat SeedOssFormat();
ToolFormat SolarFormat();

}  // namespace shoal
