#include "cpu/roofline.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/range.h"
#include "base/status.h"
#include "cpu/roofline_probes.h"
#include "numeric/memory.h"

namespace shoal {
namespace {

/// Seconds until every thread has called work(part) for its part of [0, size).
double Seconds(ThreadPool& pool, int64_t size, absl::FunctionRef<void(Range part)> work) {
  const int64_t begin_ns = NowNs();
  pool.run_parts(size, 1, work);
  return static_cast<double>(NowNs() - begin_ns) * 1e-9;
}

/// The best rate of a time's worth of runs, in units of `work_per_round` per second. `seconds_of(rounds)`
/// does so many rounds and says how long they took. Runs grow until they are long enough to count; one that
/// was interrupted early on looks long, so growing does not end there.
double BestRate(const RooflineOptions& options, double work_per_round,
                absl::FunctionRef<double(int64_t rounds)> seconds_of) {
  const double enough_s = std::chrono::duration<double>(options.run).count();
  const Deadline end = Deadline::after(options.budget);
  double best = 0;
  for (int64_t rounds = 1; best == 0 || !end.expired();) {
    const double took_s = seconds_of(rounds);
    if (took_s < enough_s) {
      rounds *= 2;
    } else {
      best = std::max(best, static_cast<double>(rounds) / took_s);
    }
  }
  return work_per_round * best;
}

const RateProbe* FirstAvailable(std::span<const RateProbe> probes) {
  const auto found =
      std::find_if(probes.begin(), probes.end(), [](const RateProbe& p) { return p.available(); });
  return found == probes.end() ? nullptr : &*found;
}

/// 1e9 operations per second of all threads.
double GigaOps(ThreadPool& pool, const RooflineOptions& options, const RateProbe& probe) {
  const double ops = static_cast<double>(probe.ops_per_round) * pool.threads();
  return 1e-9 * BestRate(options, ops, [&](int64_t rounds) {
           return Seconds(pool, pool.threads(), [&](Range) { probe.run(rounds); });
         });
}

absl::StatusOr<double> ReadGigabytes(ThreadPool& pool, const RooflineOptions& options) {
  const int64_t steps = std::max<int64_t>(options.read_bytes / kReadStep, pool.threads());
  ASSIGN_OR_RETURN(const AlignedMemory memory, AlignedMemory::Allocate(steps * kReadStep));
  // Written by the threads that will read: pages that were never written are all one page of zeros.
  pool.run_parts(steps, 1, [&](Range part) {
    std::memset(memory.data() + part.begin * kReadStep, 0x5a, static_cast<size_t>(part.size() * kReadStep));
  });
  double best = 0;
  for (const ReadProbe& probe : ReadProbes()) {
    if (!probe.available()) continue;
    best = std::max(best, BestRate(options, static_cast<double>(memory.bytes()), [&](int64_t rounds) {
                      return Seconds(pool, steps, [&](Range part) {
                        for (int64_t i = 0; i < rounds; ++i) {
                          probe.run(memory.data() + part.begin * kReadStep, part.size() * kReadStep);
                        }
                      });
                    }));
  }
  return best * 1e-9;
}

}  // namespace

absl::StatusOr<Roofline> MeasureRoofline(ThreadPool& pool, const RooflineOptions& options) {
  SHOAL_CHECK(options.read_bytes > 0 && options.run.count() > 0);
  const RateProbe* const int8 = FirstAvailable(Int8Probes());
  const RateProbe* const fma = FirstAvailable(FmaProbes());
  if (int8 == nullptr || fma == nullptr)
    return FailedPrecondition("roofline: this CPU has neither AVX2 nor better");
  Roofline bounds;
  bounds.threads = pool.threads();
  ASSIGN_OR_RETURN(bounds.read_gbs, ReadGigabytes(pool, options));
  bounds.vnni_gops = GigaOps(pool, options, *int8);
  bounds.vnni_how = int8->how;
  bounds.fma_gflops = GigaOps(pool, options, *fma);
  if (const RateProbe* const tiles = FirstAvailable(TileProbes())) {
    bounds.amx_gops = GigaOps(pool, options, *tiles);
  }
  return bounds;
}

void Reconcile(std::map<int, Roofline>& by_threads) {
  const std::map<int, Roofline> measured = by_threads;
  for (auto& [threads, bounds] : by_threads) {
    for (const auto& [others, theirs] : measured) {
      const double share = std::min(1.0, static_cast<double>(threads) / others);
      const auto raise = [share](double& ours, double other) { ours = std::max(ours, share * other); };
      raise(bounds.read_gbs, theirs.read_gbs);
      raise(bounds.vnni_gops, theirs.vnni_gops);
      raise(bounds.fma_gflops, theirs.fma_gflops);
      if (bounds.amx_gops && theirs.amx_gops) raise(*bounds.amx_gops, *theirs.amx_gops);
    }
  }
}

}  // namespace shoal
