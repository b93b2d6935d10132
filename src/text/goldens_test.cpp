// Tokenizers and chat templates compared with the outputs of Hugging Face's libraries
// (tests/goldens/text/README.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/log.h"
#include "text/chat_template.h"
#include "text/stream_decoder.h"
#include "text/test_data.h"

namespace shoal {
namespace {

using nlohmann::json;
using test::FileText;
using test::Goldens;

constexpr int64_t kGoldenNow = 1'768'478'400;  // 2026-01-15 12:00:00

class TokenizerGoldens : public testing::TestWithParam<std::string> {
 protected:
  Tokenizer tokenizer_ = test::GoldenTokenizer(GetParam());
  json vectors_ = json::parse(FileText(Goldens() / "tokenizers" / GetParam() / "vectors.json"));
};

TEST_P(TokenizerGoldens, TextsHaveTheIdsOfTheReference) {
  ASSERT_GE(vectors_["encode"].size(), 60u);
  for (const json& row : vectors_["encode"]) {
    const auto text = row["text"].get<std::string>();
    const auto plain = tokenizer_.encode(text, {.parse_special = true});
    const auto special = tokenizer_.encode(text, {.add_special = true, .parse_special = true});
    ASSERT_TRUE(plain.ok()) << ToString(plain.status());
    ASSERT_TRUE(special.ok()) << ToString(special.status());
    EXPECT_EQ(json(*plain), row["ids"]) << text;
    EXPECT_EQ(json(*special), row["ids_special"]) << text;
  }
}

TEST_P(TokenizerGoldens, StreamsSendThePiecesOfTheReference) {
  ASSERT_GE(vectors_["decode"].size(), 90u);
  for (const json& row : vectors_["decode"]) {
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    const bool skip_special = row["skip_special"];
    EXPECT_EQ(*tokenizer_.decode(ids, skip_special), row["text"].get<std::string>());
    StreamDecoder stream(tokenizer_, skip_special);
    json pieces = json::array();
    std::string joined;
    for (const int32_t id : ids) {
      const auto piece = stream.push(id);
      ASSERT_TRUE(piece.ok()) << ToString(piece.status());
      pieces.push_back(*piece);
      joined += *piece;
    }
    const std::string rest = *stream.flush();
    EXPECT_EQ(pieces, row["pieces"]) << row["text"];
    EXPECT_EQ(rest, row["flush"].get<std::string>()) << row["text"];
    EXPECT_EQ(joined + rest, row["text"].get<std::string>());
  }
}

TEST_P(TokenizerGoldens, TheBytesOfTokensJoinToTheText) {
  for (const json& row : vectors_["encode"]) {
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    std::string joined;
    for (const int32_t id : ids) joined += *tokenizer_.token_bytes(id);
    // Some families prepend a space to every text and strip it when decoding; the token bytes keep it.
    const std::string text = *tokenizer_.decode(ids, false);
    EXPECT_TRUE(joined == text || joined == " " + text) << row["text"] << " became " << joined;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerGoldens,
                         testing::Values("qwen", "mistral_v3", "llama3_style", "deepseek_style",
                                         "gemma_style"),
                         [](const auto& tested) { return tested.param; });

// ---- Templates ----

struct Conversation {
  std::string messages, tools, kwargs;
  bool add_generation_prompt = true, continue_final_message = false;
};

std::map<std::string, Conversation> ReadConversations(const std::filesystem::path& folder) {
  std::map<std::string, Conversation> conversations;
  // ordered_json, because the order of keys shows in the text.
  for (const auto& entry : nlohmann::ordered_json::parse(FileText(folder / "conversations.json"))) {
    auto kwargs = entry["kwargs"];
    Conversation& c = conversations[entry["name"].get<std::string>()];
    c.messages = entry["messages"].dump();
    c.tools = kwargs.contains("tools") ? kwargs["tools"].dump() : "";
    c.add_generation_prompt = kwargs.value("add_generation_prompt", true);
    c.continue_final_message = kwargs.value("continue_final_message", false);
    for (const char* own : {"tools", "add_generation_prompt", "continue_final_message"}) kwargs.erase(own);
    c.kwargs = kwargs.dump();
  }
  return conversations;
}

/// Expects the rendering of a row: its `text`, or its `error` and `error_type`.
void ExpectSame(const absl::StatusOr<std::string>& got, const json& row) {
  if (row.contains("text")) {
    ASSERT_TRUE(got.ok()) << ToString(got.status());
    EXPECT_EQ(*got, row["text"].get<std::string>());
  } else if (row["error_type"] == "TemplateError") {
    EXPECT_EQ(got.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(Message(got.status()), row["error"].get<std::string>());
  } else {
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument)
        << (got.ok() ? *got : ToString(got.status()));
  }
}

/// Checks one row of rendered.jsonl.
void ExpectRow(const json& row, const ChatTemplate& chat_template, const Conversation& conversation) {
  SCOPED_TRACE(row["template"].get<std::string>() + " on " + row["conversation"].get<std::string>());
  ExpectSame(chat_template.render({.messages = conversation.messages,
                                   .tools = conversation.tools,
                                   .kwargs = conversation.kwargs,
                                   .add_generation_prompt = conversation.add_generation_prompt,
                                   .continue_final_message = conversation.continue_final_message,
                                   .local_seconds = kGoldenNow}),
             row);
}

/// Checks all templates of a folder except those in `done`, to which it adds them. Returns the number of
/// rows.
int CheckTemplates(const std::filesystem::path& folder, std::set<std::string>& done) {
  const auto conversations = ReadConversations(folder);
  const std::set<std::string> skip = done;
  std::map<std::string, ChatTemplate> templates;
  std::ifstream lines(folder / "rendered.jsonl");
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    const json row = json::parse(line);
    const std::string name = row["template"];
    if (skip.contains(name)) continue;
    if (done.insert(name).second) {
      const json config = {{"bos_token", row["bos_token"]}, {"eos_token", row["eos_token"]}};
      auto made = ChatTemplate::FromText(FileText(folder / "templates" / (name + ".jinja")), config.dump());
      EXPECT_TRUE(made.ok()) << name << ": " << ToString(made.status());
      if (!made.ok()) continue;
      templates.emplace(name, *std::move(made));
    }
    const auto found = templates.find(name);
    if (found != templates.end()) ExpectRow(row, found->second, conversations.at(row["conversation"]));
    ++rows;
  }
  return rows;
}

TEST(ChatTemplateGoldens, TemplatesRenderAsInTransformers) {
  std::set<std::string> done;
  EXPECT_EQ(CheckTemplates(Goldens() / "chat", done), 17 * 20);
  const auto shared = test::SourceDir() / "../shared/goldens/text/chat";
  const int more = std::filesystem::exists(shared) ? CheckTemplates(shared, done) : 0;
  LogInfo("templates: {} rendered, with {} rows from ../shared, whose licences do not allow a copy here",
          done.size(), more);
}

// The templates of a folder that tools/templates/render.py made; they are not ours to copy.
TEST(ChatTemplateGoldens, TemplatesOfAFolderRenderAsInTransformers) {
  const char* const folder = std::getenv("SHOAL_TEMPLATES");
  if (folder == nullptr) GTEST_SKIP() << "SHOAL_TEMPLATES names no folder of tools/templates/render.py";
  // The first joins to safe texts, which Jinja2 escapes then; Jinja2 cannot render the tools of the second.
  std::set<std::string> done = {"meetkai-functionary-medium-v3.1", "llama-cpp-deepseek-r1"};
  EXPECT_GT(CheckTemplates(folder, done), 0);
}

TEST(ChatTemplateGoldens, SmallTemplatesRenderAsInJinja2) {
  const auto golden = nlohmann::ordered_json::parse(FileText(Goldens() / "chat/jinja.json"));
  const std::string variables = golden["variables"].dump();
  ASSERT_GE(golden["cases"].size(), 45u);
  for (const json row : golden["cases"]) {
    const auto source = row["template"].get<std::string>();
    SCOPED_TRACE(source);
    const auto chat_template = ChatTemplate::FromText(source, "");
    ASSERT_TRUE(chat_template.ok()) << ToString(chat_template.status());
    ExpectSame(chat_template->render({.messages = "[]", .kwargs = variables, .local_seconds = kGoldenNow}),
               row);
  }
}

}  // namespace
}  // namespace shoal
