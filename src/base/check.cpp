#include "base/check.h"

#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "base/log_format.h"
#include "base/log_name.h"

namespace shoal {

void CheckFailed(const char* file, int line, std::string_view text) {
  if (LogWritesJson()) {
    LogError("{}:{}: CHECK failed: {}", file, line, text);
    std::abort();
  }
  const std::string name = HasProcessLogName() ? "[" + CurrentLogName() + "] " : std::string();
  std::fprintf(stderr, "%s%s:%d: CHECK failed: %.*s\n", name.c_str(), file, line,
               static_cast<int>(text.size()), text.data());
  std::fflush(stderr);
  std::abort();
}

}  // namespace shoal
