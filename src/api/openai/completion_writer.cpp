#include "api/openai/completion_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "api/answer/stream_writer.h"
#include "api/answer/whole_writer.h"

namespace shoal {
namespace {

constexpr std::string_view kObject = "text_completion";

int64_t Characters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

Json NoLogprobs() {
  return {{"tokens", Json::array()},
          {"token_logprobs", Json::array()},
          {"top_logprobs", Json::array()},
          {"text_offset", Json::array()}};
}

/// Appends tokens in the legacy shape. offset: characters of the choice's text before the first token; moved behind the
/// last.
void AddLogprobs(const Tokenizer& tokenizer, std::span<const SampledToken> sampled, int64_t& offset,
                 Json& json) {
  for (const SampledToken& token : sampled) {
    const std::string text = TokenText(tokenizer, token.id);
    json["tokens"].push_back(text);
    json["token_logprobs"].push_back(JsonLogprob(token.logprob));
    Json top = Json::object();
    for (const TokenLogprob& one : token.top) top[TokenText(tokenizer, one.id)] = JsonLogprob(one.logprob);
    top[text] = JsonLogprob(token.logprob);
    json["top_logprobs"].push_back(std::move(top));
    json["text_offset"].push_back(offset);
    offset += Characters(text);
  }
}

/// Appends those of a prompt that is echoed as `echo`. Nothing tells how likely its first token was.
void AddPrompt(const Tokenizer& tokenizer, int32_t first, std::span<const SampledToken> scores,
               std::string_view echo, int64_t& offset, Json& json) {
  const std::string text = TokenText(tokenizer, first);
  json["tokens"].push_back(text);
  json["token_logprobs"].push_back(nullptr);
  json["top_logprobs"].push_back(nullptr);
  json["text_offset"].push_back(offset);
  // A token that goes before any text (BOS) is not part of a prompt that came as text.
  if (echo.starts_with(text)) offset += Characters(text);
  AddLogprobs(tokenizer, scores, offset, json);
}

std::string_view EchoOf(const CompletionFormat& format, size_t prompt) {
  return format.echo.empty() ? std::string_view() : format.echo.at(prompt);
}

class Stream final : public StreamWriter {
 public:
  Stream(CompletionFormat format, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)),
        format_(std::move(format)),
        frame_(format_.header, kObject),
        choices_(static_cast<size_t>(format_.prompts * format_.n)),
        scores_(format_.scored.size()) {}

  void prompt_scores(int choice, std::span<const SampledToken> scores) override {
    const auto prompt = static_cast<size_t>(choice / format_.n);
    std::vector<SampledToken>& all = scores_.at(prompt);
    all.insert(all.end(), scores.begin(), scores.end());
    if (all.size() + 1 == format_.scored[prompt].size()) open_prompt(prompt);
  }
  void end_token(int choice, const SampledToken& token) override {
    if (!format_.scored.empty()) choices_.at(static_cast<size_t>(choice)).unshown.push_back(token);
  }

  void piece(const AnswerPiece& piece) override {
    Choice& choice = choices_.at(static_cast<size_t>(piece.choice));
    if (format_.header.logprobs) {
      choice.unshown.insert(choice.unshown.end(), piece.sampled.begin(), piece.sampled.end());
    }
    put_events(piece.choice, piece.events);
  }
  void end_choice(int choice, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    put_events(choice, events);
    Choice& one = choices_.at(static_cast<size_t>(choice));
    one.finish_reason = fmt::format("\"{}\"", EndReasonName(end.reason));
    if (one.open) put_choice(choice, "", one.finish_reason);
  }

 private:
  struct Choice {
    std::vector<SampledToken> unshown;  // Tokens whose log-probabilities are due.
    int64_t offset = 0;
    bool open = false;               // The prompt has been shown, if it is echoed.
    std::string waiting = {};        // Text that came before.
    std::string finish_reason = {};  // JSON, once it has ended.
  };

