// Any text in any format gives well formed calls, the same however it is cut, and not much more text than there was.
// The input is the format, a byte that says where to cut and whether the prompt opens the reasoning, and the text.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/output/dialect_parser.h"

namespace {

using shoal::OutputEvent;
using shoal::OutputEvents;

constexpr std::string_view kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}])";

OutputEvents Read(const shoal::Dialect& format, bool opened, std::string_view text, size_t step) {
  shoal::DialectParser parser(format, {.tools = kTools, .parse_tools = true, .reasoning_open = opened});
  OutputEvents all;
  OutputEvents events;
  for (size_t i = 0; i < text.size(); i += step) parser.push(text.substr(i, step), events);
  parser.finish(events);
  for (const OutputEvent& event : events) AddEvent(all, event);
  return all;
}

void CheckCalls(const OutputEvents& events) {
  using Kind = OutputEvent::Kind;
  int calls = 0;
  bool open = false;
  for (const OutputEvent& event : events) {
    const bool of_call = event.kind == Kind::kArguments || event.kind == Kind::kCallEnd;
    if (event.kind == Kind::kCallBegin) {
      SHOAL_CHECK(!open && event.call == calls && !event.name.empty());
      ++calls;
      open = true;
    } else if (of_call) {
      SHOAL_CHECK(open && event.call == calls - 1);
      open = event.kind == Kind::kArguments;
    }
  }
  SHOAL_CHECK(!open);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto formats = shoal::Dialects();
  const shoal::Dialect& format = formats[data[0] % formats.size()];
  const bool opened = (data[1] & 1) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 2), size - 2);
  const OutputEvents whole = Read(format, opened, text, text.size() + 1);
  CheckCalls(whole);
  SHOAL_CHECK(Read(format, opened, text, 1) == whole);
  SHOAL_CHECK(Read(format, opened, text, 1 + data[1] / 2) == whole);
  size_t bytes = 0;
  for (const OutputEvent& event : whole)
    bytes += event.text.size() + event.name.size() + event.call_id.size();
  SHOAL_CHECK_LE(bytes, 8 * size + 64);  // A control character of an argument takes six bytes.
  return 0;
}
