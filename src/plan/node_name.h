// What a node may be called, in plans, on the command line and by a worker that joins.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace shoal {

inline constexpr size_t kNodeNameMax = 256;

/// 1 to kNodeNameMax letters, digits or any of ._-:/@[]
inline bool IsNodeName(std::string_view name) {
  const auto legal = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("._-:/@[]").find(c) != std::string_view::npos;
  };
  return !name.empty() && name.size() <= kNodeNameMax && std::all_of(name.begin(), name.end(), legal);
}

}  // namespace shoal
