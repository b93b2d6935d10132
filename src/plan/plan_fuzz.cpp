// Any text as a plan file gives an error, or a valid plan that is unchanged after writing and reading it
// back.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "plan/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto plan = shoal::PlanFromJson(text);
  if (!plan.ok()) return 0;
  SHOAL_CHECK(shoal::Validate(*plan).ok());
  const auto again = shoal::PlanFromJson(shoal::PlanToJson(*plan));
  SHOAL_CHECK(again.ok() && *again == *plan);
  return 0;
}
