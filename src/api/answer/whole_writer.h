// An answer that is sent at once: collects the choices, and hands them to the format in the end.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"
#include "api/json.h"

namespace shoal {

/// A tool call of a choice, complete.
struct AnsweredCall {
  std::string id;
  std::string name;
  std::string arguments;  ///< JSON, if the model wrote JSON.
};

/// The arguments of a call as an object: what a model broke off is an empty one.
Json ArgumentsObject(const std::string& arguments);

struct AnsweredChoice {
  OutputEvents events;  ///< Joined: as AddEvent does.
  std::vector<SampledToken> sampled;
  std::vector<SampledToken> prompt_scores;  ///< Of the first choice of a prompt, where they were asked for.
  std::optional<SampledToken> end_token;    ///< Where one ended the text.
  ChoiceEnd end;

  std::string content() const;
  std::string reasoning() const;
  std::vector<AnsweredCall> calls() const;
};

/// The body of an answer, and of an error, in some format.
struct WholeFormat {
  std::function<std::string(const std::vector<AnsweredChoice>& choices, const Usage& usage)> body;
  std::function<std::string(const ApiError& error)> error_body = &ErrorBody;
};

class WholeWriter : public AnswerWriter {
 public:
  WholeWriter(WholeFormat format, int choices, std::shared_ptr<ResponseWriter> writer);

  void admitted() override {}
  void piece(const AnswerPiece& piece) override;
  void prompt_scores(int choice, std::span<const SampledToken> scores) override;
  void end_token(int choice, const SampledToken& token) override;
  void end_choice(int choice, std::span<const OutputEvent> events, const ChoiceEnd& end) override;
  void finish(const Usage& usage) override;
  void error(const ApiError& error) override;
  void keep_alive() override {}  // The body has not begun, and a status is still to come.
  bool flush() override { return false; }
  bool gone() const override { return writer_->gone(); }

 private:
  AnsweredChoice& add(int choice, std::span<const OutputEvent> events);

  const WholeFormat format_;
  const std::shared_ptr<ResponseWriter> writer_;
  std::vector<AnsweredChoice> choices_;
};

/// Answers with an error whose body is `body`; a 429 or 503 tells when to try again.
void SendError(ResponseWriter& writer, const ApiError& error, std::string body);
/// As OpenAI's API words it.
void SendError(ResponseWriter& writer, const ApiError& error);

}  // namespace shoal
