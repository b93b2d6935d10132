#include <cstdio>
#include <filesystem>
#include <functional>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/command.h"
#include "app/tokenizer_assets.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "formats/gguf_files.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kTextBytesMax = 64 << 20;

struct TokenizeFlags {
  std::string model;
  std::string text;
  std::string file;
  bool chat = false;
  bool decode = false;
  bool plain = false;
  bool json = false;
  bool lines = false;
};

/// What turns text into tokens.
struct TextParts {
  Tokenizer tokenizer;
  std::function<absl::StatusOr<ChatTemplate>()> chat;  ///< Read where it is asked for.
};

/// Of a GGUF file the metadata is enough: it may be a vocabulary alone, or of an architecture that is not built.
absl::StatusOr<TextParts> OpenText(const std::string& path) {
  std::error_code error;
  if (path.ends_with(kGgufExtension) && std::filesystem::is_regular_file(path, error)) {
    ASSIGN_OR_RETURN(GgufText text, TextOfGgufFile(path));
    ASSIGN_OR_RETURN(Tokenizer tokenizer, TokenizerOf(text, path));
    return TextParts{std::move(tokenizer),
                     [text = std::move(text), path] { return ChatTemplateOf(text, path); }};
  }
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(path));
  ASSIGN_OR_RETURN(Tokenizer tokenizer, LoadTokenizer(*model.checkpoint));
  return TextParts{std::move(tokenizer),
                   [checkpoint = model.checkpoint] { return LoadChatTemplate(*checkpoint); }};
}

absl::StatusOr<std::string> Input(const TokenizeFlags& flags) {
  if (!flags.text.empty()) return flags.text;
  if (!flags.file.empty()) return ReadTextFile(flags.file, kTextBytesMax);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

/// The ids in `text`, separated by whatever is no digit.
absl::StatusOr<std::vector<int32_t>> ReadIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == ' ' || c == ',' || c == '[' || c == ']' || c == '\n' || c == '\r' || c == '\t') {
      ++at;
      continue;
    }
    int64_t id = 0;
    const size_t begin = at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9' && id <= INT32_MAX)
      id = 10 * id + (text[at++] - '0');
    if (at == begin || id > INT32_MAX) {
      return InvalidArgument("--decode: expected token ids, separated by spaces or commas, got '{}'",
                             text.substr(begin, 20));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

/// A JSON array is the messages; any other text is what a user says.
absl::StatusOr<std::vector<int32_t>> ChatIds(const TextParts& parts, const std::string& text) {
  ASSIGN_OR_RETURN(const ChatTemplate chat, parts.chat());
  std::string messages = text;
  if (const Json read = Json::parse(text, nullptr, false); !read.is_array()) {
    messages = Json::array({{{"role", "user"}, {"content", text}}})
                   .dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  ASSIGN_OR_RETURN(RenderedPrompt prompt,
                   chat.encode({.messages = messages, .reshape = true}, parts.tokenizer));
  return std::move(prompt.ids);
}

absl::StatusOr<std::vector<int32_t>> Ids(const TokenizeFlags& flags, const TextParts& parts,
                                         const std::string& text) {
  if (flags.decode) return ReadIds(text);
  if (flags.chat) return ChatIds(parts, text);
  if (flags.plain) return parts.tokenizer.encode(text, {});
  return parts.tokenizer.encode_prompt(text);
}

std::string Dumped(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

/// --lines: JSON strings, one a line, to arrays of ids, one a line.
absl::Status TokenizeLines(const TokenizeFlags& flags, const TextParts& parts, const std::string& text) {
  std::istringstream lines(text);
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const Json value = Json::parse(line, nullptr, false);
    if (!value.is_string()) {
      return InvalidArgument("--lines: line {}: expected a JSON string, got '{}'", number,
                             line.substr(0, 40));
    }
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Ids(flags, parts, value.get<std::string>()));
    fmt::print("{}\n", Json(ids).dump());
  }
  return absl::OkStatus();
}

absl::Status Tokenize(const TokenizeFlags& flags) {
  if (flags.chat && flags.plain) return InvalidArgument("--chat and --plain exclude each other");
  if (flags.decode && (flags.chat || flags.plain)) return InvalidArgument("--decode takes ids, not text");
  if (flags.lines && (flags.decode || flags.json))
    return InvalidArgument("--lines excludes --decode and --json");
  ASSIGN_OR_RETURN(const TextParts parts, OpenText(flags.model));
  const Tokenizer& tokenizer = parts.tokenizer;
  ASSIGN_OR_RETURN(const std::string text, Input(flags));
  if (flags.lines) return TokenizeLines(flags, parts, text);
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Ids(flags, parts, text));
  if (flags.decode && !flags.json) {
    ASSIGN_OR_RETURN(const std::string decoded, tokenizer.decode(ids, /*skip_special=*/false));
    fmt::print("{}\n", decoded);
    return absl::OkStatus();
  }
  std::vector<std::string> pieces;
  for (const int32_t id : ids) pieces.push_back(tokenizer.token_bytes(id).value_or(""));
  if (flags.json) {
    ASSIGN_OR_RETURN(const std::string decoded, tokenizer.decode(ids, /*skip_special=*/false));
    Json out = {{"count", ids.size()}, {"tokens", ids}, {"pieces", pieces}, {"text", decoded}};
    fmt::print("{}\n", Dumped(out, 2));
    return absl::OkStatus();
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    fmt::print("{:>8}  {}{}\n", ids[i], Dumped(pieces[i], -1),
               tokenizer.is_special(ids[i]) ? "  control token" : "");
  }
  std::fflush(stdout);  // Where both streams are one terminal or file, the count comes after the tokens.
  fmt::print(stderr, "{} tokens\n", ids.size());
  return absl::OkStatus();
}

}  // namespace

Command AddTokenizeCommand(Flags root) {
  auto flags = std::make_shared<TokenizeFlags>();
  Flags app = root.add_subcommand("tokenize", "Show the tokens of a text, or the text of tokens");
  app.add_option("--model", flags->model, "Model folder, or a GGUF file").required();
  Flag text = app.add_option("text", flags->text, "The text (default: that of --file, or of standard input)");
  app.add_option("--file", flags->file, "File with the text").excludes(text);
  app.add_flag(
      "--chat", flags->chat,
      "The text is messages, a JSON array, or what a user says: put it into the model's chat template");
  app.add_flag("--plain", flags->plain,
               "Names of control tokens in the text are only text, and none go around it (such as BOS)");
  app.add_flag("--decode", flags->decode, "The text is token ids: show what they spell");
  app.add_flag("--lines", flags->lines,
               "The input is JSON strings, one a line: print the ids of each as an array, one a line");
  app.add_flag("--json", flags->json, "Print count, ids, pieces and the text as JSON");
  return {app, [flags] { return Tokenize(*flags); }};
}

}  // namespace shoal
