#include "compute/expert_tier.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/process.h"
#include "base/status.h"
#include "numeric/memory.h"

namespace shoal {
namespace {

/// Guesses may hold this part of the slots.
constexpr int64_t kAheadPart = 4;
/// When each expert was wanted so often, on average, counts are halved: what was popular an hour ago counts little.
constexpr int64_t kUsesKept = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<ExpertTier>> ExpertTier::Create(Options options) {
  SHOAL_CHECK(options.slots >= 1 && options.experts >= 1 && options.slot_bytes % 64 == 0);
  std::unique_ptr<ExpertTier> tier(new ExpertTier(std::move(options)));
  const Options& of = tier->options_;
  ASSIGN_OR_RETURN(std::shared_ptr<std::byte> memory, SharedMemory(of.slots * of.slot_bytes));
  tier->slots_.resize(static_cast<size_t>(of.slots));
  for (size_t i = 0; i < tier->slots_.size(); ++i) {
    tier->slots_[i].memory =
        std::shared_ptr<std::byte>(memory, memory.get() + static_cast<int64_t>(i) * of.slot_bytes);
  }
  tier->experts_.resize(static_cast<size_t>(of.experts));
  for (std::vector<int32_t>* list : {&tier->wanted_queue_, &tier->ahead_queue_, &tier->expected_}) {
    list->reserve(tier->slots_.size());
  }
  tier->counted_.reserve(tier->slots_.size());
  tier->stats_.resident_bytes = of.slots * of.slot_bytes;
  RETURN_IF_ERROR(tier->start_readers(of.readers));
  return tier;
}

ExpertTier::~ExpertTier() { stop_readers(); }

void ExpertTier::stop_readers() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  to_read_.notify_all();
  for (std::thread& reader : readers_) reader.join();
  readers_.clear();
}

absl::Status ExpertTier::start_readers(int readers) {
  stop_readers();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = false;
  }
  try {
    for (int i = 0; i < readers; ++i) readers_.emplace_back([this] { serve(); });
  } catch (const std::system_error& error) {
    return ResourceExhausted("no thread to read experts with: {}", error.what());
  }
  return absl::OkStatus();
}

ExpertTierStats ExpertTier::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

ExpertTier::Slot* ExpertTier::slot_of(int64_t expert) {
  const int32_t slot = experts_[static_cast<size_t>(expert)].slot;
  return slot < 0 ? nullptr : &slots_[static_cast<size_t>(slot)];
}

/// The same without a read that failed for a step that is over: it is tried again.
ExpertTier::Slot* ExpertTier::live_slot_of(int64_t expert) {
  Slot* const slot = slot_of(expert);
  if (slot == nullptr || slot->state != State::kFailed || slot->pins > 0 || slot->expected) return slot;
  empty(*slot);
  return nullptr;
}

void ExpertTier::count_use(int64_t expert) {
  Expert& of = experts_[static_cast<size_t>(expert)];
  ++of.uses;
  of.used_at = ++clock_;
  if (++uses_ < kUsesKept * std::ssize(experts_)) return;
  uses_ = 0;
  for (Expert& each : experts_) uses_ += each.uses /= 2;
}

/// slot: where the expert lies that somebody wants, once for each step; nullptr: nowhere.
void ExpertTier::count_wanted(Slot* slot) {
  ++(slot != nullptr && slot->state == State::kReady ? stats_.hits : stats_.misses);
  if (slot == nullptr || !std::exchange(slot->ahead, false)) return;
  slot->guessed = false;
  ++stats_.ahead_used;
}

ExpertTier::Slot* ExpertTier::make_room(bool for_guess) {
  int64_t guesses = 0;
  Slot* best = nullptr;
  const auto before = [this](const Slot& a, const Slot& b) {
    if (a.guessed != b.guessed) return b.guessed;  // It was read for nothing else than what comes next.
    const Expert& x = experts_[static_cast<size_t>(a.expert)];
    const Expert& y = experts_[static_cast<size_t>(b.expert)];
    return x.uses != y.uses ? x.uses < y.uses : x.used_at < y.used_at;
  };
  for (Slot& slot : slots_) {
    guesses += slot.guessed ? 1 : 0;
    if (slot.state == State::kFailed && slot.pins == 0 && !slot.expected) empty(slot);
    if (slot.state == State::kFree) {
      if (best == nullptr || best->state != State::kFree) best = &slot;
      continue;
    }
    if (slot.state != State::kReady || slot.pins > 0 || slot.expected || (for_guess && slot.guessed))
      continue;
    if (best == nullptr || (best->state != State::kFree && before(slot, *best))) best = &slot;
  }
  if (for_guess && guesses >= std::ssize(slots_) / kAheadPart) return nullptr;
  if (best != nullptr && best->state != State::kFree) empty(*best);
  return best;
}

