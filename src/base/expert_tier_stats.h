// What a node that holds part of its routed experts in memory has to tell of the others.
#pragma once

#include <cstdint>

namespace shoal {

/// Counts are since the model was loaded. An expert of a layer is wanted once by each step that picks it, however many
/// rows do.
struct ExpertTierStats {
  int64_t resident_bytes = 0;  ///< What experts in memory may take.
  int64_t total_bytes = 0;     ///< Of all routed experts held.
  int64_t hits = 0;            ///< Experts that were in memory when they were wanted,
  int64_t misses = 0;          ///< and those that were not, or not yet.
  int64_t bytes_read = 0;
  int64_t packed_again =
      0;              ///< Reads that were packed from the checkpoint: there was no file, or it is damaged.
  int64_t ahead = 0;  ///< Reads that were begun on a guess of the next layer's experts;
  int64_t ahead_used = 0;    ///< those whose expert was wanted then,
  int64_t ahead_wasted = 0;  ///< and those whose expert went before anybody wanted it.
  int64_t wait_ns = 0;       ///< That steps waited for reads.

  ExpertTierStats operator+(const ExpertTierStats& other) const {
    return {.resident_bytes = resident_bytes + other.resident_bytes,
            .total_bytes = total_bytes + other.total_bytes,
            .hits = hits + other.hits,
            .misses = misses + other.misses,
            .bytes_read = bytes_read + other.bytes_read,
            .packed_again = packed_again + other.packed_again,
            .ahead = ahead + other.ahead,
            .ahead_used = ahead_used + other.ahead_used,
            .ahead_wasted = ahead_wasted + other.ahead_wasted,
            .wait_ns = wait_ns + other.wait_ns};
  }
  bool operator==(const ExpertTierStats&) const = default;
};

}  // namespace shoal
