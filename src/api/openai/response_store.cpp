#include "api/openai/response_store.h"

#include <iterator>
#include <utility>

namespace shoal {

size_t ResponseStore::Bytes(const Order::value_type& one) {
  return one.first.size() + one.second.body.size() + one.second.messages.size();
}

void ResponseStore::drop(Order::iterator one) {
  bytes_ -= Bytes(*one);
  by_id_.erase(one->first);
  order_.erase(one);
}

void ResponseStore::put(const std::string& id, Entry entry) {
  const std::lock_guard lock(mutex_);
  if (const auto old = by_id_.find(id); old != by_id_.end()) drop(old->second);
  order_.emplace_front(id, std::move(entry));
  by_id_[id] = order_.begin();
  bytes_ += Bytes(order_.front());
  while (order_.size() > entries_max_ || bytes_ > bytes_max_) drop(std::prev(order_.end()));
}

std::optional<ResponseStore::Entry> ResponseStore::get(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return std::nullopt;
  order_.splice(order_.begin(), order_, found->second);
  return found->second->second;
}

bool ResponseStore::erase(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  drop(found->second);
  return true;
}

}  // namespace shoal
