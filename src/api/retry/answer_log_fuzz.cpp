// A file of answers as a damaged disk, or somebody who writes to its folder, could give it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/retry/answer_log.h"
#include "base/check.h"

// What is read can be written, and reads back as the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  const ReadAnswerLog read = DecodeAnswerLog({reinterpret_cast<const char*>(data), size});
  const ReadAnswerLog again = DecodeAnswerLog(EncodeEntries(read.entries));
  SHOAL_CHECK(again.damage.empty());
  SHOAL_CHECK(again.entries == read.entries);
  return 0;
}
