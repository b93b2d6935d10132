#include "measure/roofline.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/range.h"
#include "base/status.h"
#include "measure/roofline_probes.h"

namespace shoal {
namespace {

/// Seconds until every thread has called work(range) for its range of [0, size).
double Seconds(ThreadPool& pool, int64_t size, absl::FunctionRef<void(Range part)> work) {
  const int64_t begin_ns = NowNs();
  pool.run_ranges(size, 1, work);
  return static_cast<double>(NowNs() - begin_ns) * 1e-9;
}

/// The best rate of all runs within options.budget, in units of `work_per_round` per second.
/// `seconds_of(rounds)` runs that many rounds and returns the seconds they took. Runs grow until they are
/// long enough to count. They keep growing after the first long one, because a short run that was interrupted
/// looks long.
double BestRate(const RooflineOptions& options, double work_per_round,
                absl::FunctionRef<double(int64_t rounds)> seconds_of) {
  const double enough_s = SecondsOf(options.run);
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

/// The fastest probe that kernels of `isa` may use; nullptr if there is none.
const RateProbe* FirstAvailable(std::span<const RateProbe> probes, Isa isa) {
  const auto found = std::find_if(probes.begin(), probes.end(),
                                  [&](const RateProbe& p) { return p.isa <= isa && p.available(); });
  return found == probes.end() ? nullptr : &*found;
}

/// The same, or the slowest available one for the reference, which has no vectors; nullptr if none is available.
const RateProbe* FirstOrSlowest(std::span<const RateProbe> probes, Isa isa) {
  const RateProbe* probe = FirstAvailable(probes, isa);
  for (const RateProbe& other : probes) {
    if (probe == nullptr || probe->isa > isa) probe = other.available() ? &other : probe;
  }
  return probe;
}

/// The rate of all threads, in 1e9 operations per second.
double GigaOps(ThreadPool& pool, const RooflineOptions& options, const RateProbe& probe) {
  const double ops = static_cast<double>(probe.ops_per_round) * pool.threads();
  return 1e-9 * BestRate(options, ops, [&](int64_t rounds) {
           return Seconds(pool, pool.threads(), [&](Range) { probe.run(rounds); });
         });
}

/// The rate of `probe`; nullopt if there is none.
std::optional<double> GigaOps(ThreadPool& pool, const RooflineOptions& options, const RateProbe* probe) {
  return probe == nullptr ? std::nullopt : std::optional(GigaOps(pool, options, *probe));
}

}  // namespace

absl::StatusOr<RooflineMeter> RooflineMeter::Create(int threads, std::vector<int> cpus,
                                                    const RooflineOptions& options) {
  SHOAL_CHECK(options.read_bytes >= kReadStep && options.run.count() > 0);
  if (FirstOrSlowest(Int8Probes(), Isa::kReference) == nullptr ||
      FirstOrSlowest(FmaProbes(), Isa::kReference) == nullptr)
    return FailedPrecondition("roofline: this CPU has neither AVX2 nor better");
  ASSIGN_OR_RETURN(AlignedMemory memory, AlignedMemory::Allocate(options.read_bytes / kReadStep * kReadStep));
  RooflineMeter meter(std::move(cpus), options, std::move(memory));
  // Write each page: pages that were never written all map to one page of zeros.
  meter.with_team(threads, [&meter](ThreadPool& pool) {
    pool.run_ranges(meter.memory_.bytes() / kReadStep, 1, [&meter](Range part) {
      std::memset(meter.memory_.data() + part.begin * kReadStep, 0x5a,
                  static_cast<size_t>(part.size() * kReadStep));
    });
  });
  return meter;
}

/// Runs on a thread of its own, because the thread may be pinned and the caller must not be.
void RooflineMeter::with_team(int threads, absl::FunctionRef<void(ThreadPool& pool)> work) const {
  std::thread([&] {
    ThreadPool pool(threads, cpus_);
    pool.pin_caller();
    work(pool);
  }).join();
}

double RooflineMeter::read_gbs(ThreadPool& pool, const RooflineOptions& options) const {
  const int64_t steps = memory_.bytes() / kReadStep;
  double best = 0;
  for (const ReadProbe& probe : ReadProbes()) {
    if (!probe.available()) continue;
    best = std::max(best, BestRate(options, static_cast<double>(memory_.bytes()), [&](int64_t rounds) {
                      return Seconds(pool, steps, [&](Range part) {
                        for (int64_t i = 0; i < rounds; ++i) {
                          probe.run(memory_.data() + part.begin * kReadStep, part.size() * kReadStep);
                        }
                      });
                    }));
  }
  return best * 1e-9;
}

double RooflineMeter::read_gbs(int threads) const {
  RooflineOptions options = options_;
  options.budget = options_.budget / 3;
  double found = 0;
  with_team(threads, [&](ThreadPool& pool) { found = read_gbs(pool, options); });
  return found;
}

Roofline RooflineMeter::measure(int threads) const {
  Roofline bounds;
  const Isa isa = options_.isa.value_or(SupportedIsas().back());
  with_team(threads, [&](ThreadPool& pool) {
    const RateProbe& int8 = *FirstOrSlowest(Int8Probes(), isa);
    bounds.threads = pool.threads();
    bounds.read_gbs = read_gbs(pool, options_);
    bounds.vnni_gops = GigaOps(pool, options_, int8);
    bounds.vnni_how = int8.how;
    bounds.fma_gflops = GigaOps(pool, options_, *FirstOrSlowest(FmaProbes(), isa));
    bounds.scaled_gops = GigaOps(pool, options_, FirstAvailable(ScaledInt8Probes(), isa));
    if (isa == Isa::kAvx2) bounds.wide_gops = GigaOps(pool, options_, FirstAvailable(WideProbes(), isa));
    bounds.amx_gops = GigaOps(pool, options_, FirstAvailable(TileProbes(), isa));
  });
  return bounds;
}

absl::StatusOr<double> MeasureFirstTouchRate(ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kPageBytes = 4096;  // The smallest page size.
  ASSIGN_OR_RETURN(const AlignedMemory memory, AlignedMemory::Allocate(bytes));
  const double took_s = Seconds(pool, (bytes + kPageBytes - 1) / kPageBytes, [&](Range pages) {
    // Volatile, because the values are never read.
    for (int64_t page = pages.begin; page < pages.end; ++page) {
      *static_cast<volatile std::byte*>(memory.data() + page * kPageBytes) = std::byte{1};
    }
  });
  return 1e-9 * static_cast<double>(bytes) / took_s;
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
      if (bounds.scaled_gops && theirs.scaled_gops) raise(*bounds.scaled_gops, *theirs.scaled_gops);
      if (bounds.wide_gops && theirs.wide_gops) raise(*bounds.wide_gops, *theirs.wide_gops);
      if (bounds.amx_gops && theirs.amx_gops) raise(*bounds.amx_gops, *theirs.amx_gops);
    }
  }
}

}  // namespace shoal
