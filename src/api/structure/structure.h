// What the text of an answer must be, as requests say it: a JSON value of a schema, a text of a regular expression,
// of a grammar, or one of several choices.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/field_reader.h"
#include "text/grammar.h"

namespace shoal {

struct Structure {
  std::string field;  ///< Of the request, for errors.
  GrammarKind kind = GrammarKind::kJsonSchema;
  std::string text;  ///< A JSON schema, a regular expression, or a grammar in Lark.
  bool operator==(const Structure&) const = default;
};

/// Reads, whoever invented them: response_format (OpenAI: text, json_object, json_schema); guided_json, guided_regex,
/// guided_choice, guided_grammar and structured_outputs (vLLM); json_schema and grammar (llama.cpp); regex and ebnf
/// (SGLang). One of them at most may constrain the text. Absent: any text will do.
std::optional<Structure> ReadStructure(FieldReader& fields, std::optional<ApiError>& error);

/// A schema as it is compiled: spaces between JSON's tokens are bounded, or a model could go on writing them for ever.
/// Empty whitespace: the default. none: JSON without any space.
struct JsonSpaces {
  std::string whitespace;  ///< A regular expression for the space between two tokens.
  bool none = false;
};
std::string SchemaText(const Json& schema, const JsonSpaces& spaces = {});
/// What a schema says of them to llguidance, under "x-guidance".
Json GuidanceOptions(const JsonSpaces& spaces = {});

/// A regular expression that matches one of `choices`.
std::string ChoiceRegex(const std::vector<std::string>& choices);

/// What the grammar's compiler says, for the client: it names the keyword of a schema that can't be enforced.
ApiError StructureError(const Structure& structure, const std::string& message);

}  // namespace shoal
