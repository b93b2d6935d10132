#include "text/bridge.h"

namespace shoal::bridge {

std::string Take(ShoalBytes bytes) {
  std::string text(bytes.data, bytes.size);
  shoal_bytes_free(bytes);
  return text;
}

std::vector<int32_t> Take(ShoalIds ids) {
  std::vector<int32_t> values(ids.data, ids.data + ids.size);
  shoal_ids_free(ids);
  return values;
}

absl::Status Result(int32_t code, ShoalBytes error) {
  if (code == 0) return absl::OkStatus();
  const std::string text = Take(error);
  switch (code) {
    case kShoalInvalid:
      return InvalidArgument("{}", text);
    case kShoalRaised:
      return FailedPrecondition("{}", text);
    case kShoalMissing:
      return NotFound("{}", text);
    default:
      return Internal("{}", text);
  }
}

}  // namespace shoal::bridge

// Rust code is not instrumented: ThreadSanitizer sees the memory that its locks guard, through the functions
// of the C library, but not the locks. Races in our C++ code are still reported. Only builds with
// ThreadSanitizer call this.
extern "C" const char* __tsan_default_suppressions() {
  // The last two names of the second line are those that stay mangled.
  return "race:library/alloc/\nrace:library/core/\nrace:library/std/\n"
         "race:^alloc::\nrace:^core::\nrace:^std::sys\nrace:^_R\nrace:^_*LT*GT*\n"
         "race:^tokenizers::\nrace:^minijinja\nrace:^llguidance::\nrace:^toktrie\nrace:^derivre::\n"
         "race:^hashbrown::\nrace:^serde\nrace:^ahash\nrace:^regex_\nrace:^aho_corasick::\nrace:^onig\n"
         "race:^shoal_bridge::\n";
}
