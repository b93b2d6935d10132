// Any text as kept statistics of experts gives an error, or statistics that are written and read back to the same value.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "plan/expert_stats.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto stats = shoal::ExpertStatsFromJson({reinterpret_cast<const char*>(data), size});
  if (!stats.ok()) return 0;
  const auto again = shoal::ExpertStatsFromJson(shoal::ExpertStatsToJson(*stats));
  SHOAL_CHECK(again.ok() && *again == *stats);
  for (shoal::LayerUse& use : stats->layers) {
    const shoal::LayerUse same = use;
    shoal::AddUse(same, use);
    SHOAL_CHECK(shoal::CheckUse(use, {.experts = static_cast<int32_t>(use.rows.size())}).ok());
  }
  return 0;
}
