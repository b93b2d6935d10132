#include "api/llamacpp/api.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/whole_writer.h"
#include "api/json.h"
#include "api/llamacpp/indent_cut.h"
#include "api/llamacpp/infill_request.h"
#include "api/llamacpp/writer.h"
#include "api/openai/chat_order.h"

namespace shoal {
namespace {

/// A token as llama-server shows it: text, or its bytes where they are not whole characters.
Json Piece(const Tokenizer& tokenizer, int32_t id) {
  const std::string bytes = tokenizer.token_bytes(id).value_or("");
  // Bytes that are not text become U+FFFD there, so that text comes back as it was.
  const std::string shown = *ParseJson(Quoted(bytes));
  if (shown == bytes) return bytes;
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

/// Sampling as llama-server names it.
Json Settings(const SamplingParams& sampling, int64_t limit) {
  return {{"n_predict", limit},
          {"seed", sampling.seed},
          {"temperature", sampling.temperature},
          {"top_k", sampling.top_k},
          {"top_p", sampling.top_p},
          {"min_p", sampling.min_p},
          {"repeat_penalty", sampling.repetition_penalty},
          {"presence_penalty", sampling.presence_penalty},
          {"frequency_penalty", sampling.frequency_penalty}};
}

}  // namespace

LlamaApi::LlamaApi(LlamaOptions options, AnswerService& service, const Scheduler& scheduler)
    : options_(std::move(options)), service_(service), scheduler_(scheduler) {}

std::vector<HttpRoute> LlamaApi::RoutesOf(LlamaApi* api) {
  std::vector<HttpRoute> routes;
  auto add = [api, &routes](const char* method, const char* path, auto member) {
    routes.push_back({method, path, [api, member](const HttpRequest& request, const Writer& writer) {
                        (api->*member)(request, writer);
                      }});
  };
  add("POST", "/tokenize", &LlamaApi::tokenize);
  add("POST", "/detokenize", &LlamaApi::detokenize);
  add("POST", "/apply-template", &LlamaApi::apply_template);
  add("POST", "/infill", &LlamaApi::infill);
  add("GET", "/props", &LlamaApi::props);
  add("GET", "/slots", &LlamaApi::slots);
  return routes;
}

void LlamaApi::tokenize(const HttpRequest& request, const Writer& writer) const {
  const auto parsed = ParseTokenize(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->model)) return SendError(*writer, *wrong);
  auto body = tokens_body(*parsed);
  if (!body.has_value()) return SendError(*writer, body.error());
  writer->send({.body = *std::move(body)});
}

ApiResult<std::string> LlamaApi::tokens_body(const TokenizeRequest& request) const {
  const Tokenizer& tokenizer = service_.tokenizer();
  if (const auto* content = std::get_if<ContentToTokenize>(&request.what)) {
    const auto tokens = content_tokens(*content);
    if (!tokens.has_value()) return std::unexpected(tokens.error());
    return DumpJson({{"tokens", content->with_pieces ? pieces_json(*tokens) : Json(*tokens)}});
  }
  std::vector<int32_t> tokens;
  if (const auto* text = std::get_if<PromptToTokenize>(&request.what)) {
    auto ids = tokenizer.encode(text->prompt, {.add_special = text->add_special, .parse_special = true});
    if (!ids.ok()) return std::unexpected(FromStatus(ids.status(), "prompt"));
    tokens = *std::move(ids);
  } else {
    const auto chat = ParseChatCompletion(std::get<ChatToTokenize>(request.what).chat,
                                          {.vocabulary = service_.vocabulary()});
    if (!chat.has_value()) return std::unexpected(chat.error());
    auto prompt = service_.chat_prompt(chat->conversation, "messages");
    if (!prompt.has_value()) return std::unexpected(prompt.error());
    tokens = std::move(prompt->tokens);
  }
  const int64_t context = service_.context();
  Json json;
  json["count"] = tokens.size();
  json["max_model_len"] = context > 0 ? Json(context) : Json(nullptr);
  json["tokens"] = tokens;
  json["token_strs"] = nullptr;
  if (request.token_strings) {
    json["token_strs"] = Json::array();
    for (const int32_t id : tokens) json["token_strs"].push_back(tokenizer.token_name(id).value_or(""));
  }
  return DumpJson(json);
}

// Special tokens go before the first text, as there is one text that is cut into parts.
ApiResult<std::vector<int32_t>> LlamaApi::content_tokens(const ContentToTokenize& content) const {
  std::vector<int32_t> tokens;
  bool first = true;
  for (const auto& part : content.parts) {
    if (const auto* id = std::get_if<int32_t>(&part)) {
      tokens.push_back(*id);
    } else {
      const auto ids = service_.tokenizer().encode(
          std::get<std::string>(part),
          {.add_special = content.add_special && first, .parse_special = content.parse_special});
      if (!ids.ok()) return std::unexpected(FromStatus(ids.status(), "content"));
      tokens.insert(tokens.end(), ids->begin(), ids->end());
    }
    first = false;
  }
  return tokens;
}

Json LlamaApi::pieces_json(const std::vector<int32_t>& tokens) const {
  Json list = Json::array();
  for (const int32_t id : tokens) list.push_back({{"id", id}, {"piece", Piece(service_.tokenizer(), id)}});
  return list;
}

// llama-server calls the text "content", vLLM "prompt", and the requests don't tell which is meant.
void LlamaApi::detokenize(const HttpRequest& request, const Writer& writer) const {
  const auto parsed = ParseDetokenize(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->model)) return SendError(*writer, *wrong);
  const auto text = service_.tokenizer().decode(parsed->tokens, /*skip_special=*/false);
  if (!text.ok()) return SendError(*writer, FromStatus(text.status(), "tokens"));
  writer->send({.body = DumpJson({{"content", *text}, {"prompt", *text}})});
}

