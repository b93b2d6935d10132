// The backend of the machine's CPUs: our kernels on a team of threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compute/backend.h"
#include "cpu/pool.h"
#include "kernels/kernels.h"

namespace shoal {

class CpuBackend final : public Backend {
 public:
  struct Options {
    Isa isa = Isa::kReference;  ///< One that this CPU has (CHECKed).
    int threads = 1;
    std::vector<int> cpus;  ///< As for ThreadPool.
  };
  explicit CpuBackend(Options options);

  /// CpuNumericsClass(), whatever the instruction set: all kernels give the bits of reference.cpp.
  std::string numerics_class() const override;
  BackendLimits limits() const override;
  bool takes(const PackedFormat& format) const override;
  /// Has the thread stay on worker 0's CPU.
  void enter_thread() override { pool_.pin_caller(); }
  absl::StatusOr<std::unique_ptr<BackendModel>> load(const BackendLoad& load) override;

 private:
  const Kernels& kernels_;
  ThreadPool pool_;
};

}  // namespace shoal