void ExpertTier::empty(Slot& slot) {
  experts_[static_cast<size_t>(slot.expert)].slot = -1;
  if (slot.ahead) ++stats_.ahead_wasted;
  slot.expert = -1;
  slot.state = State::kFree;
  slot.expected = slot.ahead = slot.guessed = false;
  slot.status = absl::OkStatus();
}

void ExpertTier::begin_read(Slot& slot, int64_t expert, bool guess) {
  const auto index = static_cast<int32_t>(&slot - slots_.data());
  experts_[static_cast<size_t>(expert)].slot = index;
  slot.expert = expert;
  slot.state = State::kQueued;
  slot.ahead = slot.guessed = guess;
  stats_.ahead += guess ? 1 : 0;
  options_.place(expert, slot.memory);
  (guess ? ahead_queue_ : wanted_queue_).push_back(index);
  to_read_.notify_one();
}

/// A guess that is waited for goes before other guesses.
void ExpertTier::promote(Slot& slot) {
  if (slot.state != State::kQueued) return;
  const auto index = static_cast<int32_t>(&slot - slots_.data());
  if (std::erase(ahead_queue_, index) > 0) wanted_queue_.push_back(index);
}

void ExpertTier::clear_expected() {
  for (const int32_t index : expected_) slots_[static_cast<size_t>(index)].expected = false;
  expected_.clear();
}

void ExpertTier::clear_counted() {
  for (const int64_t expert : counted_) experts_[static_cast<size_t>(expert)].counted = false;
  counted_.clear();
}

void ExpertTier::expect(std::span<const int64_t> experts) {
  const std::lock_guard lock(mutex_);
  clear_expected();
  clear_counted();  // Of a step that failed.
  // Those that are here first: room is made at the cost of others.
  for (const bool here : {true, false}) {
    for (const int64_t expert : experts) {
      Slot* slot = live_slot_of(expert);
      if (slot != nullptr && slot->expected) continue;
      if ((slot != nullptr) != here) continue;
      if (slot == nullptr) {
        slot = make_room(false);
        if (slot == nullptr) return;
        count_wanted(nullptr);
        begin_read(*slot, expert, false);
      } else {
        count_wanted(slot);
        promote(*slot);
      }
      slot->expected = true;
      expected_.push_back(static_cast<int32_t>(slot - slots_.data()));
      experts_[static_cast<size_t>(expert)].counted = true;
      counted_.push_back(expert);
    }
  }
}

void ExpertTier::read_ahead(std::span<const int64_t> experts) {
  const std::lock_guard lock(mutex_);
  for (Slot& slot : slots_) slot.guessed = false;
  for (const int64_t expert : experts) {
    Slot* slot = live_slot_of(expert);
    if (slot != nullptr) {
      slot->guessed = slot->ahead;
      continue;
    }
    slot = make_room(true);
    if (slot == nullptr) return;
    begin_read(*slot, expert, true);
  }
}

absl::Status ExpertTier::warm(std::span<const int64_t> experts, const std::function<bool()>& cancelled) {
  std::unique_lock lock(mutex_);
  experts = experts.first(std::min(experts.size(), slots_.size()));
  for (const int64_t expert : experts) {
    if (slot_of(expert) == nullptr) begin_read(*make_room(false), expert, false);
  }
  const auto pending = [this] {
    return std::ranges::any_of(slots_, [](const Slot& slot) {
      return slot.state == State::kQueued || slot.state == State::kReading;
    });
  };
  absl::Status status;
  while (true) {
    if (cancelled) {  // It may take other locks.
      lock.unlock();
      const bool ended = cancelled();
      lock.lock();
      if (ended) return Cancelled("loading weights: it was ended");
    }
    if (!pending()) break;
    if (changed_.wait_for(lock, options_.read_max) == std::cv_status::timeout) {
      return DeadlineExceeded("experts: no read ended for {} s: the disk does not answer",
                              options_.read_max / std::chrono::seconds(1));
    }
  }
  for (Slot& slot : slots_) {
    if (slot.state != State::kFailed) continue;
    if (status.ok()) status = slot.status;
    empty(slot);
  }
  return status;
}

void ExpertTier::unpin(Slot& slot) {
  --slot.pins;
  if (slot.pins > 0) return;
  if (slot.state == State::kFailed) empty(slot);
}

