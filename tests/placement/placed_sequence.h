// Sequences in the caches of a placed cluster, for tests that compose steps themselves.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "exec/engine.h"
#include "exec/sequence_cursor.h"

namespace shoal {

/// A sequence of a test: its tokens, and its place in the cache. Sequences in the same place use it in turn.
struct Sequence {
  Sequence(uint64_t number, int32_t place, std::vector<int32_t> ids, const EngineLimits& limits)
      : id{number}, tokens(std::move(ids)) {
    const int slots = limits.state_slots_each();
    cursor = SequenceCursor(
        id, {.blocks = IdsFrom(BlockId{8 * place}, 8), .slots = IdsFrom(SlotId{place * slots}, slots)});
  }

  /// A slice of the tokens that are not cached yet, which samples after the last one.
  SeqSlice slice() { return cursor.next(std::span<const int32_t>(tokens).subspan(cursor.position()), true); }
  /// One that verifies a draft behind them.
  SeqSlice slice(std::span<const int32_t> draft) {
    return cursor.next_drafted(std::span<const int32_t>(tokens).subspan(cursor.position()), draft);
  }
  NewSequence begin(SamplingParams sampling = {.temperature = 0}) const {
    return {id, std::move(sampling), tokens, static_cast<int32_t>(tokens.size())};
  }

  SeqId id;
  std::vector<int32_t> tokens;
  SequenceCursor cursor;
};

}  // namespace shoal