  void put_opening() override {
    for (size_t prompt = 0; prompt < static_cast<size_t>(format_.prompts); ++prompt) {
      if (format_.scored.empty() || format_.scored[prompt].size() == 1) open_prompt(prompt);
    }
  }
  /// Its choices may be shown: all that goes before them is known.
  void open_prompt(size_t prompt) {
    const std::string_view echo = EchoOf(format_, prompt);
    for (size_t i = prompt * static_cast<size_t>(format_.n);
         i < (prompt + 1) * static_cast<size_t>(format_.n); ++i) {
      Choice& choice = choices_[i];
      const auto index = static_cast<int>(i);
      if (!format_.scored.empty()) {
        Json logprobs = NoLogprobs();
        AddPrompt(*format_.tokenizer, format_.scored[prompt].front(), scores_[prompt], echo, choice.offset,
                  logprobs);
        put_chunk(index, echo, DumpJson(logprobs), "null");
      } else if (!echo.empty()) {
        put_chunk(index, echo, "null", "null");
      }
      choice.offset = Characters(echo);
      choice.open = true;
      if (!choice.waiting.empty()) put_choice(index, std::exchange(choice.waiting, {}), "null");
      if (!choice.finish_reason.empty()) put_choice(index, "", choice.finish_reason);
    }
  }
  void put_closing(const Usage& usage) override {
    if (format_.header.include_usage) put(UsageEvent(format_.header, kObject, usage));
    put(kSseDone);
  }
  void put_events(int choice, std::span<const OutputEvent> events) {
    Choice& one = choices_.at(static_cast<size_t>(choice));
    for (const OutputEvent& event : events) {
      if (event.kind != OutputEvent::Kind::kContent) continue;
      if (one.open) {
        put_choice(choice, event.text, "null");
      } else {
        one.waiting += event.text;
      }
    }
  }
  void put_choice(int index, std::string_view text, std::string_view finish_reason) {
    Choice& choice = choices_.at(static_cast<size_t>(index));
    std::string logprobs = "null";
    if (!choice.unshown.empty()) {
      Json json = NoLogprobs();
      AddLogprobs(*format_.tokenizer, std::exchange(choice.unshown, {}), choice.offset, json);
      logprobs = DumpJson(json);
    }
    put_chunk(index, text, logprobs, finish_reason);
  }
  // parameters: the parts of one chunk; all but the text are JSON.
  void put_chunk(int index, std::string_view text, std::string_view logprobs,
                 std::string_view finish_reason) {
    put(frame_.event(fmt::format(R"({{"index":{},"text":{},"logprobs":{},"finish_reason":{}}})", index,
                                 Quoted(text), logprobs, finish_reason)));
  }

