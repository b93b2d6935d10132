#include "compute/blocks/mixer_blocks.h"

#include <optional>
#include <type_traits>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

template <typename... Blocks>
absl::StatusOr<AnyMixerBlock> LoadOneOf(std::type_identity<std::variant<Blocks...>>,
                                        const WeightLoader& loader, const MixerSpec& spec, ThreadPool& pool) {
  static_assert(std::same_as<MixerSpec, std::variant<typename Blocks::Spec...>>,
                "each mixer of models/mixers has its block, in the same order");
  std::optional<absl::StatusOr<AnyMixerBlock>> loaded;
  const auto load_if_own = [&]<typename Block>(std::type_identity<Block>) {
    if (const auto* own = std::get_if<typename Block::Spec>(&spec)) loaded = Block::Load(loader, *own, pool);
  };
  (load_if_own(std::type_identity<Blocks>()), ...);
  SHOAL_CHECK(loaded.has_value());
  return *std::move(loaded);
}

}  // namespace

absl::StatusOr<AnyMixerBlock> LoadMixer(const WeightLoader& loader, const MixerSpec& spec, ThreadPool& pool) {
  return LoadOneOf(std::type_identity<AnyMixerBlock>(), loader, spec, pool);
}

}  // namespace shoal