void LlamaApi::apply_template(const HttpRequest& request, const Writer& writer) const {
  const auto parsed = ParseChatCompletion(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->common.model)) return SendError(*writer, *wrong);
  const auto prompt = service_.chat_prompt(parsed->conversation, "messages");
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  writer->send({.body = DumpJson({{"prompt", prompt->text}})});
}

void LlamaApi::infill(const HttpRequest& request, const Writer& writer) {
  auto parsed = ParseInfill(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  const CommonFields& common = parsed->common;
  if (const auto wrong = service_.check_model(common.model)) return SendError(*writer, *wrong);
  auto middle = service_.fill_in_middle({.prefix = parsed->prefix,
                                         .suffix = parsed->suffix,
                                         .begun = parsed->begun,
                                         .files = std::move(parsed->files)});
  if (!middle.has_value()) {
    if (middle.error().param == "suffix") middle.error().param = "input_suffix";
    return SendError(*writer, middle.error());
  }
  AnswerOrder order = OrderWithoutPrompt(common, NewAnswerId("infill-", *writer));
  order.prompt_field = "input_prefix";
  order.stop_token_ids.insert(order.stop_token_ids.end(), middle->end_ids.begin(), middle->end_ids.end());
  if (auto wrong = service_.constrain(common.structure, order)) return SendError(*writer, *wrong);
  if (parsed->indent > 0) {
    order.format.parser = [indent = parsed->indent] { return std::make_unique<IndentCut>(indent); };
  }
  order.sampling.seed = SeedFor(order.sampling, *writer);  // It is told.
  const SamplingParams sampling = ResolveSampling(order.sampling, options_.sampling);
  LlamaAnswerFormat format{.model = service_.model_names().front(),
                           .prompt = service_.tokenizer().decode(middle->tokens, false).value_or(""),
                           .settings = DumpJson(Settings(sampling, order.max_tokens.value_or(-1))),
                           .return_tokens = parsed->return_tokens,
                           .response_fields = std::move(parsed->response_fields)};
  order.prompts.push_back(std::move(middle->tokens));
  auto answer = common.stream ? LlamaStreamWriter(std::move(format), writer)
                              : LlamaWholeWriter(std::move(format), writer);
  if (const auto error = service_.start(std::move(order), std::move(answer), writer))
    SendError(*writer, *error);
}

void LlamaApi::props(const HttpRequest& /*request*/, const Writer& writer) const {
  const Json params = Settings(ResolveSampling({.seed = 0}, options_.sampling), -1);
  Json settings = {{"id", 0},
                   {"n_ctx", service_.context()},
                   {"speculative", false},
                   {"is_processing", scheduler_.stats().running > 0},
                   {"params", params}};
  settings["params"].erase("seed");  // Drawn for each request.
  Json json = {{"default_generation_settings", std::move(settings)},
               {"total_slots", options_.sequences_max},
               {"model_alias", service_.model_names().front()},
               {"model_path", options_.model_path},
               {"modalities", {{"vision", false}, {"audio", false}}},
               {"chat_template", options_.chat_template},
               {"bos_token", options_.bos_token},
               {"eos_token", options_.eos_token},
               {"build_info", options_.build},
               {"is_sleeping", false}};
  writer->send({.body = DumpJson(json)});
}

// Sequences have no slots of their own here: as many as run are shown at work.
void LlamaApi::slots(const HttpRequest& request, const Writer& writer) const {
  const int running = scheduler_.stats().running;
  if (request.query.find("fail_on_no_slot=1") != std::string::npos && running >= options_.sequences_max) {
    return SendError(*writer, {.status = 503,
                               .message = "no slot is free; send the request again later",
                               .type = "server_error",
                               .code = "no_slot_available"});
  }
  const int64_t context = service_.context();
  Json list = Json::array();
  for (int i = 0; i < options_.sequences_max; ++i) {
    list.push_back({{"id", i}, {"n_ctx", context}, {"speculative", false}, {"is_processing", i < running}});
  }
  writer->send({.body = DumpJson(list)});
}

}  // namespace shoal
