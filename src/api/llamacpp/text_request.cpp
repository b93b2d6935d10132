#include "api/llamacpp/text_request.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/field_reader.h"
#include "api/json.h"

namespace shoal {
namespace {

std::optional<std::string> ReadModel(FieldReader& fields) {
  auto model = fields.text("model");
  if (model == "") model.reset();
  return model;
}

ContentToTokenize ReadContent(FieldReader& fields, const Json& content, const RequestLimits& limits) {
  ContentToTokenize out;
  if (content.is_string()) {
    out.parts.emplace_back(content.get<std::string>());
  } else if (content.is_array()) {
    for (size_t i = 0; i < content.size() && fields.ok(); ++i) {
      if (content[i].is_string()) {
        out.parts.emplace_back(content[i].get<std::string>());
        continue;
      }
      const std::vector<int32_t> id =
          ReadTokenIds(fields, fmt::format("content[{}]", i), Json::array({content[i]}), limits);
      if (!id.empty()) out.parts.emplace_back(id.front());
    }
  } else {
    fields.fail_type("content", "a string, or an array of strings and token ids", content);
  }
  out.add_special = fields.boolean("add_special").value_or(out.add_special);
  out.parse_special = fields.boolean("parse_special").value_or(out.parse_special);
  out.with_pieces = fields.boolean("with_pieces").value_or(out.with_pieces);
  return out;
}

/// A conversation is read as the chat that it may become: its fields are those of a chat.
ChatToTokenize ReadChat(const Json& object) {
  Json chat = object;
  for (const char* name : {"model", "return_token_strs", "add_special_tokens"}) chat.erase(name);
  return {DumpJson(chat)};
}

}  // namespace

ApiResult<TokenizeRequest> ParseTokenize(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  TokenizeRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  out.model = ReadModel(fields);
  const Json* content = fields.find("content");
  const Json* prompt = fields.find("prompt");
  const Json* messages = fields.find("messages");
  if ((content != nullptr) + (prompt != nullptr) + (messages != nullptr) != 1) {
    fields.fail("content", "expected one of 'content' (or 'prompt', or 'messages', as vLLM has them)",
                content == nullptr && prompt == nullptr && messages == nullptr ? "missing_parameter"
                                                                               : "invalid_value");
  } else if (content != nullptr) {
    out.what = ReadContent(fields, *content, limits);
    fields.refuse_others();
  } else {
    out.token_strings = fields.boolean("return_token_strs").value_or(false);
    if (prompt != nullptr) {
      PromptToTokenize text{.prompt = fields.required_text("prompt")};
      text.add_special = fields.boolean("add_special_tokens").value_or(text.add_special);
      out.what = std::move(text);
      fields.refuse_others();
    } else {
      // The template writes them itself.
      fields.only("add_special_tokens", {false});
      out.what = ReadChat(*object);
    }
  }
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

ApiResult<DetokenizeRequest> ParseDetokenize(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  DetokenizeRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  out.model = ReadModel(fields);
  if (const Json* tokens = fields.find_array("tokens")) {
    out.tokens = ReadTokenIds(fields, "tokens", *tokens, limits);
  } else {
    fields.fail("tokens", "'tokens' is missing: expected an array of token ids", "missing_parameter");
  }
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

}  // namespace shoal
