#include "exec/kv_tier.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "numeric/cache_shape.h"

namespace shoal {

KvTier::KvTier(Options options)
    : options_(std::move(options)),
      share_(ShareKey(options_.identity, options_.layers.begin, options_.layers.end)) {
  if (options_.store == nullptr) return;
  mailbox_ = std::make_shared<DiskMailbox>(share_, options_.wake);
  options_.store->subscribe(mailbox_);
}

KvTier::~KvTier() {
  if (mailbox_ != nullptr) mailbox_->close();
}

// The blocks in order, then the states.
std::vector<KvTier::Part> KvTier::parts_of(const StoredRun& run) const {
  std::vector<BlockKey> keys;
  BlockKey key = run.root;
  for (auto tokens = std::span(run.tokens); !tokens.empty(); tokens = tokens.subspan(kBlockPositions)) {
    key = KeyAfter(key, tokens.first(kBlockPositions));
    keys.push_back(key);
  }
  const auto id_of = [&](size_t block) {
    return ImageId{options_.identity, keys[block], static_cast<int32_t>((block + 1) * kBlockPositions)};
  };
  std::vector<Part> parts;
  const size_t first = keys.size() - run.blocks.size();
  for (size_t i = 0; i < run.blocks.size(); ++i) {
    parts.push_back({keys[first + i], run.blocks[i], id_of(first + i)});
  }
  for (const StateWrite& state : run.states) {
    const auto block = static_cast<size_t>(state.position / kBlockPositions - 1);
    parts.push_back({StateKey(keys[block]), state.slot, id_of(block)});
  }
  return parts;
}

void KvTier::begin_step(const Step& step) {
  if (options_.store != nullptr) {
    for (const StoredRun& run : step.saves) save(run);
  }
  for (const StoredRun& run : step.restores) begin_restore(run);
}

void KvTier::save(const StoredRun& run) {
  for (const Part& part : parts_of(run)) {
    const RecordName name{share_, part.record};
    if (options_.store->contains(name)) continue;
    const auto tokens = std::span(run.tokens).first(static_cast<size_t>(part.id.position));
    std::vector<std::byte> record = BeginRecord(tokens);
    const absl::Status exported = options_.compute->export_cached(part.place, part.id, record);
    if (!exported.ok()) {
      complaints_.warn(fmt::format("kv disk: a block is not kept: {}", Message(exported)));
      continue;
    }
    (void)options_.store->save(name, tokens.size(), std::move(record));
  }
}

void KvTier::begin_restore(const StoredRun& run) {
  if (options_.store == nullptr) {
    outcomes_.push_back({.id = run.id});
    return;
  }
  Restore restore{.sequence = run.id,
                  .parts = parts_of(run),
                  .blocks = run.blocks.size(),
                  .begun_ns = NowNs(),
                  .deadline = Deadline::after(options_.restore_timeout)};
  LoadOrder order{.id = next_order_++, .tokens = run.tokens};
  for (const Part& part : restore.parts) {
    order.records.push_back({part.record, static_cast<size_t>(part.id.position)});
  }
  restores_.emplace(order.id, std::move(restore));
  options_.store->load(mailbox_, std::move(order));
}

void KvTier::import(const DiskMailbox::Loaded& loaded) {
  const auto found = restores_.find(loaded.order);
  if (found == restores_.end()) return;  // It was too late.
  Restore& restore = found->second;
  if (loaded.index != restore.done || loaded.index >= restore.parts.size())
    return;  // One before it was refused.
  const Part& part = restore.parts[loaded.index];
  const absl::Status imported = options_.compute->import_cached(
      part.place, part.id, std::span(loaded.record).subspan(loaded.images_begin));
  if (!imported.ok()) return options_.store->discard({share_, part.record}, imported);
  ++restore.done;
  restore.bytes += std::ssize(loaded.record);
}

void KvTier::end_restore(uint64_t order) {
  const auto found = restores_.find(order);
  if (found == restores_.end()) return;
  const Restore& restore = found->second;
  outcomes_.push_back({.id = restore.sequence,
                       .blocks = static_cast<int32_t>(std::min(restore.done, restore.blocks)),
                       .state = restore.done > restore.blocks,
                       .bytes = restore.bytes,
                       .ns = NowNs() - restore.begun_ns});
  restores_.erase(found);
}

void KvTier::end_late_restores() {
  while (!restores_.empty() && restores_.begin()->second.deadline.expired()) {  // The oldest expires first.
    complaints_.warn(fmt::format("kv disk: {} took longer than {} s to read; the rest is computed",
                                 options_.store->folder(),
                                 options_.restore_timeout / std::chrono::seconds(1)));
    end_restore(restores_.begin()->first);
  }
}

void KvTier::tell_changes(KvReport& report) {
  if (std::exchange(restart_, false)) {
    report.restart = true;
    changes_.clear();
    if (mailbox_ != nullptr) {
      for (const BlockKey& key : options_.store->keys(*mailbox_)) changes_.push_back({key, true});
    }
  }
  const auto told = changes_.begin() + static_cast<std::ptrdiff_t>(std::min(changes_.size(), kKvChangesMax));
  report.changes.assign(changes_.begin(), told);
  changes_.erase(changes_.begin(), told);
}

std::optional<KvReport> KvTier::take_report() {
  if (mailbox_ != nullptr && mailbox_->has_news()) {
    const DiskMailbox::News news = mailbox_->take();
    changes_.insert(changes_.end(), news.changes.begin(), news.changes.end());
    for (const DiskMailbox::Loaded& loaded : news.loaded) import(loaded);
    for (const uint64_t order : news.ended) end_restore(order);
  }
  end_late_restores();
  if (!restart_ && changes_.empty() && outcomes_.empty()) return std::nullopt;
  KvReport report{.active = options_.store != nullptr};
  tell_changes(report);
  report.restored = std::exchange(outcomes_, {});
  if (options_.store != nullptr) {
    const DiskStore::Stats stats = options_.store->stats();
    report.bytes = stats.bytes;
    report.dropped = stats.dropped;
    report.errors = stats.errors;
  }
  return report;
}

}  // namespace shoal
