// Fields that several kinds of frames have.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status.h"
#include "wire/payload.h"

namespace shoal {

/// Flags of which no other than `known` is set.
inline absl::StatusOr<uint8_t> ReadFlags(PayloadReader& in, std::string_view field, uint8_t known) {
  ASSIGN_OR_RETURN(const uint8_t flags, in.u8(field));
  if ((flags & ~known) != 0) return InvalidArgument("{}: expected bits of {}, got {}", field, known, flags);
  return flags;
}

inline void WriteIds(PayloadWriter& out, std::span<const int32_t> ids) {
  out.u32(static_cast<uint32_t>(ids.size()));
  for (const int32_t id : ids) out.i32(id);
}

inline absl::StatusOr<std::vector<int32_t>> ReadIds(PayloadReader& in, std::string_view field) {
  ASSIGN_OR_RETURN(const uint32_t count, in.count(field, sizeof(int32_t)));
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) {
    ASSIGN_OR_RETURN(id, in.i32(field));
  }
  return ids;
}

}  // namespace shoal
