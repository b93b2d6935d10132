// Ids in the order of their last use, without allocation: a doubly linked list through an array.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"

namespace shoal {

/// Some of the ids [0, count), each at most once.
class RecencyList {
 public:
  static constexpr int32_t kNone = -1;

  explicit RecencyList(int32_t count) : links_(static_cast<size_t>(count) + 1) {
    links_.back() = {count, count};  // The last entry closes the ring: oldest behind it, newest before it.
  }

  int32_t size() const { return size_; }
  bool contains(int32_t id) const { return at(id).newer != kNone; }
  /// kNone where there is no other.
  int32_t oldest() const { return newer(end()); }
  int32_t newer(int32_t id) const { return at(id).newer == end() ? kNone : at(id).newer; }
  int32_t newest() const { return older(end()); }
  int32_t older(int32_t id) const { return at(id).older == end() ? kNone : at(id).older; }

  void add_newest(int32_t id) { link(id, end()); }
  void add_oldest(int32_t id) { link(id, at(end()).newer); }
  void remove(int32_t id) {
    SHOAL_CHECK(id != end() && contains(id));
    at(at(id).older).newer = at(id).newer;
    at(at(id).newer).older = at(id).older;
    at(id) = {};
    --size_;
  }

 private:
  struct Link {
    int32_t older = kNone;
    int32_t newer = kNone;
  };

  int32_t end() const { return static_cast<int32_t>(links_.size()) - 1; }
  Link& at(int32_t id) { return links_[static_cast<size_t>(id)]; }
  const Link& at(int32_t id) const { return links_[static_cast<size_t>(id)]; }
  void link(int32_t id, int32_t before) {
    SHOAL_CHECK(id != end() && !contains(id));
    const int32_t older = at(before).older;
    at(id) = {older, before};
    at(before).older = id;
    at(older).newer = id;
    ++size_;
  }

  std::vector<Link> links_;
  int32_t size_ = 0;
};

}  // namespace shoal
