// A number for each thing that enters the prefix cache, never given twice: of two texts whose blocks have the same key
// by chance, or on purpose, a copy of the one is not taken for the other's.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "kv/block_image.h"

namespace shoal {

class EntryNumbers {
  template <typename Self>
  static auto& at(Self& self, const CachePlace& place) {
    if (const SlotId* slot = std::get_if<SlotId>(&place))
      return self.slots_[static_cast<size_t>(slot->value)];
    return self.blocks_[static_cast<size_t>(std::get<BlockId>(place).value)];
  }

 public:
  /// Of so many places. Numbers stay over generations: blocks and slots do, too.
  void resize(int blocks, int slots) {
    blocks_.resize(static_cast<size_t>(blocks));
    slots_.resize(static_cast<size_t>(slots));
  }
  /// Something else is in the place from now on.
  uint64_t enter(const CachePlace& place) { return at(*this, place) = ++last_; }
  /// Of what entered it last; 0: nothing has.
  uint64_t of(const CachePlace& place) const { return at(*this, place); }

 private:
  uint64_t last_ = 0;
  std::vector<uint64_t> blocks_;
  std::vector<uint64_t> slots_;
};

}  // namespace shoal
