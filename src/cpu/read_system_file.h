// Reads the small files of /proc and /sys. Private to cpu/.
#pragma once

#include <charconv>
#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

namespace shoal {

inline std::optional<std::string> ReadSystemText(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::optional<int64_t> ParseSystemInteger(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

inline std::optional<int64_t> ReadSystemInteger(const std::string& path) {
  const std::optional<std::string> text = ReadSystemText(path);
  return text ? ParseSystemInteger(*text) : std::nullopt;
}

/// The number behind `key` in lines such as "key 123" or "Key:   123 kB".
inline std::optional<int64_t> ReadSystemField(const std::string& path, std::string_view key) {
  std::istringstream lines(ReadSystemText(path).value_or(""));
  std::string word;
  int64_t value = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    if (words >> word >> value && word == key) return value;
  }
  return std::nullopt;
}

}  // namespace shoal
