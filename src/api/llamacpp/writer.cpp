#include "api/llamacpp/writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/stream_writer.h"
#include "api/answer/whole_writer.h"

namespace shoal {
namespace {

/// What both shapes collect of the one choice that there is.
struct Progress {
  std::string text;
  std::vector<int32_t> tokens;
  int64_t predicted = 0;
  int64_t first_ns = 0;  // When the first token came; 0 before.
  ChoiceEnd end;

  void add(const AnswerPiece& piece) {
    if (first_ns == 0) first_ns = NowNs();
    predicted += std::ssize(piece.sampled);
    for (const SampledToken& token : piece.sampled) tokens.push_back(token.id);
    add(piece.events);
  }
  void add(std::span<const OutputEvent> events) {
    for (const OutputEvent& event : events) {
      if (event.kind == OutputEvent::Kind::kContent) text += event.text;
    }
  }
};

Json Rates(const char* what, int64_t count, double ms) {
  const std::string name = what;
  const double each = count > 0 ? ms / static_cast<double>(count) : 0.0;
  return {{name + "_n", count},
          {name + "_ms", ms},
          {name + "_per_token_ms", each},
          {name + "_per_second", each > 0 ? 1000.0 / each : 0.0}};
}

Json Timings(const LlamaAnswerFormat& format, const Progress& progress, const Usage& usage) {
  const int64_t now = NowNs();
  const int64_t first = progress.first_ns == 0 ? now : progress.first_ns;
  Json json = {{"cache_n", usage.cached_tokens}};
  json.update(Rates("prompt", usage.prompt_tokens - usage.cached_tokens,
                    static_cast<double>(first - format.started_ns) * 1e-6));
  json.update(Rates("predicted", progress.predicted, static_cast<double>(now - first) * 1e-6));
  return json;
}

const char* StopType(const ChoiceEnd& end) {
  if (end.reason == EndReason::kLength) return "limit";
  return end.stop_string.empty() ? "eos" : "word";
}

/// The fields of `all` that are wanted, by the last part of their paths.
Json Wanted(const Json& all, const std::vector<std::string>& paths) {
  if (paths.empty()) return all;
  Json wanted = Json::object();
  for (const std::string& path : paths) {
    const Json* at = &all;
    size_t begin = 0;
    while (at != nullptr && begin <= path.size()) {
      const size_t end = std::min(path.find('/', begin), path.size());
      const std::string key = path.substr(begin, end - begin);
      at = at->is_object() && at->contains(key) ? &(*at)[key] : nullptr;
      if (at != nullptr && end == path.size()) wanted[key] = *at;
      begin = end + 1;
    }
  }
  return wanted;
}

/// What stands in the end: in a stream the text and the tokens have gone before it.
Json LastJson(const LlamaAnswerFormat& format, const Progress& progress, const Usage& usage, Json content,
              Json tokens) {
  Json json;
  json["index"] = 0;
  json["content"] = std::move(content);
  json["tokens"] = std::move(tokens);
  json["id_slot"] = -1;  // Sequences have no slots here.
  json["stop"] = true;
  json["model"] = format.model;
  json["tokens_predicted"] = progress.predicted;
  json["tokens_evaluated"] = usage.prompt_tokens;
  json["generation_settings"] = *ParseJson(format.settings);
  json["prompt"] = format.prompt;
  json["has_new_line"] = progress.text.find('\n') != std::string::npos;
  json["truncated"] = false;
  json["stop_type"] = StopType(progress.end);
  json["stopping_word"] = progress.end.stop_string;
  json["tokens_cached"] = usage.cached_tokens;
  json["timings"] = Timings(format, progress, usage);
  return Wanted(json, format.response_fields);
}

class Whole final : public WholeWriter {
 public:
  Whole(std::shared_ptr<Progress> progress, WholeFormat format, std::shared_ptr<ResponseWriter> writer)
      : WholeWriter(std::move(format), 1, std::move(writer)), progress_(std::move(progress)) {}

  void piece(const AnswerPiece& piece) override { progress_->add(piece); }
  void end_choice(int /*choice*/, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    progress_->add(events);
    progress_->end = end;
  }

 private:
  const std::shared_ptr<Progress> progress_;
};

class Stream final : public StreamWriter {
 public:
  Stream(LlamaAnswerFormat format, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)), format_(std::move(format)) {}

  void piece(const AnswerPiece& piece) override {
    const size_t text = progress_.text.size();
    const size_t tokens = progress_.tokens.size();
    progress_.add(piece);
    put_piece(text, tokens);
  }
  void end_choice(int /*choice*/, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    const size_t text = progress_.text.size();
    progress_.add(events);
    progress_.end = end;
    if (progress_.text.size() > text) put_piece(text, progress_.tokens.size());
  }

 private:
  void put_opening() override {}
  void put_closing(const Usage& usage) override {
    put(SseEvent(DumpJson(LastJson(format_, progress_, usage, "", Json::array()))));
  }
  /// What came since the text had `text` bytes, and the answer `tokens` tokens.
  void put_piece(size_t text, size_t tokens) {
    Json json;
    json["index"] = 0;
    json["content"] = progress_.text.substr(text);
    json["tokens"] = Json::array();
    for (size_t i = tokens; format_.return_tokens && i < progress_.tokens.size(); ++i) {
      json["tokens"].push_back(progress_.tokens[i]);
    }
    json["stop"] = false;
    json["id_slot"] = -1;
    json["tokens_predicted"] = progress_.predicted;
    put(SseEvent(DumpJson(json)));
  }

  const LlamaAnswerFormat format_;
  Progress progress_;
};

}  // namespace

std::unique_ptr<AnswerWriter> LlamaWholeWriter(LlamaAnswerFormat format,
                                               std::shared_ptr<ResponseWriter> writer) {
  auto progress = std::make_shared<Progress>();
  auto body = [format = std::move(format), progress](const std::vector<AnsweredChoice>&, const Usage& usage) {
    const Json tokens = format.return_tokens ? Json(progress->tokens) : Json::array();
    return DumpJson(LastJson(format, *progress, usage, progress->text, tokens));
  };
  return std::make_unique<Whole>(progress, WholeFormat{.body = std::move(body)}, std::move(writer));
}

std::unique_ptr<AnswerWriter> LlamaStreamWriter(LlamaAnswerFormat format,
                                                std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<Stream>(std::move(format), std::move(writer));
}

}  // namespace shoal
