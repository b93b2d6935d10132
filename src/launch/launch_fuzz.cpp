// Any text as a .env file, an order, an event, a PID file or a /proc/PID/stat gives an error, or a value that is written
// and read again as the same one.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/process_stat.h"
#include "launch/env_file.h"
#include "launch/host_message.h"
#include "launch/process_record.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto values = ParseEnvFile(text); values.ok()) {
    for (const auto& [name, value] : *values)
      SHOAL_CHECK(IsVariableName(name) && value.find('\0') == value.npos);
  }
  if (const auto order = ParseOrder(text); order.ok()) {
    const std::string line = FormatOrder(*order);
    SHOAL_CHECK(line.find('\n') == line.npos);
    const auto again = ParseOrder(line);
    SHOAL_CHECK(again.ok() && FormatOrder(*again) == line);
  }
  if (const auto event = ParseEvent(text); event.ok()) {
    const std::string line = FormatEvent(*event);
    SHOAL_CHECK(line.starts_with(kEventMark) && line.find('\n') == line.npos);
    const auto again = ParseEvent(std::string_view(line).substr(kEventMark.size()));
    SHOAL_CHECK(again.ok() && FormatEvent(*again) == line);
  }
  if (const auto record = ParseRecord(text); record.ok()) {
    const auto again = ParseRecord(FormatRecord(*record));
    SHOAL_CHECK(again.ok() && *again == *record);
  }
  (void)ParseProcessStat(text);
  return 0;
}
