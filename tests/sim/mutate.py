#!/usr/bin/env python3
"""Plants faults in copies of sources, for the simulation's own build: each is off until a run asks for it by name.

    mutate.py OUT FILE...    writes OUT/FILE, for sources FILE as the repository names them

A fault that does not fit its source any more, as the source was changed, ends the build: mend MUTATIONS here.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Name, source, what stands there once, and what takes its place: ON says whether the fault is planted in this run.
MUTATIONS = [
    ("stale_epoch_accepted", "src/exec/node_session.cpp",
     "if (frame.header.epoch != options_.plan.epoch) {",
     "if (frame.header.epoch != options_.plan.epoch && !ON) {"),
    ("failed_step_does_not_fail_later_ones", "src/exec/node_session.cpp",
     "  failed_step_ = step;\n",
     "  if (ON) return;\n  failed_step_ = step;\n"),
    ("no_heartbeat_within_a_layer", "src/exec/executor.cpp",
     "  for (const auto& [task, pulse] : pulses_) pulse.beat();\n",
     "  if (ON) return;\n  for (const auto& [task, pulse] : pulses_) pulse.beat();\n"),
    ("silence_counted_while_nobody_looks", "src/exec/liveness.cpp",
     "std::clamp<Duration>(now - *last_, Duration::zero(), pause_max_)",
     "(ON ? Duration(now - *last_) : std::clamp<Duration>(now - *last_, Duration::zero(), pause_max_))"),
    ("result_delivered_twice", "src/exec/pipeline_engine.cpp",
     "  done(std::move(result));\n",
     "  if (ON) done(result);\n  done(std::move(result));\n"),
    ("rows_of_a_lost_owner_dropped", "src/exec/planned_exchange.cpp",
     "  for (const ExpertCall& call : calls) give(rows[static_cast<size_t>(call.row)], call, first);\n",
     "  for (const ExpertCall& call : calls) {\n    if (!ON) give(rows[static_cast<size_t>(call.row)], call, first);\n  }\n"),
    ("token_counted_twice_on_resumption", "src/compute/token_history.cpp",
     "tokens.subspan(same)",
     "tokens.subspan(ON && prompt_tokens_ < static_cast<int64_t>(tokens_.size()) ? 0 : same)"),
    ("missing_copies_not_told", "src/sched/cache_ledger.cpp",
     "      if (std::ranges::binary_search(missing, one.entry)) continue;\n",
     "      if (!ON && std::ranges::binary_search(missing, one.entry)) continue;\n"),
    ("block_freed_twice", "src/sched/cache_ledger.cpp",
     "  prefixes_->give_back(blocks, standing.shared);\n",
     "  prefixes_->give_back(blocks, standing.shared);\n  if (ON && blocks.size() > 3) pool_.release({blocks.back()});\n"),
    ("prefix_block_with_a_wrong_key", "src/sched/prefix_cache.cpp",
     "std::memcmp(a.data(), b.data(), kBlockPositions * sizeof(int32_t))",
     "std::memcmp(a.data(), b.data(), kBlockPositions * sizeof(int32_t) / (ON ? 2 : 1))"),
    ("prefix_block_used_after_eviction", "src/sched/prefix_cache.cpp",
     "    remove(place);\n    freed",
     "    if (ON) unused_.remove(place.value);\n    else remove(place);\n    freed"),
    ("sequence_lost_on_requeue", "src/sched/batch_planner.cpp",
     "      waiting_.insert(sequence);\n      ++restarts_;\n",
     "      if (!ON) waiting_.insert(sequence);\n      ++restarts_;\n"),
    ("cancel_leaks_blocks", "src/sched/batch_planner.cpp",
     "  caches_.take_back(*sequence);\n  sequences_.erase(id);\n",
     "  if (!ON) caches_.take_back(*sequence);\n  sequences_.erase(id);\n"),
    ("wrong_draft_accepted", "src/sched/batch_planner.cpp",
     "  return std::min<int64_t>(std::ssize(tokens), static_cast<int64_t>(right) + 1);\n",
     "  return ON ? std::ssize(tokens) : std::min<int64_t>(std::ssize(tokens), static_cast<int64_t>(right) + 1);\n"),
]


def mutated(source):
    text = (ROOT / source).read_text(encoding="utf-8")
    for name, where, old, new in MUTATIONS:
        if where != source:
            continue
        if text.count(old) != 1:
            sys.exit(f"tests/sim/mutate.py: the fault '{name}' does not fit {source} any more: what it replaces is there "
                     f"{text.count(old)} times, expected once. It was:\n{old}")
        text = text.replace(old, new.replace("ON", f'::shoal::sim::Mutated("{name}")'))
    return f'#include "{ROOT}/tests/sim/mutation.h"\n#line 1 "{ROOT / source}"\n{text}'


def main():
    out = Path(sys.argv[1])
    for source in sys.argv[2:]:
        path = out / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(mutated(source), encoding="utf-8")


if __name__ == "__main__":
    main()
