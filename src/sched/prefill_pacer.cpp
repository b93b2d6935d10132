#include "sched/prefill_pacer.h"

#include <algorithm>
#include <map>

namespace shoal {
namespace {

/// So many rows of prompts go into a step whatever they cost, or a target below the time of the decodes alone would
/// stop all prompts. They fill the 16 rows of a matrix unit's tile.
constexpr int64_t kRowsMin = 16;

/// Wishes of one party, in their order.
struct PartyWishes {
  std::string_view name;
  std::vector<size_t> indices;
  size_t next = 0;  // The first that is not served in full.
};

/// One pass over the parties; false if nothing was given.
bool Serve(std::span<const PrefillWish> wishes, std::vector<PartyWishes>& parties, PrefillBudget& budget,
           std::vector<int64_t>& rows) {
  auto sharing = std::ranges::count_if(
      parties, [](const PartyWishes& party) { return party.next < party.indices.size(); });
  bool given = false;
  for (PartyWishes& party : parties) {
    if (party.next == party.indices.size()) continue;
    const auto place = [&] { return party.indices[party.next]; };
    const auto position = [&] { return wishes[place()].position + rows[place()]; };
    int64_t share = (budget.rows_at(position()) + sharing - 1) / sharing;
    --sharing;
    while (party.next < party.indices.size()) {
      const PrefillWish& wish = wishes[place()];
      const int64_t granted = std::min({share, wish.rows - rows[place()], budget.rows_at(position())});
      if (granted == 0) break;
      budget.take(position(), granted);
      rows[place()] += granted;
      share -= granted;
      given = true;
      if (rows[place()] == wish.rows) ++party.next;
    }
  }
  return given;
}

}  // namespace

int64_t PrefillBudget::rows_at(int64_t position) const {
  if (model_ == nullptr || rows_ == 0) return rows_;
  return std::min(rows_, std::max(rows_min_, model_->rows_within(ns_, load_, position, rows_)));
}

void PrefillBudget::take(int64_t position, int64_t rows) {
  rows_ -= rows;
  rows_min_ = std::max<int64_t>(0, rows_min_ - rows);
  load_.add_prefill(position, rows);
}

std::vector<int64_t> SharePrefill(std::span<const PrefillWish> wishes, PrefillBudget& budget) {
  std::map<int, std::vector<PartyWishes>> levels;  // Parties by the first of their wishes.
  for (size_t i = 0; i < wishes.size(); ++i) {
    std::vector<PartyWishes>& parties = levels[wishes[i].priority];
    auto party = std::ranges::find(parties, wishes[i].party, &PartyWishes::name);
    if (party == parties.end()) party = parties.insert(parties.end(), {.name = wishes[i].party});
    party->indices.push_back(i);
  }
  std::vector<int64_t> rows(wishes.size());
  for (auto& [priority, parties] : levels) {
    while (Serve(wishes, parties, budget, rows)) {
    }
  }
  return rows;
}

// What the model says of more rows than it has seen beside decodes is a guess: from the least, the budget doubles with
// each step that keeps to the target.
PrefillBudget PrefillPacer::budget(int64_t rows, const StepLoad& load, bool decoding) const {
  if (target_ns_ <= 0 || !decoding) return PrefillBudget(rows);
  const int64_t bounded = std::min(rows, std::max(kRowsMin, 2 * rows_reached_));
  if (!model_.knows_prefill()) return PrefillBudget(bounded);
  return {bounded, kRowsMin, model_, load, target_ns_};
}

void PrefillPacer::observe(const StepLoad& load, std::span<const StageTiming> timings, bool decoding) {
  const double ns = model_.time_ns(timings);
  model_.observe(load, ns);
  if (!decoding || load.prefill_rows == 0) return;
  rows_reached_ = ns > target_ns_ ? std::min(rows_reached_, load.prefill_rows)
                                  : std::max(rows_reached_, load.prefill_rows);
}

}  // namespace shoal
