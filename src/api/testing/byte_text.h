// A tokenizer whose ids are bytes, and a chat template that prints roles: what a test can predict.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/json.h"
#include "base/check.h"

namespace shoal {

inline constexpr int32_t kByteVocabulary = 257;
inline constexpr int32_t kByteEos = 256;  ///< "<|end|>", special.

/// GPT-2's printable stand-in of a byte: itself where it prints, else the next code point from 256 on.
inline std::string ByteStandIn(int byte) {
  auto prints = [](int b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  int code = byte;
  if (!prints(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += prints(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

inline constexpr std::string_view kByteTemplate =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]";

/// `more`: further control tokens, whose ids come behind kByteEos; the engine knows them only if its vocabulary is
/// larger.
inline ServedText ByteText(std::string_view chat_template = kByteTemplate,
                           const std::vector<std::string>& more = {}) {
  Json json;
  json["version"] = "1.0";
  std::vector<std::string> special = {"<|end|>"};
  special.insert(special.end(), more.begin(), more.end());
  for (size_t i = 0; i < special.size(); ++i) {
    json["added_tokens"].push_back({{"id", kByteEos + i},
                                    {"content", special[i]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  json["pre_tokenizer"] = byte_level;
  json["decoder"] = byte_level;
  json["model"]["type"] = "BPE";
  for (int byte = 0; byte < 256; ++byte) json["model"]["vocab"][ByteStandIn(byte)] = byte;
  json["model"]["merges"] = Json::array();
  auto tokenizer = Tokenizer::FromJson(json.dump());
  if (!tokenizer.ok()) CheckFailed(__FILE__, __LINE__, Message(tokenizer.status()));
  auto chat = ChatTemplate::FromText(chat_template, "{}");
  if (!chat.ok()) CheckFailed(__FILE__, __LINE__, Message(chat.status()));
  return {*std::move(tokenizer), *std::move(chat)};
}

inline std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace shoal
