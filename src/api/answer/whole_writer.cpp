#include "api/answer/whole_writer.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace shoal {
namespace {

std::string TextOf(const OutputEvents& events, OutputEvent::Kind kind) {
  std::string text;
  for (const OutputEvent& event : events) {
    if (event.kind == kind) text += event.text;
  }
  return text;
}

}  // namespace

std::string AnsweredChoice::content() const { return TextOf(events, OutputEvent::Kind::kContent); }
std::string AnsweredChoice::reasoning() const { return TextOf(events, OutputEvent::Kind::kReasoning); }

std::vector<AnsweredCall> AnsweredChoice::calls() const {
  std::vector<AnsweredCall> calls;
  for (const OutputEvent& event : events) {
    if (event.kind == OutputEvent::Kind::kCallBegin) calls.push_back({event.call_id, event.name, ""});
    if (event.kind == OutputEvent::Kind::kArguments && !calls.empty()) calls.back().arguments += event.text;
  }
  return calls;
}

Json ArgumentsObject(const std::string& arguments) {
  auto object = ParseJson(arguments);
  return object.has_value() && object->is_object() ? *std::move(object) : Json::object();
}

WholeWriter::WholeWriter(WholeFormat format, int choices, std::shared_ptr<ResponseWriter> writer)
    : format_(std::move(format)), writer_(std::move(writer)), choices_(static_cast<size_t>(choices)) {}

AnsweredChoice& WholeWriter::add(int choice, std::span<const OutputEvent> events) {
  AnsweredChoice& one = choices_.at(static_cast<size_t>(choice));
  for (const OutputEvent& event : events) AddEvent(one.events, event);
  return one;
}

void WholeWriter::piece(const AnswerPiece& piece) {
  AnsweredChoice& choice = add(piece.choice, piece.events);
  choice.sampled.insert(choice.sampled.end(), piece.sampled.begin(), piece.sampled.end());
}

void WholeWriter::prompt_scores(int choice, std::span<const SampledToken> scores) {
  std::vector<SampledToken>& all = choices_.at(static_cast<size_t>(choice)).prompt_scores;
  all.insert(all.end(), scores.begin(), scores.end());
}

void WholeWriter::end_token(int choice, const SampledToken& token) {
  choices_.at(static_cast<size_t>(choice)).end_token = token;
}

void WholeWriter::end_choice(int choice, std::span<const OutputEvent> events, const ChoiceEnd& end) {
  add(choice, events).end = end;
}

void WholeWriter::finish(const Usage& usage) { writer_->send({.body = format_.body(choices_, usage)}); }

void WholeWriter::error(const ApiError& error) { SendError(*writer_, error, format_.error_body(error)); }

void SendError(ResponseWriter& writer, const ApiError& error, std::string body) {
  HttpResponse response{.status = error.status, .body = std::move(body)};
  std::optional<int64_t> retry_after_s = error.retry_after_s;
  if (error.status == 429) retry_after_s = retry_after_s.value_or(1);
  if (error.status == 503) retry_after_s = retry_after_s.value_or(5);
  if (retry_after_s.has_value()) response.headers.emplace_back("Retry-After", std::to_string(*retry_after_s));
  writer.send(std::move(response));
}

void SendError(ResponseWriter& writer, const ApiError& error) { SendError(writer, error, ErrorBody(error)); }

}  // namespace shoal
