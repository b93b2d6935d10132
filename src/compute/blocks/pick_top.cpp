#include "compute/blocks/pick_top.h"

#include <array>
#include <bit>
#include <cstddef>

#include "base/check.h"

namespace shoal {
namespace {

/// An integer that orders as the score does; 0 is no score's.
uint32_t OrderOf(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 becomes 0.
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// The order of the least score that is picked, found digit by digit, and how many of that order are picked.
struct Threshold {
  uint32_t order = 0;
  int64_t of_equals = 0;
};

Threshold FindThreshold(std::span<const float> scores, int64_t count) {
  struct Digit {
    int shift, bits;
  };
  constexpr Digit kDigits[] = {{21, 11}, {10, 11}, {0, 10}};
  Threshold threshold{.of_equals = count};
  uint32_t known = 0;  // The bits of the digits before.
  for (const Digit& digit : kDigits) {
    std::array<int64_t, 2048> counts = {};
    const uint32_t mask = (1u << digit.bits) - 1;
    for (const float score : scores) {
      const uint32_t order = OrderOf(score);
      if ((order & known) == threshold.order) ++counts[(order >> digit.shift) & mask];
    }
    uint32_t value = mask;
    for (; counts[value] < threshold.of_equals; --value) threshold.of_equals -= counts[value];
    threshold.order |= value << digit.shift;
    known |= mask << digit.shift;
  }
  return threshold;
}

}  // namespace

bool PickTop(std::span<const float> scores, std::span<int32_t> picked) {
  SHOAL_CHECK(!picked.empty() && picked.size() <= scores.size());
  bool ordered = true;
  for (const float score : scores) ordered = ordered && score == score;
  if (!ordered) return false;
  Threshold left = FindThreshold(scores, std::ssize(picked));
  size_t next = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const uint32_t order = OrderOf(scores[i]);
    const bool equal = order == left.order && left.of_equals > 0;
    if (order <= left.order && !equal) continue;
    if (equal) --left.of_equals;
    picked[next++] = static_cast<int32_t>(i);
  }
  SHOAL_CHECK_EQ(next, picked.size());
  return true;
}

}  // namespace shoal