/// Takes hold of what is here, or on its way, and has the rest read as far as there is room.
void ExpertTier::pin_wanted(Call& call, bool first) {
  const auto pin = [&](size_t i, Slot& slot) {
    ++slot.pins;
    call.stage[i] = kPinned;
    promote(slot);
  };
  for (size_t i = 0; i < call.experts.size(); ++i) {
    if (call.stage[i] != kWanted) continue;
    Slot* slot = live_slot_of(call.experts[i]);
    if (first) {
      count_use(call.experts[i]);
      // The place may be another's by now: what was served in between ends what is expected, but not what is counted.
      if (!std::exchange(experts_[static_cast<size_t>(call.experts[i])].counted, false)) count_wanted(slot);
    }
    if (slot != nullptr) pin(i, *slot);
  }
  if (first) clear_expected();
  for (size_t i = 0; i < call.experts.size(); ++i) {
    if (call.stage[i] != kWanted) continue;
    Slot* slot = live_slot_of(call.experts[i]);  // Another call may have asked for it meanwhile.
    if (slot == nullptr) {
      slot = make_room(false);
      if (slot == nullptr) return;
      begin_read(*slot, call.experts[i], false);
    }
    pin(i, *slot);
  }
}

/// Lists in call.group what can be computed now.
absl::StatusOr<int64_t> ExpertTier::collect(Call& call) {
  int64_t count = 0;
  for (size_t i = 0; i < call.experts.size(); ++i) {
    if (call.stage[i] != kPinned) continue;
    const Slot& slot = *slot_of(call.experts[i]);
    if (slot.state == State::kFailed) return slot.status;
    if (slot.state == State::kReady) call.group[static_cast<size_t>(count++)] = static_cast<int64_t>(i);
  }
  return count;
}

absl::Status ExpertTier::run(std::unique_lock<std::mutex>& lock, Call& call,
                             absl::FunctionRef<absl::Status(std::span<const int64_t> which)> compute) {
  for (bool first = true; call.left > 0; first = false) {
    pin_wanted(call, first);
    ASSIGN_OR_RETURN(const int64_t ready, collect(call));
    if (ready == 0) {
      const int64_t began_ns = NowNs();
      const bool timed_out = changed_.wait_for(lock, options_.read_max) == std::cv_status::timeout;
      stats_.wait_ns += NowNs() - began_ns;
      if (!timed_out) continue;
      const auto waits = std::ranges::find_if(call.stage, [](uint8_t stage) { return stage != kDone; });
      return DeadlineExceeded("{}: not read within {} s: the disk that it is on does not answer",
                              options_.name(call.experts[static_cast<size_t>(waits - call.stage.begin())]),
                              options_.read_max / std::chrono::seconds(1));
    }
    const std::span<const int64_t> group = call.group.first(static_cast<size_t>(ready));
    lock.unlock();
    const absl::Status computed = compute(group);
    lock.lock();
    RETURN_IF_ERROR(computed);
    for (const int64_t i : group) {
      unpin(*slot_of(call.experts[static_cast<size_t>(i)]));
      call.stage[static_cast<size_t>(i)] = kDone;
    }
    call.left -= ready;
    changed_.notify_all();  // Another call may wait for room.
  }
  return absl::OkStatus();
}

absl::Status ExpertTier::with(Arena& arena, std::span<const int64_t> experts,
                              absl::FunctionRef<absl::Status(std::span<const int64_t> which)> compute) {
  const ArenaScope scope(arena);
  const auto count = std::ssize(experts);
  Call call{.experts = experts,
            .stage = arena.allocate<uint8_t>(count),
            .group = arena.allocate<int64_t>(count),
            .left = count};
  std::ranges::fill(call.stage, kWanted);
  std::unique_lock lock(mutex_);
  const absl::Status status = run(lock, call, compute);
  if (status.ok()) return status;
  for (size_t i = 0; i < experts.size(); ++i) {
    if (call.stage[i] == kPinned) unpin(*slot_of(experts[i]));
  }
  changed_.notify_all();
  return status;
}

void ExpertTier::serve() {
  NameThread("experts");
  std::unique_lock lock(mutex_);
  while (true) {
    to_read_.wait(lock, [this] { return stopping_ || !wanted_queue_.empty() || !ahead_queue_.empty(); });
    if (stopping_) return;
    std::vector<int32_t>& queue = wanted_queue_.empty() ? ahead_queue_ : wanted_queue_;
    Slot& slot = slots_[static_cast<size_t>(queue.front())];
    queue.erase(queue.begin());
    slot.state = State::kReading;
    const int64_t expert = slot.expert;
    std::byte* const memory = slot.memory.get();
    lock.unlock();
    const absl::StatusOr<Loaded> loaded = options_.read(expert, memory);
    lock.lock();
    if (loaded.ok()) {
      slot.state = State::kReady;
      stats_.bytes_read += loaded->bytes;
      stats_.packed_again += loaded->packed_again ? 1 : 0;
    } else {
      slot.state = State::kFailed;
      slot.status = loaded.status();
      if (slot.pins == 0 && !slot.expected && slot.ahead) empty(slot);  // Nobody asked for it.
    }
    changed_.notify_all();
  }
}

}  // namespace shoal
