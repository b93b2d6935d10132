// Integer ids as distinct types, so that the compiler rejects a LayerId in place of an ExpertId.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <compare>
#include <cstdint>
#include <functional>

namespace shoal {

template <typename Tag, typename Value>
struct Id {
  Value value{};
  constexpr auto operator<=>(const Id&) const = default;
};

using NodeId = Id<struct NodeTag, int32_t>;         ///< Index of a node in its Plan.
using LayerId = Id<struct LayerTag, int32_t>;       ///< Layer of the model, 0 .. L-1.
using ExpertId = Id<struct ExpertTag, int32_t>;     ///< Expert of a layer, 0 .. E-1.
using RequestId = Id<struct RequestTag, uint64_t>;  ///< A request, unique during the life of a coordinator.
using SeqId = Id<struct SeqTag, uint64_t>;     ///< A sequence (one choice of a request), unique likewise.
using StepId = Id<struct StepTag, uint64_t>;   ///< A step; steps are executed in ascending order.
using Epoch = Id<struct EpochTag, uint32_t>;   ///< Version of the plan in force.
using BlockId = Id<struct BlockTag, int32_t>;  ///< A block of the KV cache; the same id on every node.
using SlotId = Id<struct SlotTag, int32_t>;    ///< A slot for a recurrent state; the same on every node.

}  // namespace shoal

template <typename Tag, typename Value>
struct std::hash<shoal::Id<Tag, Value>> {
  size_t operator()(const shoal::Id<Tag, Value>& id) const { return std::hash<Value>()(id.value); }
};

// Takes no width or base. Through formatter<Value> or format_to(), each object file would get all of fmt's integer
// formatting: half a second of each compiler.
template <typename Tag, typename Value>
struct fmt::formatter<shoal::Id<Tag, Value>> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <typename Context>
  auto format(const shoal::Id<Tag, Value>& id, Context& context) const {
    const fmt::format_int digits(id.value);
    return std::copy_n(digits.data(), digits.size(), context.out());
  }
};
