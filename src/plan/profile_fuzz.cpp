// Any text as a kept profile gives an error, or a profile that is written and read back to the same value.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "plan/machine_profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto profile = shoal::ProfileFromJson({reinterpret_cast<const char*>(data), size});
  if (!profile.ok()) return 0;
  for (const int threads : {1, 3, 5000}) {
    SHOAL_CHECK(shoal::CheckRates(profile->rates_of(std::min(threads, 4096))).ok());
  }
  const auto again = shoal::ProfileFromJson(shoal::ProfileToJson(*profile));
  SHOAL_CHECK(again.ok() && *again == *profile);
  return 0;
}
