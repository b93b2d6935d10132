#include "kv/block_pool.h"

#include <algorithm>
#include <functional>
#include <type_traits>

#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

template <typename Id>
constexpr const char* kOne = std::is_same_v<Id, BlockId> ? "block" : "state slot";

}  // namespace

template <typename Id>
IdPool<Id>::IdPool(int total) {
  SHOAL_CHECK_GE(total, 0);
  references_.resize(static_cast<size_t>(total));
  free_.reserve(static_cast<size_t>(total));
  for (int id = total - 1; id >= 0; --id) free_.push_back(Id{id});  // Taken from the back, lowest first.
}

template <typename Id>
absl::StatusOr<std::vector<Id>> IdPool<Id>::allocate(int count) {
  SHOAL_CHECK_GE(count, 0);
  if (count > free_count()) {
    return ResourceExhausted("kv: {} {}s wanted, {} of {} free", count, kOne<Id>, free_count(), total());
  }
  std::vector<Id> ids(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - static_cast<size_t>(count));
  for (const Id id : ids) references_[static_cast<size_t>(id.value)] = 1;
  return ids;
}

template <typename Id>
void IdPool<Id>::claim(const std::vector<Id>& ids) {
  for (const Id id : ids) {
    SHOAL_CHECK_EQ(references(id), 0);
    references_[static_cast<size_t>(id.value)] = 1;
  }
  std::erase_if(free_, [this](Id id) { return references(id) > 0; });
}

template <typename Id>
void IdPool<Id>::share(Id id) {
  SHOAL_CHECK_GE(references(id), 1);
  ++references_[static_cast<size_t>(id.value)];
}

template <typename Id>
void IdPool<Id>::release(const std::vector<Id>& ids) {
  const size_t before = free_.size();
  for (const Id id : ids) {
    SHOAL_CHECK_GE(references(id), 1);
    if (--references_[static_cast<size_t>(id.value)] == 0) free_.push_back(id);
  }
  // Lowest ids first keeps the touched memory of the cache small.
  const auto middle = free_.begin() + static_cast<std::ptrdiff_t>(before);
  std::sort(middle, free_.end(), std::greater<>());
  std::inplace_merge(free_.begin(), middle, free_.end(), std::greater<>());
}

template <typename Id>
int IdPool<Id>::references(Id id) const {
  SHOAL_CHECK(id.value >= 0 && id.value < total());
  return references_[static_cast<size_t>(id.value)];
}

template <typename Id>
absl::Status IdPool<Id>::verify() const {
  std::vector<bool> seen(references_.size(), false);
  for (const Id id : free_) {
    if (id.value < 0 || id.value >= total()) {
      return Internal("kv: the free list holds {} {}, but there are {}", kOne<Id>, id, total());
    }
    const auto at = static_cast<size_t>(id.value);
    if (references_[at] != 0) return Internal("kv: {} {} is free and in use", kOne<Id>, id);
    if (seen[at]) return Internal("kv: {} {} is free twice", kOne<Id>, id);
    seen[at] = true;
  }
  for (size_t at = 0; at < references_.size(); ++at) {
    if (references_[at] < 0 || (references_[at] == 0 && !seen[at])) {
      return Internal("kv: {} {} is neither free nor in use ({} owners)", kOne<Id>, at, references_[at]);
    }
  }
  return absl::OkStatus();
}

template class IdPool<BlockId>;
template class IdPool<SlotId>;

}  // namespace shoal
