// /v1/responses over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/http/tcp_stream.h"
#include "api/openai/response_store.h"
#include "api/openai/responses_api.h"
#include "api/openai/responses_request.h"
#include "api/testing/bracket_parser.h"
#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr const char* kResponses = "/v1/responses";

class ResponsesTest : public OpenAiTest {
 protected:
  void start_brackets() {
    start({}, {}, {.chat_format = [](const ChatRequest&, std::string_view) { return BracketFormat(); }});
  }
  std::vector<HttpRoute> more_routes() override {
    responses_ = std::make_unique<ResponsesApi>(*service_, ResponsesApi::MakeStore());
    return responses_->routes();
  }
  static std::string ask(const std::string& script, const std::string& more = "") {
    return fmt::format(R"({{"input": "say:{}"{}}})", script, more);
  }
  std::unique_ptr<ResponsesApi> responses_;
};

/// Without what differs between two answers.
Json Comparable(Json response) {
  response.erase("id");
  response.erase("created_at");
  response["usage"].erase("input_tokens_details");  // The second finds the first's prompt in the cache.
  for (Json& item : response["output"]) item.erase("id");
  return nlohmann::json::parse(response.dump());
}

TEST_F(ResponsesTest, AResponseHasItsItems) {
  start_brackets();
  const Json json =
      post_json(kResponses, ask("(why)text[f:{}]", R"(, "instructions": "Be kind", "metadata": {"a": "b"})"));
  EXPECT_EQ(json["object"], "response");
  EXPECT_EQ(json["status"], "completed");
  EXPECT_EQ(json["instructions"], "Be kind");
  EXPECT_EQ(json["metadata"]["a"], "b");
  ASSERT_EQ(json["output"].size(), 3u);
  EXPECT_EQ(json["output"][0]["content"][0]["text"], "why");
  EXPECT_EQ(json["output"][1]["content"][0]["text"], "text");
  EXPECT_EQ(json["output"][2]["type"], "function_call");
  EXPECT_EQ(json["output"][2]["name"], "f");
  EXPECT_EQ(json["output"][2]["arguments"], "{}");
  EXPECT_EQ(json["usage"]["output_tokens"], 15);
}

TEST_F(ResponsesTest, TheEventsOfAStreamBuildTheResponse) {
  start_brackets();
  for (const char* script : {"plain", "(why)then", "a[f:{}]b", "[f:{}][g:{}]", "(open", ""}) {
    for (const char* more : {"", R"(, "max_output_tokens": 3)"}) {
      const Json whole = post_json(kResponses, ask(script, more));
      Json built = Json::array(), last;
      std::string text;
      int64_t number = 0;
      for (const std::string& data :
           events(kResponses, ask(script, std::string(more) + R"(, "stream": true)"))) {
        last = *ParseJson(data);
        const std::string type = last["type"];
        EXPECT_EQ(last["sequence_number"], number++);
        if (type == "response.output_item.added") {
          EXPECT_EQ(last["output_index"], built.size());
          text.clear();
        }
        if (type.ends_with(".delta")) text += last["delta"].get<std::string>();
        if (type.ends_with("_text.done")) {
          EXPECT_EQ(last["text"], text);
        }
        if (type.ends_with("arguments.done")) {
          EXPECT_EQ(last["arguments"], text);
        }
        if (type == "response.output_item.done") built.push_back(last["item"]);
      }
      EXPECT_EQ(last["type"], whole["status"] == "completed" ? "response.completed" : "response.incomplete");
      EXPECT_EQ(last["response"]["output"], built);
      EXPECT_EQ(Comparable(last["response"]), Comparable(whole)) << script << more;
    }
  }
}

TEST_F(ResponsesTest, AStreamHasTheOfficialOrder) {
  start();
  std::vector<std::string> types;
  for (const std::string& event : events(kResponses, ask("a", R"(, "stream": true)"))) {
    types.push_back((*ParseJson(event))["type"]);
  }
  EXPECT_EQ(types,
            (std::vector<std::string>{
                "response.created", "response.in_progress", "response.output_item.added",
                "response.content_part.added", "response.output_text.delta", "response.output_text.done",
                "response.content_part.done", "response.output_item.done", "response.completed"}));
}

