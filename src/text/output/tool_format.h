// A format in which models write calls of tools: what its templates look like, and how to read it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/output/tool_parser.h"
#include "text/output/tool_schemas.h"

namespace shoal {

struct ToolFormat {
  std::string_view name;
  /// A template is of this format if it has all texts of one of these lists.
  std::vector<std::vector<std::string_view>> recognized_by;
  ToolSyntax syntax;
  std::unique_ptr<CallGrammar> (*grammar)(const ToolSchemas& schemas) = nullptr;
  /// Marks within calls that may be special tokens.
  std::vector<std::string> inner_marks = {};
  /// The model's template takes only ids of nine letters and digits.
  bool short_ids = false;
};

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
ToolFormat MistralFormat();
ToolFormat NemotronFormat();
ToolFormat Qwen3CoderFormat();
ToolFormat SeedOssFormat();
ToolFormat SolarFormat();

}  // namespace shoal
