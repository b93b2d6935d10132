// Server-sent events from pieces of a body, wherever it is cut.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace shoal {

class SseReader {
 public:
  /// `on_data` gets the data of each event; the lines of one event are joined by '\n'. Comments and other fields are
  /// dropped.
  explicit SseReader(std::function<void(std::string_view data)> on_data) : on_data_(std::move(on_data)) {}

  void push(std::string_view piece);
  /// Whether the last event is complete.
  bool at_end_of_event() const { return line_.empty() && !has_data_; }

 private:
  void end_line();

  std::function<void(std::string_view data)> on_data_;
  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool after_return_ = false;  // The last byte was '\r', which a '\n' may follow.
};

}  // namespace shoal
