#include "text/bridge.h"

namespace shoal::bridge {

std::string Take(ShoalBytes bytes) {
  std::string text(bytes.data, bytes.size);
  shoal_bytes_free(bytes);
  return text;
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

// Rust's standard library is not instrumented: ThreadSanitizer sees the memory that its locks guard, through
// the C library's functions, but not the locks. Our own code stays watched. Only a build with TSan calls
// this.
extern "C" const char* __tsan_default_suppressions() {
  return "race:library/alloc/\nrace:library/core/\nrace:library/std/\n"
         "race:^alloc::\nrace:^core::\nrace:^std::sys\nrace:^_R\nrace:^_*LT*GT*\n"  // Names that stay mangled
                                                                                    // last.
         "race:^tokenizers::\nrace:^minijinja\nrace:^llguidance::\nrace:^toktrie\nrace:^derivre::\n"
         "race:^hashbrown::\nrace:^serde\nrace:^ahash\nrace:^regex_\nrace:^aho_corasick::\nrace:^onig\n"
         "race:^shoal_bridge::\n";
}
