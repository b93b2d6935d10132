// The latest responses, for requests that go on from one.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace shoal {

/// Bounded in number and bytes; what was used last stays longest. From any thread.
class ResponseStore {
 public:
  struct Entry {
    std::string body;      ///< The response as JSON.
    std::string messages;  ///< The conversation up to and with it, as JSON.
  };

  ResponseStore(size_t entries_max, size_t bytes_max) : entries_max_(entries_max), bytes_max_(bytes_max) {}

  /// An entry that is too large on its own is not kept.
  void put(const std::string& id, Entry entry);
  std::optional<Entry> get(const std::string& id);
  /// False if there is none.
  bool erase(const std::string& id);

 private:
  using Order = std::list<std::pair<std::string, Entry>>;

  static size_t Bytes(const Order::value_type& one);
  void drop(Order::iterator one);

  const size_t entries_max_;
  const size_t bytes_max_;
  std::mutex mutex_;
  Order order_;  // The one used last is first.
  std::unordered_map<std::string, Order::iterator> by_id_;
  size_t bytes_ = 0;
};

}  // namespace shoal
