// What the kernel of macOS tells by name. For the files of macOS in base/ and cpu/ alone.
#pragma once

#include <sys/sysctl.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace shoal {

/// An integer, of 32 or of 64 bits; nothing where this machine has none of that name.
inline std::optional<int64_t> SystemNumber(const char* name) {
  int64_t value = 0;  // Little endian: one of 32 bits fills the lower half.
  size_t size = sizeof value;
  if (sysctlbyname(name, &value, &size, nullptr, 0) != 0) return std::nullopt;
  return value;
}

inline std::optional<std::string> SystemText(const char* name) {
  size_t size = 0;
  if (sysctlbyname(name, nullptr, &size, nullptr, 0) != 0 || size == 0) return std::nullopt;
  std::string text(size, '\0');
  if (sysctlbyname(name, text.data(), &size, nullptr, 0) != 0) return std::nullopt;
  text.resize(text.find('\0') == std::string::npos ? size : text.find('\0'));
  return text;
}

}  // namespace shoal