TEST_F(ResponsesTest, ALaterRequestGoesOnFromAnEarlier) {
  start();
  const Json first = post_json(kResponses, ask("one"));
  const std::string id = first["id"];
  const Json next = post_json(kResponses, ask("two", fmt::format(R"(, "previous_response_id": "{}")", id)));
  const Json replayed = post_json(
      kResponses,
      R"({"store": false, "input": [{"role": "user", "content": "say:one"}, {"role": "assistant", "content": "one"},
                                    {"role": "user", "content": "say:two"}]})");
  EXPECT_EQ(next["usage"]["input_tokens"], replayed["usage"]["input_tokens"]);
  EXPECT_EQ(next["previous_response_id"], id);
  EXPECT_EQ(post_json(kResponses, ask("x", R"(, "previous_response_id": "resp_no")"), 400)["error"]["code"],
            "previous_response_not_found");
  EXPECT_EQ(get("/v1/responses/" + replayed["id"].get<std::string>()).status, 404)
      << "it was not to be stored";
}

TEST_F(ResponsesTest, AStoredResponseCanBeReadAndDeleted) {
  start();
  const Json response = post_json(kResponses, ask("one"));
  const std::string path = "/v1/responses/" + response["id"].get<std::string>();
  EXPECT_EQ(*ParseJson(get(path).body), response);
  const std::string request = fmt::format("DELETE {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
  TcpStream socket = *TcpStream::Connect("127.0.0.1", server_->port(), Soon());
  ASSERT_TRUE(socket.send_all(request, Soon()).ok());
  EXPECT_THAT(*socket.receive(Soon()), HasSubstr("200 OK"));
  EXPECT_EQ(get(path).status, 404);
}

TEST_F(ResponsesTest, ACustomToolIsCalledWithText) {
  start_brackets();
  const std::string tools = R"(, "tools": [{"type": "custom", "name": "f"}, {"type": "web_search"}])";
  const Json json = post_json(kResponses, ask(R"([f:{\"input\": \"*** patch\"}])", tools));
  EXPECT_EQ(json["output"][0]["type"], "custom_tool_call") << json.dump();
  EXPECT_EQ(json["output"][0]["input"], "*** patch");
}

TEST(ResponsesRequest, ItemsOfOneTurnAreOneMessage) {
  const auto parsed = ParseResponses(
      R"({"input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules"}]},
        {"role": "user", "content": "Look"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "ls", "arguments": "{}", "status": "completed"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "a.c"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "reasoning", "encrypted_content": "zzz", "summary": []},
        {"type": "web_search_call", "id": "ws", "status": "completed"}]})",
      [](const std::string&) { return std::nullopt; });
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_EQ(parsed->messages, nlohmann::ordered_json::parse(R"([
      {"role": "developer", "content": "Rules"}, {"role": "user", "content": "Look"},
      {"role": "assistant", "content": "I look", "reasoning_content": "hm",
       "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}},
                      {"id": "c2", "type": "function", "function": {"name": "patch", "arguments": "{\"input\":\"x\"}"}}]},
      {"role": "tool", "tool_call_id": "c1", "content": "a.c"},
      {"role": "tool", "tool_call_id": "c2", "content": "ok"}])")
                                  .dump());
}

TEST(ResponseStore, KeepsTheLatestWithinItsBounds) {
  ResponseStore store(2, 100);
  store.put("a", {.body = "1", .messages = "1"});
  store.put("b", {.body = "2", .messages = "2"});
  EXPECT_TRUE(store.get("a").has_value());  // Used last.
  store.put("c", {.body = "3", .messages = "3"});
  EXPECT_FALSE(store.get("b").has_value());
  EXPECT_EQ(store.get("a")->body, "1");
  store.put("d", {.body = std::string(98, 'x'), .messages = ""});
  EXPECT_FALSE(store.get("a").has_value());
  EXPECT_TRUE(store.get("d").has_value());
  store.put("e", {.body = std::string(101, 'x'), .messages = ""});
  EXPECT_FALSE(store.get("e").has_value()) << "larger than all that may be kept";
  EXPECT_FALSE(store.erase("e"));
}

}  // namespace
}  // namespace shoal