  const CompletionFormat format_;
  const ChunkFrame frame_;
  std::vector<Choice> choices_;
  std::vector<std::vector<SampledToken>> scores_;  // Of each prompt, as far as they have come.
};

double MeanLogprob(const AnsweredChoice& choice) {
  double sum = 0;
  for (const SampledToken& token : choice.sampled) sum += JsonLogprob(token.logprob);
  return choice.sampled.empty() ? 0.0 : sum / static_cast<double>(choice.sampled.size());
}

/// The indexes of a prompt's choices that are shown: the best first, where there are more than that.
std::vector<size_t> Shown(const CompletionFormat& format, const std::vector<AnsweredChoice>& choices,
                          size_t prompt) {
  std::vector<size_t> order(static_cast<size_t>(format.best_of));
  std::iota(order.begin(), order.end(), prompt * order.size());
  if (format.best_of > format.n) {
    std::ranges::stable_sort(order, std::ranges::greater(),
                             [&](size_t i) { return MeanLogprob(choices[i]); });
    order.resize(static_cast<size_t>(format.n));
  }
  return order;
}

Json ChoiceLogprobs(const CompletionFormat& format, const std::vector<AnsweredChoice>& choices, size_t prompt,
                    const AnsweredChoice& choice) {
  if (!format.header.logprobs) return nullptr;
  const std::string_view echo = EchoOf(format, prompt);
  Json json = NoLogprobs();
  int64_t offset = 0;
  if (!format.scored.empty()) {
    const AnsweredChoice& first = choices[prompt * static_cast<size_t>(format.best_of)];
    AddPrompt(*format.tokenizer, format.scored[prompt].front(), first.prompt_scores, echo, offset, json);
  }
  offset = Characters(echo);
  AddLogprobs(*format.tokenizer, choice.sampled, offset, json);
  if (!format.scored.empty() && choice.end_token.has_value()) {
    AddLogprobs(*format.tokenizer, {&*choice.end_token, 1}, offset, json);
  }
  return json;
}

std::string Body(const CompletionFormat& format, const std::vector<AnsweredChoice>& choices,
                 const Usage& usage) {
  Json json = Envelope(format.header, kObject);
  json["choices"] = Json::array();
  for (size_t prompt = 0; prompt < static_cast<size_t>(format.prompts); ++prompt) {
    const std::string_view echo = EchoOf(format, prompt);
    for (const size_t shown : Shown(format, choices, prompt)) {
      const AnsweredChoice& choice = choices[shown];
      Json one;
      one["index"] = json["choices"].size();
      one["text"] = std::string(echo) + choice.content();
      one["logprobs"] = ChoiceLogprobs(format, choices, prompt, choice);
      one["finish_reason"] = EndReasonName(choice.end.reason);
      json["choices"].push_back(std::move(one));
    }
  }
  json["usage"] = UsageJson(usage);
  return DumpJson(json);
}

Json PlainJson(const AnswerHeader& header, const std::string& text, EndReason reason, const Usage& usage) {
  Json json;
  json["text"] = text;
  json["finish_reason"] = EndReasonName(reason);
  json["model"] = header.model;
  json["usage"] = UsageJson(usage);
  return json;
}

class PlainStream final : public StreamWriter {
 public:
  PlainStream(AnswerHeader header, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)), header_(std::move(header)) {}

  void piece(const AnswerPiece& piece) override { put_events(piece.events); }
  void end_choice(int /*choice*/, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    put_events(events);
    reason_ = end.reason;
  }

 private:
  void put_opening() override {}
  void put_closing(const Usage& usage) override {
    put(SseEvent(DumpJson(PlainJson(header_, "", reason_, usage))));
    put(kSseDone);
  }
  void put_events(std::span<const OutputEvent> events) {
    for (const OutputEvent& event : events) {
      if (event.kind == OutputEvent::Kind::kContent)
        put(SseEvent(fmt::format(R"({{"text":{}}})", Quoted(event.text))));
    }
  }

  const AnswerHeader header_;
  EndReason reason_ = EndReason::kStop;
};

}  // namespace

std::unique_ptr<AnswerWriter> CompletionStreamWriter(CompletionFormat format,
                                                     std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<Stream>(std::move(format), std::move(writer));
}

std::unique_ptr<AnswerWriter> CompletionWholeWriter(CompletionFormat format,
                                                    std::shared_ptr<ResponseWriter> writer) {
  const int choices = format.prompts * format.best_of;
  auto body = [format = std::move(format)](const std::vector<AnsweredChoice>& all, const Usage& usage) {
    return Body(format, all, usage);
  };
  return std::make_unique<WholeWriter>(WholeFormat{.body = std::move(body)}, choices, std::move(writer));
}

std::unique_ptr<AnswerWriter> GenerateStreamWriter(const AnswerHeader& header,
                                                   std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<PlainStream>(header, std::move(writer));
}

std::unique_ptr<AnswerWriter> GenerateWholeWriter(const AnswerHeader& header,
                                                  std::shared_ptr<ResponseWriter> writer) {
  auto body = [header](const std::vector<AnsweredChoice>& all, const Usage& usage) {
    return DumpJson(PlainJson(header, all.front().content(), all.front().end.reason, usage));
  };
  return std::make_unique<WholeWriter>(WholeFormat{.body = std::move(body)}, 1, std::move(writer));
}

}  // namespace shoal
