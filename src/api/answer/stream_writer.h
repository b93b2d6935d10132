// An answer that is sent as it comes. Formats derive from it and say what each part looks like; here is what
// they share: when headers go out, that one step is one write, comments in silence, errors before and after.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"

namespace shoal {

/// One server-sent event: "data: {...}\n\n".
std::string SseEvent(std::string_view data);
/// One with a name: "event: name\ndata: {...}\n\n".
std::string SseEvent(std::string_view name, std::string_view data);

class StreamWriter : public AnswerWriter {
 public:
  explicit StreamWriter(std::shared_ptr<ResponseWriter> writer) : writer_(std::move(writer)) {}

  void admitted() final;
  void finish(const Usage& usage) final;
  void error(const ApiError& error) final;
  void keep_alive() final;
  bool flush() final;
  bool gone() const final { return writer_->gone(); }

 protected:
  /// To be sent with the next flush.
  void put(std::string_view bytes) { pending_ += bytes; }

  virtual std::string content_type() const { return "text/event-stream"; }
  /// What comes before all choices.
  virtual void put_opening() = 0;
  /// What comes behind all choices.
  virtual void put_closing(const Usage& usage) = 0;
  /// An error in the midst of the stream, and whatever must follow it.
  virtual void put_error(const ApiError& error) { put(SseEvent(error_body(error))); }
  virtual std::string error_body(const ApiError& error) const { return ErrorBody(error); }
  /// Bytes that every client skips.
  virtual std::string_view silence() const { return ": keep-alive\n\n"; }

 private:
  const std::shared_ptr<ResponseWriter> writer_;
  std::string pending_;
  bool begun_ = false;
};

}  // namespace shoal
