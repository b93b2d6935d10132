#include "api/answer/stream_writer.h"

#include <fmt/format.h>

#include <utility>

#include "api/answer/whole_writer.h"

namespace shoal {

std::string SseEvent(std::string_view data) { return fmt::format("data: {}\n\n", data); }
std::string SseEvent(std::string_view name, std::string_view data) {
  return fmt::format("event: {}\n{}", name, SseEvent(data));
}

void StreamWriter::admitted() {
  if (std::exchange(begun_, true)) return;
  writer_->begin_stream(200, content_type());
  put_opening();
  flush();
}

void StreamWriter::finish(const Usage& usage) {
  put_closing(usage);
  flush();
  writer_->end_stream();
}

void StreamWriter::error(const ApiError& error) {
  if (!begun_) return SendError(*writer_, error, error_body(error));
  put_error(error);
  flush();
  writer_->end_stream();
}

void StreamWriter::keep_alive() {
  if (!begun_) return;
  put(silence());
  flush();
}

bool StreamWriter::flush() {
  if (pending_.empty()) return false;
  writer_->write(pending_);
  pending_.clear();  // Keeps its room: the next step writes as much.
  return true;
}

}  // namespace shoal
